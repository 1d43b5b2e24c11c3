"""All folds' work on a batch as one launch: a CUDA graph, recorded once for each shape and then replayed.

A pass of FPN over mit_b0 is some 240 operations. To launch them one by one takes a processor, by estimate,
about as long as a GPU computes on the four patches of a block, and Python's lock all that while, which
reading wants.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from wsiseg.device import is_want_of_memory

__all__ = ["InCudaGraphs", "OneLaunch", "Recorded", "Run"]

log = logging.getLogger(__name__)

Run: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""Work on a device: no value of a tensor may be asked for in it."""
Recorded: TypeAlias = tuple[Callable[[], object], tuple[Tensor, ...]]
"""What does the work again on whatever its input then holds, and where its answers come to lie."""

WARM_UP = 3
"""Passes before a recording: libraries choose their kernels and take their workspaces in the first ones."""


class OneLaunch:
    """Some work on one tensor, recorded when a shape first comes, and replayed from then on.

    Answers are overwritten by the next call. Where recording fails, or memory does not suffice for one more
    shape, that is said once, and from then on the work is done operation by operation: slower, with the same
    result. Not for several threads at a time.
    """

    def __init__(self, device: torch.device, record: Callable[[Run, Tensor], Recorded]) -> None:
        self._device, self._record = device, record
        self._kept: dict[torch.Size, tuple[Tensor, Recorded]] = {}
        self._records = True

    def __call__(self, run: Run, given: Tensor) -> tuple[Tensor, ...]:
        """The answers of the work, always the same one, for a tensor, which may lie anywhere.

        Raises:
            RuntimeError: as the work does; of want of memory where nothing had been recorded yet.
        """
        if self._records and given.shape not in self._kept:
            self._try(run, given)
        if not self._records:
            return run(given.to(self._device))
        held, (again, answers) = self._kept[given.shape]
        held.copy_(given)
        again()
        return answers

    def close(self) -> None:
        """Forget what was recorded, and the memory it holds."""
        self._kept.clear()

    def _try(self, run: Run, given: Tensor) -> None:
        try:
            held = torch.empty_like(given, device=self._device).copy_(given)
            again, answers = self._record(run, held)
            again()  # what cannot be replayed is found out here
        except RuntimeError as error:
            if is_want_of_memory(error) and not self._kept:
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            log.warning("%s: operations are launched one by one, which is slower (%s)", self._device, reason)
            self._records = False
            self.close()
        else:
            self._kept[given.shape] = held, (again, answers)


class InCudaGraphs:
    """Records work as CUDA graphs (PyTorch, *CUDA semantics*, "CUDA Graphs") in one pool of memory.

    They share it, whatever order they are replayed in: answers are taken out before the next replay. One
    stream records them all, since freed memory is used again on its own stream alone.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None

    def __call__(self, run: Run, held: Tensor) -> Recorded:
        """Record the work on a tensor's memory.

        Raises:
            RuntimeError: something in it cannot be recorded, or there is not enough memory.
        """
        with torch.cuda.device(held.device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            usual, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
            self._stream.wait_stream(usual)
            with torch.cuda.stream(self._stream):  # around the recording too, which may not put it back
                for _ in range(WARM_UP):
                    run(held)
                mode = {"stream": self._stream, "pool": self._pool, "capture_error_mode": "thread_local"}
                with torch.cuda.graph(graph, **mode):
                    answers = run(held)
            usual.wait_stream(self._stream)
        return graph.replay, answers
