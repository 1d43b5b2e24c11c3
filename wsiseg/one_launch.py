"""All folds' work on a batch as one launch: a CUDA graph, recorded once for each shape and then replayed.

A pass of FPN over mit_b0 is some 300 operations. To launch them one by one takes a processor about as long as
a GPU computes on the four patches of a block, and Python's lock all that while, which reading wants.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["InCudaGraphs", "OneLaunch"]

log = logging.getLogger(__name__)

Run: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""Work on a device: no value of a tensor may be asked for in it."""
Recorded: TypeAlias = tuple[Callable[[], object], tuple[Tensor, ...]]
"""What does the work again on whatever its input then holds, and where its answers come to lie."""

WARM_UP = 3
"""Passes before a recording: libraries choose their kernels and take their workspaces in the first ones."""


class OneLaunch:
    """Some work on one tensor, recorded when a shape first comes, and replayed from then on.

    Answers are overwritten by the next call. Where recording fails, that is said once, and the work is
    done operation by operation: slower, with the same result. Not for several threads at a time.
    """

    def __init__(self, run: Run, device: torch.device, record: Callable[[Run, Tensor], Recorded]) -> None:
        self._run, self._device, self._record = run, device, record
        self._kept: dict[torch.Size, tuple[Tensor, Recorded]] = {}
        self._records = True

    def __call__(self, given: Tensor) -> tuple[Tensor, ...]:
        """The work's answers for a tensor, which may lie anywhere.

        Raises:
            torch.OutOfMemoryError: the device's memory is too small; every recording is dropped by then.
        """
        try:
            if self._records and given.shape not in self._kept:
                self._kept[given.shape] = self._recorded(given)
        except torch.OutOfMemoryError:
            self._kept.clear()
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            log.warning("%s: operations are launched one by one, which is slower (%s)", self._device, reason)
            self._kept.clear()
            self._records = False
        if not self._records:
            return self._run(given.to(self._device))
        held, (again, answers) = self._kept[given.shape]
        held.copy_(given)
        again()
        return answers

    def _recorded(self, given: Tensor) -> tuple[Tensor, Recorded]:
        held = torch.empty_like(given, device=self._device).copy_(given)
        return held, self._record(self._run, held)


class InCudaGraphs:
    """Records work as CUDA graphs (PyTorch, *CUDA semantics*, "CUDA Graphs") that share one pool of memory.

    They may, in whatever order they are replayed: answers are taken out before the next replay.
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Run, held: Tensor) -> Recorded:
        """Record the work on a tensor's memory.

        Raises:
            RuntimeError: something in it cannot be recorded, or there is not enough memory.
        """
        with torch.cuda.device(held.device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    run(held)
            torch.cuda.current_stream().wait_stream(aside)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
                answers = run(held)
        return graph.replay, answers
