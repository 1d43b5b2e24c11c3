"""The ledger: which blocks of a slide are done.

A block is done when its line stands here, appended, checksummed and flushed; its chunk alone
proves nothing.
"""

import binascii
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from wsiseg.errors import CanvasError, OutputError

__all__ = ["Done", "Ledger", "begun_with", "differences"]


@dataclass(frozen=True, slots=True)
class Done:
    """One line of the ledger: a block, the hash of its chunk, and what it took.

    ``unreadable`` are the places of it of which nothing is known, ``(x, y, w, h)`` in canvas pixels.
    """

    row: int
    column: int
    sha256: str
    patches: int
    unreadable: tuple[tuple[int, int, int, int], ...] = ()


class Ledger:
    """The list of finished blocks: appended, checksummed and flushed line by line.

    The first line holds the job's settings, so that blocks of other settings are never mistaken for
    this one's. A line cut short by a crash is dropped when the ledger is next opened.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        """Begin the ledger of a job, or go on with it.

        Raises:
            CanvasError: the ledger was begun with other settings; names them.
            OutputError: the file cannot be written.
        """
        self.path = path
        self.done: dict[tuple[int, int], Done] = {}
        try:
            lines = list(_sound(path.read_bytes())) if path.exists() else []
            self._file = path.open("ab", buffering=0)
            self._file.truncate(sum(len(_line(line)) for line in lines))
        except OSError as error:
            raise _unwritable(path, error) from error
        if not lines:
            self._append({"settings": dict(settings)})
        elif different := differences(lines[0]["settings"], settings):
            self.close()
            msg = f"{path.parent} was begun with other settings ({different}); use --overwrite to begin anew"
            raise CanvasError(msg)
        for line in lines[1:]:
            done = Done(**{**line, "unreadable": tuple(map(tuple, line.get("unreadable", ())))})
            self.done[done.row, done.column] = done

    def add(self, done: Done) -> None:
        """Commit a block: from here on it counts as finished.

        Raises:
            OutputError: the line cannot be written.
        """
        line = {"row": done.row, "column": done.column, "sha256": done.sha256, "patches": done.patches}
        self._append({**line, "unreadable": done.unreadable} if done.unreadable else line)
        self.done[done.row, done.column] = done

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, value: dict[str, Any]) -> None:
        try:
            left = memoryview(_line(value))
            while left:  # a full disk may take a part before it refuses the rest
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error


def begun_with(path: Path) -> dict[str, Any] | None:
    """The settings that a ledger was begun with; None where there is no sound ledger.

    Raises:
        OutputError: the file cannot be read.
    """
    try:
        first = next(_sound(path.read_bytes()), None) if path.exists() else None
    except OSError as error:
        raise _unwritable(path, error) from error
    return None if first is None else dict(first["settings"])


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """The names of the settings that are not the same, for a message; empty where all are.

    >>> differences({"block": 2, "folds": 5}, {"block": 2, "folds": 1})
    'folds'
    """
    plain = json.loads(json.dumps(dict(now)))
    return ", ".join(name for name in sorted({*before, *plain}) if before.get(name) != plain.get(name))


def _line(value: dict[str, Any]) -> bytes:
    body = json.dumps(value, separators=(",", ":")).encode()
    return b"%s %08x\n" % (body, binascii.crc32(body))


def _sound(text: bytes) -> Iterator[dict[str, Any]]:
    """The lines up to the first that is cut short or damaged."""
    for line in text.splitlines(keepends=True):
        body, _, checksum = line.rpartition(b" ")
        if checksum != b"%08x\n" % binascii.crc32(body):
            return
        yield json.loads(body)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {error.strerror or error}")
