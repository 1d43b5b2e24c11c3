"""Where a slide's result lies, who is at work on it, and whether it is finished.

``OUT/.<name>.partial`` is worked in; it becomes ``OUT/<name>`` by one rename. A lock beside
it is held by the process at work and freed by the kernel when that process ends, however it
ends.
"""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wsiseg.errors import OutputError
from wsiseg.ledger import begun_with, differences
from wsiseg.manifest import SlideManifest
from wsiseg.plan import Plan

__all__ = ["GEOJSON", "LEDGER", "MANIFEST", "MAP", "OVERVIEW", "Place", "alone_with", "geojson_name"]

MAP, LEDGER, MANIFEST = "probability.zarr", "ledger.jsonl", "slide.json"
GEOJSON, OVERVIEW = "tumor.geojson", "overview.png"


def geojson_name(*, packed: bool) -> str:
    """The name of a slide's outlines, gzipped or not.

    >>> geojson_name(packed=True)
    'tumor.geojson.gz'
    """
    return f"{GEOJSON}.gz" if packed else GEOJSON


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one slide's result."""

    folder: Path

    @property
    def partial(self) -> Path:
        """Where the work is done until it is whole."""
        return self._beside("partial")

    def _beside(self, ending: str) -> Path:
        return self.folder.with_name(f".{self.folder.name}.{ending}")

    @contextmanager
    def claimed(self) -> Iterator[Self]:
        """Hold the place for as long as the slide is worked on.

        Raises:
            OutputError: another process holds it, or nothing can be written there.
        """
        lock = self._beside("lock")
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            handle = _locked(lock)
        except OSError as error:
            msg = f"{self.folder.parent} cannot be written: {error.strerror}; choose another folder with -o"
            raise OutputError(msg) from error
        try:
            yield self
        finally:
            _give_back(lock, handle)

    def finished(self, plan: Plan, polygon_key: str, options: Mapping[str, object]) -> bool:
        """Whether the slide is done with these very settings, and outlined with options of this key.

        Raises:
            OutputError: it was done with others; names them.
        """
        manifest = self.folder / MANIFEST
        if not manifest.exists():
            return False
        found = SlideManifest.read(manifest)
        if different := differences(found.settings, plan.settings):
            msg = f"{self.folder} was made with other settings ({different}); use --overwrite to redo it"
            raise OutputError(msg)
        if found.polygon_key != polygon_key:
            before = found.polygon_options
            changes = [f"{n} {before.get(n)}, now {v}" for n, v in options.items() if before.get(n) != v]
            msg = (
                f"{self.folder} was outlined with other options ({'; '.join(changes) or 'or only in part'}); "
                "'wsiseg polygons' with these outlines it again in seconds, --overwrite redoes it"
            )
            raise OutputError(msg)
        geojson = geojson_name(packed=bool(found.polygon_options.get("gzip")))
        if lost := [name for name in (MAP, geojson, OVERVIEW) if not (self.folder / name).exists()]:
            msg = f"{self.folder} is finished but has lost {', '.join(lost)}; use --overwrite to redo it"
            raise OutputError(msg)
        return True

    def begin(self, settings: Mapping[str, object], *, anew: bool) -> Path:
        """The hidden folder to work in: that of an interrupted run of the same settings, else a new one.

        With ``anew`` an interrupted run of other settings makes way; without, it stays as it is
        and its ledger will name the difference.

        Raises:
            OutputError: it cannot be written, or a folder that is not ours lies where the result goes.
        """
        if self.folder.exists() and not (self.folder / MANIFEST).exists():
            msg = (
                f"{self.folder} exists and is no result of wsiseg (it has no {MANIFEST}): it may belong to "
                "the slide; choose another folder with -o"
            )
            raise OutputError(msg)
        before = begun_with(self.partial / LEDGER)
        stale = before is None or (anew and bool(differences(before, settings)))
        try:
            if self.partial.exists() and stale:
                shutil.rmtree(self.partial)
            self.partial.mkdir(exist_ok=True)
        except OSError as error:
            msg = f"{self.partial} cannot be written: {error.strerror}"
            raise OutputError(msg) from error
        return self.partial

    def publish(self) -> None:
        """Put the finished folder in its place by one rename, without what a killed run left half-written.

        Raises:
            OutputError: it cannot be moved there; the work stays where it was done.
        """
        old = self._beside("old")
        try:
            if old.exists():
                shutil.rmtree(old)
            for stray in self.partial.glob("*.partial"):
                stray.unlink()
            if self.folder.exists():
                self.folder.rename(old)
            self.partial.rename(self.folder)
            if old.exists():
                shutil.rmtree(old)
        except OSError as error:
            msg = f"{self.folder} cannot be written: {error.strerror}"
            raise OutputError(msg) from error


@contextmanager
def alone_with(file: Path) -> Iterator[None]:
    """Hold a file that several runs change, for as long as that takes; another run waits.

    Raises:
        OutputError: nothing can be written beside it.
    """
    lock = file.with_name(f".{file.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(lock, patient=True)
    except OSError as error:
        msg = f"{file} cannot be written: {error.strerror}"
        raise OutputError(msg) from error
    try:
        yield
    finally:
        _give_back(lock, handle)


def _give_back(lock: Path, handle: int) -> None:
    try:
        with suppress(OSError):  # on a disk that turned read-only it stays, held by nobody
            lock.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _locked(path: Path, *, patient: bool = False) -> int:
    """A handle that holds the lock at ``path``; no child process inherits it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
        except BlockingIOError as error:
            owner = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(handle)
            what = path.with_name(path.name.removeprefix(".").removesuffix(".lock"))
            msg = f"{what} is being written by {owner}; wait for it, or choose another folder with -o"
            raise OutputError(msg) from error
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            os.pwrite(handle, f"{socket.gethostname()} pid {os.getpid()}\n".encode(), 0)
            return handle
        os.close(handle)  # the owner before us took its lock file away between our two calls
