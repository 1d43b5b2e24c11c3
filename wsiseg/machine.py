"""What this machine has to offer: cores and graphics cards, told without loading torch."""

import os
from pathlib import Path

__all__ = ["cores", "visible_gpus"]

DRIVER = Path("/proc/driver/nvidia/gpus")


def cores() -> int:
    """The CPU cores that this process may use; ``OMP_NUM_THREADS`` says fewer, as it does to torch."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The NVIDIA cards that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(number) for number, _ in enumerate(DRIVER.iterdir())] if DRIVER.is_dir() else []
