"""What is seen of a slide before its blocks are done: where its tissue is, its focus, a picture of it.

A task as a block is one. With worker processes the process that leads a batch decodes no pixel,
so a slide that ends whatever process decodes it costs a worker, and not the batch.
"""

import threading
from dataclasses import dataclass
from pathlib import Path

from wsiseg.errors import SlideReadError
from wsiseg.export import keep_thumbnail
from wsiseg.focus import Focus, measure_focus
from wsiseg.kept import Recipe
from wsiseg.nodata import GREY, from_afar
from wsiseg.overview import MAX_PX
from wsiseg.patience import within
from wsiseg.pipeline import SLIDES
from wsiseg.plan import Plan
from wsiseg.slide import Slide
from wsiseg.tissue import TissueMask, find_slide_tissue, overview

__all__ = ["Seen", "View", "look"]

AS_LONG_AS = 6
"""How many times the patience for one block a slide gets here: one without an overview is decoded whole."""

_ALONE = threading.Lock()
"""A process looks at one slide at a time: memory is foretold for one thumbnail, however many are begun."""


@dataclass(frozen=True, slots=True)
class View:
    """Which slide to look at, and for what.

    Attributes:
        plan: whose ``tissue`` says whether tissue is looked for.
        slide: how it is opened.
        folder: where ``thumbnail.jpg`` goes.
        drawn: the tissue, where a person has drawn it.
        read_timeout_s: the patience for one block.
    """

    plan: Plan
    slide: Recipe[Slide]
    folder: Path
    drawn: TissueMask | None
    read_timeout_s: float

    def __str__(self) -> str:
        return "the overview"


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of it; ``tissue`` is None where it is everywhere."""

    tissue: TissueMask | None
    focus: Focus


def look(view: View) -> Seen:
    """Find the tissue, judge the focus, and write the slide's thumbnail.

    Raises:
        SlideReadError: the slide cannot be decoded, or not in time.
        OutputError: the thumbnail cannot be written.
    """
    limit_s = AS_LONG_AS * view.read_timeout_s
    late = f"{view.plan.slide.name} could not be seen as a whole within {limit_s:g} s: is its disk there?"
    with _ALONE:
        try:
            return within(limit_s, lambda: _seen(view), late)
        except TimeoutError as error:
            raise SlideReadError(late) from error


def _seen(view: View) -> Seen:
    plan, tissue = view.plan, view.drawn
    with SLIDES.use(view.slide) as slide:
        if tissue is None and plan.tissue != "none":
            tissue = find_slide_tissue(from_afar(slide, plan))
        focus = Focus() if tissue is None else measure_focus(slide, tissue)
        keep_thumbnail(view.folder, overview(from_afar(slide, plan, fill=GREY), MAX_PX))
    return Seen(tissue, focus)
