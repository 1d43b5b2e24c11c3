"""A slide is looked at in a process of its own before it is trusted.

A damaged or hostile file can abort the library that reads it, ask for all memory, or never
come back. In the watched process that costs one slide and a sentence; what passes is opened
by the run itself, and by its workers.
"""

import atexit
import functools
from typing import Any

from wsiseg.errors import SlideOpenError, SlideReadError, UsageError
from wsiseg.location import Location, Remote, located
from wsiseg.readers import open_slide
from wsiseg.readers.watched import GIB, SECONDS, DiedError, Limits, Watched, serve

__all__ = ["look", "main", "preflight"]

ANY_MPP = 0.5
"""Resolution is judged by the run, which knows what the user said of it."""


def preflight(path: Location, *, reader: str = "auto", sparing: bool = False) -> None:
    """Look at a slide in the watched process; nothing is opened in this one.

    Args:
        path: the slide's file.
        reader: as in ``open_slide``.
        sparing: pass a slide of which some places cannot be decoded.

    Raises:
        SlideOpenError: it is no slide, is damaged, killed the process or took too long.
        SlideReadError: it opens, but a place that was tried cannot be decoded.
        UsageError: no such reader, or a limit that is no number.
    """
    watched = _watched(Limits.chosen())
    question = {
        "path": path.url if isinstance(path, Remote) else str(path),
        "reader": reader,
        "sparing": sparing,
    }
    try:
        answer = watched.ask(question)
    except DiedError as died:
        raise SlideOpenError(_why(path.name, str(died), watched.limits)) from died
    if "memory" in answer:
        watched.close()  # a process that ran out of memory is not asked again
        raise SlideOpenError(_greedy(path.name, watched.limits))
    if "refused" in answer:
        kinds = {"SlideReadError": SlideReadError, "UsageError": UsageError}
        raise kinds.get(answer["kind"], SlideOpenError)(answer["refused"])
    assert "defect" not in answer, answer["defect"]


def _why(name: str, how: str, limits: Limits) -> str:
    if how.startswith("no answer"):
        return (
            f"{name} gave {how} when it was looked at: it is damaged, or its disk is slow or gone "
            f"({SECONDS} sets another limit)"
        )
    return (
        f"{name} ended the process that looked at it ({how}): it is damaged, or takes more than "
        f"{limits.memory / 2**30:g} GiB of memory to open ({GIB} sets another limit)"
    )


def _greedy(name: str, limits: Limits) -> str:
    return (
        f"{name} takes more than {limits.memory / 2**30:g} GiB of memory to open: it is damaged, or stored "
        f"in huge pieces; re-save it tiled, or allow more with {GIB}"
    )


@functools.cache
def _watched(limits: Limits) -> Watched:
    watched = Watched("wsiseg.readers.preflight:main", limits)
    atexit.register(watched.close)
    return watched


def look(path: Location, *, reader: str, sparing: bool) -> None:
    """Open a slide and read a few places of every level.

    Raises:
        SlideError: it cannot be opened, or a place (``sparing``: every place) not be decoded.
    """
    with open_slide(path, mpp=ANY_MPP, reader=reader, known_fingerprint="not yet") as slide:
        slide.probe(sparing=sparing)


def main() -> None:
    """The watched process."""
    serve(_looked)


def _looked(question: dict[str, Any]) -> dict[str, Any]:
    look(located(question["path"]), reader=question["reader"], sparing=question["sparing"])
    return {}
