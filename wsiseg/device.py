"""Which device computes, and in what precision."""

import logging

import torch
from torch import nn

from wsiseg.errors import DeviceError

__all__ = ["arithmetic", "cast_once", "choose_device", "half_precision", "is_want_of_memory"]

log = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """The device of ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; auto says aloud when it means CPU.

    Raises:
        DeviceError: the device is not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        log.warning("no GPU found: running on the CPU, which is many times slower")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        msg = f"device {name!r} cannot be used ({str(error).splitlines()[0]}); try --device auto"
        raise DeviceError(msg) from error
    return device


def half_precision(device: torch.device) -> bool:
    """Whether bfloat16 is both native and faster there: recent GPUs, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        known = torch.cpu.get_capabilities()
        return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def arithmetic(device: torch.device, *, half: bool) -> str:
    """What a device computes in, in words: other arithmetic, other bits.

    >>> arithmetic(torch.device("cuda:1"), half=True)
    'cuda bfloat16'
    """
    return f"{device.type} {'bfloat16' if half else 'float32'}"


def is_want_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch, or of a library below it, says that the device's memory was too small."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "alloc_failed" in said


def cast_once(network: nn.Module) -> None:
    """Hold in bfloat16 what autocast would cast in every pass (same bits); not for a network that learns."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(torch.bfloat16)
