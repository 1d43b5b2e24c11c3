"""The slides behind the results: found, held against the record, and kept open while they are looked at.

A record names a slide's file and no folder. So it is looked for where the user says, where the
runs of this output folder were told, and beside the folder; it is shown only when its
bytes are those that were segmented, for outlines on another slide would mislead.
"""

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsiseg.errors import SlideError, UsageError
from wsiseg.inputs import read_slide_list
from wsiseg.readers import READERS, open_slide
from wsiseg.readers.pyramid import PyramidSlide
from wsiseg.view.results import Entry

__all__ = ["Source", "Sources", "candidates"]

log = logging.getLogger(__name__)

MOST_OPEN = 4
"""So many slides are kept open; each holds some tens of MB of decoded tiles."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of a slide's file: still being looked for, ready to be read, or absent and why."""

    state: Literal["looking", "ready", "absent"]
    reason: str = ""
    path: Path | None = None


class Sources:
    """The files of the slides of one output folder; several threads may ask.

    ``places`` are files and folders that the user named. Looking takes as long as reading
    the slide once, for its digest, and is done in a thread of its own.
    """

    def __init__(self, out: Path, places: Sequence[Path] = ()) -> None:
        self._out, self._places = out, tuple(places)
        self._found: dict[str, Source] = {}
        self._open: OrderedDict[str, PyramidSlide] = OrderedDict()
        self._lock = threading.Lock()

    def source(self, entry: Entry) -> Source:
        """What is known of a slide's file by now; the first question begins the search."""
        with self._lock:
            found = self._found.get(entry.key)
            if found is None:
                found = self._found[entry.key] = Source("looking")
                threading.Thread(target=self._look, args=(entry,), daemon=True).start()
            return found

    def slide(self, entry: Entry) -> PyramidSlide:
        """The open slide.

        Raises:
            SlideError: it is not there, not yet there, or cannot be opened.
        """
        with self._lock:
            found = self._found.get(entry.key, Source("absent", "it has not been looked for"))
            if found.path is None:
                msg = f"{entry.name} cannot be read: {found.reason or 'it is still being looked for'}"
                raise SlideError(msg)
            if (slide := self._open.get(entry.key)) is None:
                slide = self._open[entry.key] = _opened(found.path, entry, known=True)
            self._open.move_to_end(entry.key)
            while len(self._open) > MOST_OPEN:
                self._open.popitem(
                    last=False
                )  # not closed: a thread may be reading; it goes with its last user
            return slide

    def close(self) -> None:
        """Give every file back."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _look(self, entry: Entry) -> None:
        try:
            found = find(entry, self._out, self._places)
        except Exception as error:
            log.exception("looking for %s", entry.name)
            found = Source("absent", f"a defect of wsiseg, please report it: {error}")
        with self._lock:
            self._found[entry.key] = found


def find(entry: Entry, out: Path, places: Sequence[Path]) -> Source:
    """Look for a slide's file; the first that has the recorded digest is it."""
    assert entry.manifest is not None
    facts, reason = entry.manifest.slide, ""
    for path in candidates(facts.name, out, places):
        try:
            with _opened(path, entry, known=False) as slide:
                if slide.info.fingerprint == facts.fingerprint:
                    return Source("ready", path=path)
            reason = f"{path} is not the file that was segmented: its content differs"
        except SlideError as error:
            reason = str(error)
    if not reason:
        reason = f"{facts.name} was not found; start the viewer with --slides and the folder it is in now"
    return Source("absent", reason)


def _opened(path: Path, entry: Entry, *, known: bool) -> PyramidSlide:
    """Open a slide as it was opened when it was segmented; ``known`` spares its digest."""
    assert entry.manifest is not None
    facts = entry.manifest.slide
    reader = facts.reader.partition(" ")[0]
    return open_slide(
        path,
        mpp=facts.mpp,
        mpp_source=facts.mpp_source,
        reader=reader if reader in READERS else "auto",
        known_fingerprint=facts.fingerprint if known else None,
    )


def candidates(name: str, out: Path, places: Sequence[Path]) -> Iterator[Path]:
    """The files that may be the slide ``name``, each once, the likeliest first.

    A name that is more than a file's name gives none: a record cannot lead anywhere else.
    """
    if Path(name).name != name or name in {"", ".."}:
        return
    seen = set()
    for path in _places(name, out, places):
        real = path.resolve()
        if real not in seen and path.exists():  # a slide may be a folder, an OME-Zarr
            seen.add(real)
            yield path.absolute()


def _places(name: str, out: Path, places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        yield from _in(place, name, deep=True)
    for record in sorted(out.glob("run-*.json"), reverse=True):
        yield from _named_by(record, name, out)
    yield from (folder / name for folder in (out.absolute().parent, Path.cwd()))


def _named_by(record: Path, name: str, out: Path) -> Iterator[Path]:
    """Where a run was told to look: its record keeps the command line as it was given."""
    try:
        run: dict[str, Any] = json.loads(record.read_bytes())
        words, options = [Path(str(word)) for word in run["argv"][1:]], dict(run["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.debug("%s cannot be read: %s", record, error)
        return
    for word in words:
        if not word.is_dir() or word.resolve() != out.resolve():
            yield from _in(word, name, deep=bool(options.get("recursive")))
    if listed := options.get("slide_list"):
        try:
            paths = (slide.path for slide in read_slide_list(Path(listed)))
            yield from (path for path in paths if isinstance(path, Path) and path.name == name)
        except UsageError as error:
            log.debug("%s", error)


def _in(place: Path, name: str, *, deep: bool) -> Iterator[Path]:
    """The slide in a folder, or the place itself where it has the slide's name."""
    if place.name == name:
        yield place
    if place.is_dir():
        yield place / name
        if deep:
            yield from sorted(place.rglob(_literal(name)))


def _literal(name: str) -> str:
    """A glob pattern that matches the name and nothing else.

    >>> _literal("a[1]*.svs")
    'a[[]1][*].svs'
    """
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
