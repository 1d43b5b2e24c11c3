"""What this machine has to offer: cores and graphics cards, told without loading torch."""

import ctypes
import itertools
import math
import os
import platform
from importlib.util import find_spec
from pathlib import Path

__all__ = ["cores", "gpu_name", "hand_back_memory", "processor_name", "takes_openvino", "visible_gpus"]

_ASKED = itertools.count()
DRIVER = Path("/proc/driver/nvidia/gpus")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's share of the processor: microseconds in so many, or ``max`` (Linux, cgroup v2)."""


def cores() -> int:
    """The CPU cores that this process may use: ``OMP_NUM_THREADS``, or affinity and a container's share."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = QUOTA.read_text().split() if QUOTA.is_file() else ["max"]
    return count if share[0] == "max" else max(1, min(count, math.ceil(int(share[0]) / int(share[1]))))


def hand_back_memory(*, every: int = 1) -> None:
    """Give the system what has been freed: glibc keeps it, torn to pieces by many threads' large arrays.

    With ``every``, only one call in so many of this process does it, for what is handed back costs time to
    get again. Does nothing where the C library is another (``malloc_trim`` is glibc's own).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None and next(_ASKED) % every == 0:
        trim(0)


def visible_gpus() -> list[str]:
    """The NVIDIA cards that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = (name.strip() for name in given.split(","))
        return [name for name in itertools.takewhile(lambda name: not name.startswith("-"), names) if name]
    return [str(number) for number, _ in enumerate(DRIVER.iterdir())] if DRIVER.is_dir() else []


def takes_openvino(engine: str, *, on_cpu: bool) -> bool:
    """Whether ``--engine`` means OpenVINO: on a CPU, where its extra is installed; nothing is loaded."""
    return on_cpu and engine != "torch" and find_spec("openvino") is not None


def processor_name() -> str:
    """What the processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def gpu_name(device: str) -> str:
    """What the graphics card ``cuda`` or ``cuda:<n>`` is called; the device's own name where none tells."""
    number = int(device.partition(":")[2] or 0)
    cards = sorted(DRIVER.glob("*/information"))
    visible = visible_gpus()
    at = int(visible[number]) if number < len(visible) and visible[number].isdigit() else number
    if at >= len(cards):
        return device
    lines = cards[at].read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model")), device)
