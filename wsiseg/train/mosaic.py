"""Labelled patches laid side by side as one large image: a slide whose whole truth is known.

Patches lie edge to edge, as tissue does on a slide; where a row of them ends there is white.
All are of one resolution, so that a mosaic is resampled once, by the pipeline, as a slide is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.resample import Kernel, resize
from wsiseg.train.cases import Case, read_mask, read_rgb
from wsiseg.train.data import HALF

__all__ = ["Mosaic", "Tile", "compose", "lay_out"]


@dataclass(frozen=True, slots=True)
class Tile:
    """Where one case lies in a mosaic, in the mosaic's pixels."""

    case: Case
    x: int
    y: int
    width: int
    height: int

    def on_canvas(self, factor: float) -> tuple[slice, slice]:
        """Rows and columns of its pixels on a canvas of so many mosaic pixels per canvas pixel."""
        ends = ((self.y, self.y + self.height), (self.x, self.x + self.width))
        rows, columns = (slice(round(a / factor), round(b / factor)) for a, b in ends)
        return rows, columns


@dataclass(frozen=True, slots=True, eq=False)
class Mosaic:
    """An image (Y, X, 3) with its mask (Y, X) of 0 and 255, at ``mpp`` microns per pixel."""

    mpp: float
    rgb_YX3: npt.NDArray[np.uint8]
    mask_YX: npt.NDArray[np.uint8]
    tiles: tuple[Tile, ...]

    def truth(self, size: tuple[int, int], factor: float, kernel: Kernel) -> npt.NDArray[np.bool_]:
        """The mask on a canvas of ``size`` = (height, width), resampled as training masks are."""
        height, width = size
        down, across = height * factor, width * factor
        pad = [
            (0, max(0, int(np.ceil(need)) - have))
            for need, have in zip((down, across), self.mask_YX.shape, strict=True)
        ]
        grey_YX = resize(np.pad(self.mask_YX, pad), size, kernel=kernel, box=(0, 0, across, down))
        return grey_YX >= HALF


def lay_out(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The top left corners (x, y) of boxes of these (width, height), packed in rows, the tallest first.

    No two overlap, and the whole is about as wide as it is high.

    >>> lay_out([(2, 1), (4, 3)])
    [(0, 3), (0, 0)]
    """
    area = sum(width * height for width, height in sizes)
    limit = max(*(width for width, _ in sizes), int(np.ceil(np.sqrt(1.1 * area))))
    places: dict[int, tuple[int, int]] = {}
    x = y = row = 0
    for number in sorted(range(len(sizes)), key=lambda n: (-sizes[n][1], n)):
        width, height = sizes[number]
        if x and x + width > limit:
            x, y, row = 0, y + row, 0
        places[number], x, row = (x, y), x + width, max(row, height)
    return [places[number] for number in range(len(sizes))]


def compose(cases: Sequence[Case]) -> Mosaic:
    """The mosaic of some cases, which are all of one resolution.

    Raises:
        DataError: an image cannot be read.
    """
    (mpp,) = {case.mpp for case in cases}
    rgbs, masks = [read_rgb(c.image) for c in cases], [read_mask(c.mask) for c in cases]
    corners = lay_out([(mask.shape[1], mask.shape[0]) for mask in masks])
    tiles = tuple(
        Tile(case, x, y, mask.shape[1], mask.shape[0])
        for case, mask, (x, y) in zip(cases, masks, corners, strict=True)
    )
    size = max(t.y + t.height for t in tiles), max(t.x + t.width for t in tiles)
    rgb_YX3, mask_YX = np.full((*size, 3), 255, np.uint8), np.zeros(size, np.uint8)
    for tile, rgb, mask in zip(tiles, rgbs, masks, strict=True):
        place = slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width)
        rgb_YX3[place], mask_YX[place] = rgb, mask
    return Mosaic(mpp, rgb_YX3, mask_YX, tiles)
