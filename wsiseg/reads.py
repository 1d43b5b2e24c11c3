"""The pixels of a block's patches, of which its neighbours read a part too.

Patches overlap by two margins, so that a canvas read block by block would be decoded and resampled
1.4 times over. Here it is cut along the rims of all patches: a piece is read once, by the block that
comes first, and kept until the others have had it. So a pixel is always read with the same box,
however large the blocks are.
"""

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from wsiseg.geometry import Box, Canvas
from wsiseg.grid import Grid, Patch
from wsiseg.plan import Plan
from wsiseg.salvage import salvage
from wsiseg.shrink import LATTICE
from wsiseg.slide import Slide

__all__ = ["PatchReader", "PatchReaderRecipe"]

KEPT_BYTES = 64 << 20
"""Pieces kept for blocks that have not come yet; the oldest make way."""
LEAST_CELL = 16
"""Canvas pixels: the squares in which what cannot be decoded is found, where the grid allows it."""

Pixels = npt.NDArray[np.uint8]
Piece = tuple[Pixels, list[Box[Canvas]]]
"""RGB (Y, X, 3), and the places of it that cannot be decoded, in canvas pixels."""


@dataclass(frozen=True, slots=True)
class PatchReaderRecipe:
    """How a worker opens a slide to read patches from; equal for every block of one slide."""

    slide: Callable[[], Slide]
    plan: Plan

    def __call__(self) -> "PatchReader":
        """Open the slide."""
        return PatchReader(self.slide(), self.plan)


@dataclass
class _Shared:
    """A piece that several blocks want, being read or read, and how many have yet to come for it."""

    left: int
    piece: Future[Piece] = field(default_factory=Future)


class PatchReader:
    """Reads the patches of one slide and plan; several threads may at once."""

    def __init__(self, slide: Slide, plan: Plan) -> None:
        self._slide = slide
        self._plan = plan
        self._lock = threading.Lock()
        self._kept: dict[Box[Canvas], _Shared] = {}
        self._kept_bytes = 0

    def read(self, patches: list[Patch]) -> Piece:
        """The pixels (B, Y, X, 3) uint8 of some patches of a block.

        Where the plan spares what cannot be decoded, it is white, and its places are named.

        Raises:
            SlideReadError: a part cannot be decoded, and is not spared.
        """
        grid = self._plan.grid
        rgb_BYX3 = np.empty((len(patches), grid.patch, grid.patch, 3), np.uint8)
        pieces = {piece for patch in patches for piece in _pieces(grid, patch.read)}
        unread = []
        for piece in sorted(pieces, key=lambda one: (one.y, one.x)):
            rgb_YX3, lost = self._piece(piece)
            unread += lost
            for number, patch in enumerate(patches):
                if patch.read.contains(piece):
                    rgb_BYX3[number, *piece.within(patch.read)] = rgb_YX3
        return rgb_BYX3, unread

    def close(self) -> None:
        """Close the slide."""
        if hasattr(self._slide, "close"):
            self._slide.close()

    def _piece(self, box: Box[Canvas]) -> Piece:
        """Read a piece, or take it from the block that has read it or is about to."""
        blocks = _blocks(self._plan.grid, box)
        if blocks == 1:
            return self._read(box)
        with self._lock:
            shared = self._kept.get(box)
            first = shared is None
            if shared is None:
                shared = self._kept[box] = _Shared(blocks)
                self._kept_bytes += _bytes(box)
            shared.left -= 1
            if shared.left == 0:
                self._forget(box)
            while self._kept_bytes > KEPT_BYTES:
                self._forget(next(iter(self._kept)))
        if first:
            try:
                shared.piece.set_result(self._read(box))
            except BaseException as error:  # handed on to those who wait for it
                with self._lock:
                    self._forget(box)
                shared.piece.set_exception(error)
                raise
        return shared.piece.result()

    def _forget(self, box: Box[Canvas]) -> None:
        if self._kept.pop(box, None) is not None:
            self._kept_bytes -= _bytes(box)

    def _read(self, box: Box[Canvas]) -> Piece:
        plan, size = self._plan, (box.h, box.w)
        if not plan.sparing:
            return self._slide.read(plan.scale.to_l0(box), size), []
        cell = max(LEAST_CELL, math.gcd(LATTICE, plan.grid.patch, plan.grid.margin))
        rgb_YX3, lost = salvage(self._slide, plan.scale.to_l0(box), size, cell=cell)
        return rgb_YX3, [Box(box.x + one.x, box.y + one.y, one.w, one.h) for one in lost]


def _bytes(box: Box[Canvas]) -> int:
    return 3 * box.area


def _pieces(grid: Grid, box: Box[Canvas]) -> Iterator[Box[Canvas]]:
    """Yield the parts of a patch's pixels that no patch's rim cuts."""
    across, down = (_runs(grid, *ends) for ends in ((box.x, box.right), (box.y, box.bottom)))
    return (Box(x, y, w, h) for y, h in down for x, w in across)


def _runs(grid: Grid, start: int, stop: int) -> list[tuple[int, int]]:
    """What patches' rims cut a row of pixels into: starts and lengths.

    >>> _runs(Grid(3000, 1000, patch=1024, margin=128, per_block=2), -128, 896)
    [(-128, 256), (128, 512), (640, 256)]
    """
    cores = range((start - grid.margin) // grid.core, (stop + grid.margin) // grid.core + 1)
    rims = {core * grid.core + side for core in cores for side in (-grid.margin, grid.margin)}
    cuts = sorted({start, stop} | {rim for rim in rims if start < rim < stop})
    return [(one, other - one) for one, other in pairwise(cuts)]


def _blocks(grid: Grid, box: Box[Canvas]) -> int:
    """How many blocks read a piece.

    >>> grid = Grid(3000, 3000, patch=1024, margin=128, per_block=2)
    >>> [_blocks(grid, Box(x, 128, 256, 512)) for x in (-128, 128, 640, 1408)]
    [1, 1, 1, 2]
    """
    rows, columns = grid.shape
    count = 1
    for start, stop, most in ((box.x, box.right, columns), (box.y, box.bottom, rows)):
        first, last = (start - grid.margin) // grid.chunk, (stop - 1 + grid.margin) // grid.chunk
        count *= max(1, min(last, most - 1) - max(first, 0) + 1)
    return count
