"""What this machine is asked for, and given back."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsiseg.machine import cores, visible_gpus

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


@pytest.mark.parametrize(
    ("said", "count"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("1600000 100000", 8)]
)
def test_a_container_has_the_cores_that_it_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, count: int
) -> None:
    (tmp_path / "cpu.max").write_text(f"{said}\n")
    monkeypatch.setattr("wsiseg.machine.QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores() == count
    monkeypatch.setattr("wsiseg.machine.QUOTA", tmp_path / "none")
    assert cores() == 8


@pytest.mark.parametrize(
    ("said", "cards"), [("-1", []), ("", []), ("1,0", ["1", "0"]), ("0,-1,2", ["0"]), ("GPU-5a", ["GPU-5a"])]
)
def test_cards_are_those_before_the_first_that_is_none(
    monkeypatch: pytest.MonkeyPatch, said: str, cards: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert visible_gpus() == cards
