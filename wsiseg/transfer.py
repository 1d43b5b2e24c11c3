"""The way of arrays to a device and back, beside what it computes meanwhile."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsiseg.device import is_want_of_memory

__all__ = ["Transfers"]


class Transfers:
    """Brings arrays to a device and fetches answers, from any thread; each call returns when it is done.

    On a GPU they go through pinned memory and a stream of their own (PyTorch, *CUDA semantics*, "Use pinned
    memory buffers"), so that they wait for no computation and none waits for them. Elsewhere memory is
    shared, or is moved by who computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def up(self, array: npt.NDArray[Any]) -> Tensor:
        """The array on the device; where that has no room for it, left where it is."""
        here = torch.from_numpy(np.ascontiguousarray(array))
        if self._stream is None:
            return here
        try:
            with torch.cuda.stream(self._stream):
                there = here.pin_memory().to(self._device, non_blocking=True)
            self._stream.synchronize()
        except RuntimeError as error:
            if not is_want_of_memory(error):
                raise
            return here
        return there

    def down(self, tensor: Tensor) -> npt.NDArray[Any]:
        """A tensor as an array; on a GPU what computes it must have been waited for."""
        if self._stream is None:
            return tensor.cpu().numpy()
        with torch.cuda.stream(self._stream):
            return tensor.cpu().numpy()
