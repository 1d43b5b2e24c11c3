"""The way of arrays to a device and back, beside what it computes meanwhile."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsiseg.device import is_want_of_memory

__all__ = ["Transfers"]

log = logging.getLogger(__name__)


class Transfers:
    """Brings arrays to a device and fetches answers, from any thread; each call returns when it is done.

    On a GPU each way has a stream of its own, and the way there goes through pinned memory (PyTorch, *CUDA
    semantics*, "Use pinned memory buffers"), so that they wait for no computation and none waits for them.
    Elsewhere memory is shared, or is moved by who computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self._there: Any = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._back: Any = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def up(self, array: npt.NDArray[Any]) -> Tensor:
        """The array on the device; where that has no room for it, left where it is."""
        here = torch.from_numpy(np.ascontiguousarray(array))
        if self._there is None:
            return here
        try:
            # Without the first, a thread would touch the memory of card 0, whichever card this is.
            with torch.cuda.device(self._device), torch.cuda.stream(self._there):
                there = here.pin_memory().to(self._device, non_blocking=True)
            self._there.synchronize()
        except RuntimeError as error:
            if not is_want_of_memory(error):
                raise
            log.debug("no room for a block on %s before its turn", self._device, exc_info=True)
            return here
        return there

    def down(self, tensor: Tensor) -> npt.NDArray[Any]:
        """A tensor as an array; on a GPU what computes it must have been waited for."""
        if self._back is None:
            return tensor.cpu().numpy()
        with torch.cuda.device(self._device), torch.cuda.stream(self._back):
            return tensor.cpu().numpy()
