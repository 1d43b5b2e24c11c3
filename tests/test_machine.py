"""What this machine is asked for, and given back."""

import ctypes
import subprocess
import sys

import pytest

TORN = """
import resource
from pathlib import Path
from wsiseg.machine import hand_back_memory

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

pieces = [bytes(100_000) for _ in range(2000)]
del pieces[::100]  # the rest is freed but for what lies between these
kept, pieces = pieces[::100], None
before = resident_mb()
hand_back_memory()
print(before - resident_mb())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc's malloc"
)
def test_what_was_freed_between_what_is_kept_goes_back_to_the_system() -> None:
    said = subprocess.run([sys.executable, "-c", TORN], capture_output=True, text=True, check=True).stdout
    assert float(said) > 100
