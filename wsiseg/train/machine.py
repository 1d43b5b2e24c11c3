"""What a training runs on: one device, alone or as one of the ranks that torchrun started."""

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from wsiseg.device import arithmetic, choose_device, half_precision

__all__ = ["Machine", "this_machine"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Machine:
    """A device, whether it computes in bfloat16, and this process's place among its equals."""

    device: torch.device
    half: bool
    rank: int = 0
    ranks: int = 1

    @property
    def arithmetic(self) -> str:
        """Such as ``"cpu bfloat16"``: other arithmetic, other weights."""
        return arithmetic(self.device, half=self.half)

    @property
    def share(self) -> tuple[int, int]:
        """(rank, ranks): which part of a batch is this process's."""
        return self.rank, self.ranks

    def gathered(self, items: list[T]) -> list[T]:
        """Everybody's items, in order of rank."""
        if self.ranks == 1:
            return items
        everyone: list[list[T] | None] = [None] * self.ranks
        distributed.all_gather_object(everyone, items)
        return [item for one in everyone for item in one or []]

    def wait(self) -> None:
        """Go on when every rank has come this far."""
        if self.ranks > 1:
            distributed.barrier()


def this_machine(device: str, *, fp32: bool = False) -> Machine:
    """The machine by a device's name; under torchrun, joins the other ranks, each on its own GPU.

    Raises:
        DeviceError: the device is not there.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if ranks > 1 and device in {"auto", "cuda"} and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
    chosen = choose_device(device)
    if ranks > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Machine(chosen, half_precision(chosen) and not fp32, rank, ranks)
