"""Tiles of a slide and of its map: squares of ``TILE`` pixels, halved ``k`` times.

Both pyramids begin at the corner of the slide's bounds. A slide tile's pixel covers
``2**k`` level-0 pixels, a map tile's ``2**k`` canvas pixels. The last tile of a row or column
is cut to what is left.
"""

from typing import TYPE_CHECKING

from wsiseg.errors import UsageError
from wsiseg.geometry import L0, Box, Canvas

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wsiseg.canvas import ProbabilityMap
    from wsiseg.slide import Slide

__all__ = ["TILE", "levels", "map_tile", "slide_tile"]

TILE = 512
"""A multiple of the readers' lattice, so that a pixel does not depend on the tile it comes with."""


def levels(width: int, height: int) -> int:
    """How many times a picture can be halved before it fits into one tile, and once more for itself.

    >>> levels(512, 100), levels(513, 100), levels(4096, 4096)
    (1, 2, 4)
    """
    count = 1
    while max(width, height) > TILE << (count - 1):
        count += 1
    return count


def _cut(size: tuple[int, int], k: int, x: int, y: int) -> tuple[int, int, int, int]:
    """The ``x, y, w, h`` of tile ``x, y`` in the pixels of a (width, height) halved ``k`` times.

    >>> _cut((1100, 600), 1, 1, 0)
    (512, 0, 38, 300)

    Raises:
        UsageError: there is no such tile.
    """
    width, height = (-(-side // (1 << k)) for side in size)
    left, top = x * TILE, y * TILE
    if left >= width or top >= height:
        msg = f"no tile {x}, {y} at 1/{1 << k}"
        raise UsageError(msg)
    return left, top, min(TILE, width - left), min(TILE, height - top)


def slide_tile(slide: "Slide", bounds: Box[L0], k: int, x: int, y: int) -> "npt.NDArray[np.uint8]":
    """The pixels (Y, X, 3) of a tile of a slide's bounds.

    Raises:
        UsageError: there is no such tile.
        SlideReadError: it cannot be decoded.
    """
    if k >= levels(bounds.w, bounds.h):
        msg = f"the slide is not halved {k} times"
        raise UsageError(msg)
    left, top, w, h = _cut((bounds.w, bounds.h), k, x, y)
    return slide.read(Box(bounds.x + (left << k), bounds.y + (top << k), w << k, h << k), (h, w))


def map_tile(canvas: "ProbabilityMap", k: int, x: int, y: int) -> "npt.NDArray[np.uint8]":
    """The stored values (2, Y, X) of a tile of a map: probability and disagreement, times 255.

    Raises:
        UsageError: there is no such tile.
        CanvasError: the map is damaged there.
    """
    if k >= canvas.depth:
        msg = f"the map is not halved {k} times"
        raise UsageError(msg)
    return canvas.read(Box[Canvas](*_cut((canvas.grid.width, canvas.grid.height), k, x, y)), k)
