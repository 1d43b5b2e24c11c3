"""Read what of a damaged slide can be read, and say where it cannot.

A box that cannot be decoded is quartered until the places that cannot are small; what was
read around them has the very bits it has in a whole slide, for squares are cut on the
lattice on which a pixel does not depend on the box it was read with.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.errors import SlideReadError
from wsiseg.geometry import L0, Box, Canvas
from wsiseg.slide import Slide, SlideInfo

__all__ = ["Salvaging", "salvage"]

Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)
THUMBNAIL_CELL = 16
"""Thumbnail pixels: places that cannot be decoded are found to within so many."""


def salvage(
    slide: Slide, box: Box[L0], size: tuple[int, int], *, cell: int, fill: Color = WHITE
) -> tuple[npt.NDArray[np.uint8], tuple[Box[Canvas], ...]]:
    """What can be read of a level-0 box, resampled to ``size`` = (height, width).

    Returns (Y, X, 3) uint8 RGB, ``fill`` where nothing can be decoded, and these places in the
    pixels of the answer: squares of ``cell`` pixels counted from its corner, four that make
    a larger square given as one.

    Raises:
        SlideOpenError: the slide has gone altogether.
    """
    height, width = size
    rgb_YX3 = np.full((height, width, 3), fill, np.uint8)
    whole: Box[Canvas] = Box(0, 0, width, height)

    def lost_of(part: Box[Canvas]) -> list[Box[Canvas]]:
        left, right = (round(x * box.w / width) for x in (part.x, part.right))
        top, bottom = (round(y * box.h / height) for y in (part.y, part.bottom))
        source: Box[L0] = Box(box.x + left, box.y + top, right - left, bottom - top)
        try:
            rgb_YX3[part.within(whole)] = slide.read(source, (part.h, part.w))
        except SlideReadError:
            parts = _quartered(part, cell)
            lost = [one for smaller in parts for one in lost_of(smaller)]
            return [part] if not parts or lost == parts else lost
        return []

    return rgb_YX3, tuple(lost_of(whole))


def _quartered(box: Box[Canvas], cell: int) -> list[Box[Canvas]]:
    """A box cut along the lattice lines nearest to its middle; none where no line crosses it.

    >>> _quartered(Box(0, 0, 48, 16), 16)
    [Box(x=0, y=0, w=32, h=16), Box(x=32, y=0, w=16, h=16)]
    >>> _quartered(Box(16, 16, 16, 16), 16)
    []
    """
    columns, rows = _halved(box.x, box.right, cell), _halved(box.y, box.bottom, cell)
    parts: list[Box[Canvas]] = [Box(x, y, w, h) for y, h in rows for x, w in columns]
    return parts if len(parts) > 1 else []


def _halved(start: int, stop: int, cell: int) -> list[tuple[int, int]]:
    """A run of pixels as one or two runs ``(start, length)``."""
    line = round((start + stop) / 2 / cell) * cell
    return [(start, line - start), (line, stop - line)] if start < line < stop else [(start, stop - start)]


@dataclass(frozen=True, slots=True)
class Salvaging:
    """A slide that fills what cannot be decoded with a colour: for looking at it from afar."""

    slide: Slide
    fill: Color

    @property
    def info(self) -> SlideInfo:
        """The slide's facts."""
        return self.slide.info

    def read(self, box: Box[L0], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """As ``Slide.read``, and never fails for a place that cannot be decoded."""
        return salvage(self.slide, box, size, cell=THUMBNAIL_CELL, fill=self.fill)[0]
