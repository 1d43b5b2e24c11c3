"""Telling how a training goes: a bar on a terminal, plain lines elsewhere, ``metrics.jsonl`` always."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from wsiseg.errors import UsageError

__all__ = ["FoldWatch"]


class FoldWatch:
    """Watches one fold: writes ``metrics.jsonl``, and a line or a bar to stderr.

    ``rank`` other than 0 stays silent.
    """

    def __init__(self, folder: Path, epochs: int, *, rank: int = 0, tensorboard: bool = False) -> None:
        self.folder = folder
        self.epochs = epochs
        self.loud = not rank
        self.terminal = self.loud and sys.stderr.isatty()
        self.begun = time.perf_counter()
        self.seen = 0
        self.done = 0
        self.board = _board(folder) if tensorboard and not rank else None

    def step(self, images: int, loss: float) -> None:
        """Show the last loss and the speed, on a terminal only."""
        self.seen += images
        if self.terminal:
            rate = self.seen / (time.perf_counter() - self.begun)
            click.echo(f"\r{self.folder.name}: loss {loss:.3f}, {rate:.1f} images/s ", nl=False, err=True)

    def epoch(self, record: dict[str, Any]) -> None:
        """Append the epoch's record and say it in a line, with the time that is left."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.done += 1
        left = (self.epochs - record["epoch"]) * (time.perf_counter() - self.begun) / self.done
        start = "\r" if self.terminal else ""
        line = (
            f"{start}{self.folder.name}: epoch {record['epoch']}/{self.epochs}, "
            f"loss {record['loss']:.4f}, Dice {record['dice']:.4f}, {record['images_per_s']:.1f} images/s, "
            f"{left / 60:.1f} min left"
        )
        click.echo(line, err=True)
        if self.board:
            for name in ("loss", "dice", "images_per_s"):
                self.board.add_scalar(name, record[name], record["epoch"])
            self.board.flush()


def _board(folder: Path) -> Any:
    """A TensorBoard writer.

    Raises:
        UsageError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # an extra
    except ImportError as error:
        msg = "--tensorboard needs the extra of that name: pip install 'wsiseg[tensorboard]'"
        raise UsageError(msg) from error
    return SummaryWriter(folder)
