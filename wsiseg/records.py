"""What a run leaves in OUT besides its slides: summary, record of the run, reasons of failures."""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsiseg.location import Location, Remote, located, printable
from wsiseg.manifest import remove, versions, write_whole
from wsiseg.run import Outcome
from wsiseg.summary import Row, facts, read_summary, update_summary

__all__ = ["RunRecord"]


@dataclass
class RunRecord:
    """One run of ``wsiseg segment`` over an output folder; keeps a row per slide and no more.

    Slides of earlier runs stay in ``summary.csv``, those that were named again are replaced; its
    rows are sorted by the slide's name (by code point), whatever the order they were done in.
    """

    out: Path
    argv: Sequence[str]
    options: dict[str, Any]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.totals: dict[str, float] = {"done": 0, "skipped": 0, "failed": 0, "patches": 0, "tumor_mm2": 0.0}
        self.models: dict[str, dict[str, str]] = {}
        self.devices: set[str] = set()
        self.unwritten: set[str] = set()
        read_summary(self.out)  # refused now, if ever

    @property
    def command(self) -> list[str]:
        """The command line as it may be kept: without the passwords of URLs."""
        return [str(located(word)) if "://" in word else word for word in self.argv]

    def add(self, outcome: Outcome) -> None:
        """Put a slide into ``summary.csv``, and its reason beside its folder where it failed.

        Raises:
            OutputError: a file cannot be written; the slide's row is kept for the next one.
        """
        name = outcome.slide.name
        self.totals[outcome.status] += 1
        reason = outcome.reason.replace(printable(f"{self.out.absolute()}{os.sep}"), "")
        reason = _without_folder(reason, outcome.slide.path)
        self.rows[name] = {"slide": name, "status": outcome.status, "reason": reason}
        self.unwritten.add(name)
        failure = outcome.folder.with_name(f"{outcome.folder.name}.failed.json")
        if (manifest := outcome.manifest) is None:
            about = {**self.rows[name], "file": printable(outcome.slide.path.name), "versions": versions()}
            write_whole(failure, (json.dumps(about, indent=2) + "\n").encode())
        else:
            remove(failure)
            self.rows[name] |= facts(manifest)
            self.models[manifest.model.name] = manifest.model.weights
            self.devices.add(manifest.device)
            self.totals["patches"] += manifest.counts.patches
            self.totals["tumor_mm2"] += manifest.result.tumor_mm2
        self._write_summary()

    def _write_summary(self) -> None:
        update_summary(self.out, {name: self.rows[name] for name in self.unwritten})
        self.unwritten.clear()

    def finish(self, how: str) -> None:
        """Write ``run-<time>.json``, and what ``add`` could not; ``how`` says if the run came to its end.

        Raises:
            OutputError: it cannot be written.
        """
        ended = datetime.now(UTC)
        record = {
            "argv": self.command,
            "ended": how,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round((ended - self.started).total_seconds(), 3),
            "machine": {
                "host": socket.gethostname(),
                "cpus": os.cpu_count(),
                "devices": sorted(self.devices),
            },
            "options": self.options,
            "models": self.models,
            "totals": self.totals,
            "versions": versions(),
        }
        if self.unwritten:
            self._write_summary()
        name = f"run-{self.started:%Y%m%dT%H%M%S.%fZ}.json"
        write_whole(self.out / name, (json.dumps(record, indent=2) + "\n").encode())


def _without_folder(reason: str, path: Location) -> str:
    """A reason that names the slide's file alone: a folder's name may say whose slide it is.

    >>> _without_folder("/data/DOE^JANE/a.svs does not exist", Path("/data/DOE^JANE/a.svs"))
    'a.svs does not exist'
    """
    if isinstance(path, Remote):
        return reason.replace(str(path), path.name)
    for folder in (path.absolute().parent, path.parent):
        reason = reason.replace(printable(f"{folder}{os.sep}"), "") if folder.name else reason
    return reason
