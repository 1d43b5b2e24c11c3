"""Telling how a training goes: a bar on a terminal, plain lines elsewhere, ``metrics.jsonl`` always."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import click

from wsiseg.errors import UsageError
from wsiseg.train.records import write_text

__all__ = ["FoldWatch"]

WIDTH = 24


class FoldWatch:
    """Watches one fold: writes ``metrics.jsonl``, and lines to stderr, on a terminal a bar as well.

    Only the process of ``rank`` 0 is told of epochs; the others draw no bar.
    """

    def __init__(self, folder: Path, epochs: int, *, rank: int = 0, tensorboard: bool = False) -> None:
        self.folder = folder
        self.epochs = epochs
        self.terminal = not rank and sys.stderr.isatty()
        self.begun = time.perf_counter()
        self.seen = 0
        self.dice = math.nan
        self.pace: tuple[float, float] | None = None  # time and part done, at the first step of this run
        self.board = _board(folder) if tensorboard and not rank else None

    def step(self, images: int, loss: float, done: float) -> None:
        """Draw the bar, on a terminal only: part done, last loss, last Dice, images/s, time left."""
        self.seen += images
        now = time.perf_counter()
        self.pace = self.pace or (now, done)
        if self.terminal:
            bar = "#" * int(WIDTH * done)
            rate = self.seen / (now - self.begun)
            dice = "not yet known" if math.isnan(self.dice) else f"{self.dice:.3f}"
            told = f"[{bar:.<{WIDTH}}] loss {loss:.3f}, Dice {dice}, {rate:.1f} images/s"
            click.echo(f"\r{self.folder.name}: {told}, {self.left(done):.1f} min left ", nl=False, err=True)

    def left(self, done: float) -> float:
        """Minutes that are left when this part of the training is done, at this run's pace."""
        begun, first = self.pace or (0.0, done)
        return (1 - done) * (time.perf_counter() - begun) / (done - first) / 60 if done > first else math.nan

    def epoch(self, record: dict[str, Any]) -> None:
        """Append the epoch's record and say it in a line, with the time that is left.

        An epoch that is done again, since its checkpoint was not written, takes its line's place.
        """
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if line and json.loads(line)["epoch"] < record["epoch"]]
        write_text(path, "\n".join([*kept, json.dumps(record)]) + "\n")
        self.dice = record["dice"]
        start = "\r\033[K" if self.terminal else ""
        left = self.left(record["epoch"] / self.epochs)
        line = (
            f"{start}{self.folder.name}: epoch {record['epoch']}/{self.epochs}, "
            f"loss {record['loss']:.4f}, Dice {record['dice']:.4f}, {record['images_per_s']:.1f} images/s"
        )
        click.echo(line if math.isnan(left) else f"{line}, {left:.1f} min left", err=True)
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
