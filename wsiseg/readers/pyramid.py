"""One way to read for every library: choose the level, map the box, resample once.

The law kept here: a pixel does not depend on the box it was read with. Let callers use
boxes whose corners are whole multiples of ``LATTICE`` output pixels and whole level-0
pixels (``Scale.snapped``). Where a level's downsample is a power of two and reads are exact,
all of Pillow's numbers are dyadic and so exact, hence independent of where a crop begins.
Elsewhere each ``LATTICE`` square is read and resampled by itself, so that equal squares see
equal numbers.
"""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import numpy as np
import numpy.typing as npt

from wsiseg.errors import PlanError, SlideOpenError, SlideReadError, WsisegError
from wsiseg.geometry import L0, Box
from wsiseg.readers.levels import Level, Levels, OpenLevels, Raw
from wsiseg.resample import SUPPORT, Kernel, resize
from wsiseg.shrink import LATTICE, shrink, shrinks
from wsiseg.slide import SlideInfo

__all__ = ["LATTICE", "PyramidSlide", "damaged", "downsamples"]

CELL_EXACT = 1024
"""Output pixels read at once where any cutting gives the same bits: a bound on memory."""
SOURCE_PX = 2048
"""Level pixels read at once, along one axis: a bound on memory when shrinking much."""
PROBE_PX = 64
"""Level pixels read at a place where a slide is tried, along each axis."""
CAUSE_LENGTH = 300
"""Characters of a library's own words that are passed on."""
TOLERANCE = 1.01
"""A level this much coarser than asked for still serves."""


def downsamples(levels: tuple[Level, ...]) -> tuple[tuple[float, float], ...]:
    """Level-0 pixels per pixel of each level, along x and y.

    Levels are made by a whole factor and cut to whole pixels: where that explains a level's
    size to within one pixel, the factor is that whole number; elsewhere the ratio of sizes.

    >>> downsamples((Level(4443, 3567), Level(2221, 1783)))
    ((1.0, 1.0), (2.0, 2.0))
    """
    first = levels[0]
    return tuple(_downsample(first, level) for level in levels)


def _downsample(first: Level, level: Level) -> tuple[float, float]:
    x, y = first.width / level.width, first.height / level.height
    mean = (x + y) / 2
    for whole in (2 ** max(0, round(math.log2(mean))), round(mean)):
        if abs(first.width / whole - level.width) <= 1 and abs(first.height / whole - level.height) <= 1:
            return float(whole), float(whole)
    return x, y


class PyramidSlide:
    """A slide of levels, read through one library; satisfies ``wsiseg.slide.Slide``.

    Several threads may read at once. It refuses to be pickled.
    """

    def __init__(
        self, path: Path, levels: Levels, info: SlideInfo, *, reopen: OpenLevels, kernel: Kernel
    ) -> None:
        self._path = path
        self._levels = levels
        self._info = info
        self._reopen = reopen
        self._kernel = kernel
        self._shrinking = False
        self._sizes = levels.facts.levels
        self._downsamples = downsamples(self._sizes)
        self._lock = threading.Lock()
        self._users: Counter[Levels] = Counter()
        self._closed = False

    @property
    def info(self) -> SlideInfo:
        """The slide's facts."""
        return self._info

    def read(self, box: Box[L0], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The pixels of a level-0 box, resampled once to ``size`` = (height, width).

        Returns (Y, X, 3) uint8 RGB, white wherever there is no slide. The level is the
        coarsest that is not coarser than asked for.

        Raises:
            SlideReadError: a part of the box cannot be decoded; names slide and region.
            SlideOpenError: so it is, and the file cannot be opened again either.
        """
        height, width = size
        out_YX3 = np.empty((height, width, 3), np.uint8)
        if not (box and out_YX3.size):
            return np.full_like(out_YX3, 255)
        step_x, step_y = box.w / width, box.h / height
        level = self._best_level(min(step_x, step_y))
        side = self._cell_side(level, max(step_x, step_y))
        shrinking = self._shrinks(level, step_x, step_y, side)
        for rows, columns in _cells(size, side):
            left, right = box.x + columns.start * step_x, box.x + columns.stop * step_x
            top, bottom = box.y + rows.start * step_y, box.y + rows.stop * step_y
            cell = out_YX3[rows, columns]
            self._fill(cell, level, (left, top, right, bottom), shrinking=shrinking)
        return out_YX3

    def for_patches(self) -> Self:
        """The same, and boxes on the lattice of level 0 are resampled by ``shrink``, which loads torch."""
        self._shrinking = True
        return self

    def probe(self, *, sparing: bool = False) -> None:
        """Read the first corner, the middle and the last corner of every level.

        Raises:
            SlideReadError: one of them (``sparing``: all of them) cannot be decoded.
        """
        failed: list[SlideReadError] = []
        places = [place for number, size in enumerate(self._sizes) for place in _places(number, size)]
        for level, box in places:
            try:
                self._read_level(level, box)
            except SlideReadError as error:
                failed.append(error)
                if not sparing or len(failed) == len(places):
                    raise

    def close(self) -> None:
        """Give the file back, once no thread reads; the slide cannot be read any more."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._give_back(self._levels)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        msg = f"{self._info.name} is an open slide and cannot be pickled: send its path and open it there"
        raise TypeError(msg)

    def _best_level(self, step: float) -> int:
        fits = [n for n, (x, y) in enumerate(self._downsamples) if max(x, y) <= step * TOLERANCE]
        return max(fits, key=lambda n: self._downsamples[n], default=0)

    def _cell_side(self, level: int, step: float) -> int:
        """How many output pixels to read at once; the same for one level and step."""
        x, y = self._downsamples[level]
        exact = self._sizes[level].whole and x == y and math.frexp(x)[0] == 0.5  # noqa: PLR2004 - 2**n
        side = CELL_EXACT if exact else LATTICE
        while side > 1 and side * step / min(x, y) > SOURCE_PX:
            side //= 2
        return side

    def _shrinks(self, level: int, step_x: float, step_y: float, side: int) -> bool:
        """Whether cells are resampled by ``shrink``; the same for one level and step.

        Only on level 0: there every cell of the lattice begins on a whole pixel.
        """
        if not self._shrinking or self._kernel != "bilinear" or self._downsamples[level] != (1, 1):
            return False
        whole = self._sizes[level].whole and (side * step_x).is_integer() and (side * step_y).is_integer()
        return whole and shrinks(step_x, step_y)

    def _fill(
        self,
        cell_YX3: npt.NDArray[np.uint8],
        level: int,
        where: tuple[float, float, float, float],
        *,
        shrinking: bool,
    ) -> None:
        """Write the level-0 rectangle ``left, top, right, bottom`` into a cell of the output."""
        x_step, y_step = self._downsamples[level]
        left, right = where[0] / x_step, where[2] / x_step
        top, bottom = where[1] / y_step, where[3] / y_step
        height, width = cell_YX3.shape[:2]
        pad = 1 + math.ceil(SUPPORT[self._kernel] * max(1, (right - left) / width, (bottom - top) / height))
        x, y = math.floor(left) - pad, math.floor(top) - pad
        crop: Box[L0] = Box(x, y, math.ceil(right) + pad - x, math.ceil(bottom) + pad - y)
        inside = crop & Box(0, 0, self._sizes[level].width, self._sizes[level].height)
        if not inside:
            cell_YX3[:] = 255
            return
        raw = self._read_level(level, (inside.x, inside.y, inside.w, inside.h))
        source_YX3 = raw.pixels
        if inside != crop:
            source_YX3 = np.full((crop.h, crop.w, 3), 255, np.uint8)
            source_YX3[inside.within(crop)] = raw.pixels
        x_shift, y_shift = x + raw.dx, y + raw.dy
        part = (left - x_shift, top - y_shift, right - x_shift, bottom - y_shift)
        if shrinking:
            cell_YX3[:] = shrink(source_YX3, (height, width), box=part)
        else:
            cell_YX3[:] = resize(source_YX3, (height, width), kernel=self._kernel, box=part)

    def _read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """Read once, and once more with a fresh handle: after one error OpenSlide's is dead.

        Whatever a library raises says that it cannot decode; only want of memory does not.
        """
        try:
            with self._in_use() as levels:
                try:
                    return levels.read_level(level, box)
                except MemoryError:
                    raise
                except Exception:  # noqa: BLE001 - told of if it comes again
                    self._reopen_after(levels, level, box)
            with self._in_use() as levels:
                return levels.read_level(level, box)
        except MemoryError as error:
            msg = f"memory ran short while {self._info.name} was read ({error}); --block 1 or fewer --threads"
            raise PlanError(msg) from error
        except WsisegError:
            raise
        except Exception as error:
            raise SlideReadError(self._undecodable(level, box, error)) from error

    @contextmanager
    def _in_use(self) -> Iterator[Levels]:
        """The handle of the moment; it is not closed under a thread that reads, for OpenSlide would crash."""
        with self._lock:
            if self._closed:
                msg = f"{self._info.name} has been closed and cannot be read"
                raise SlideReadError(msg)
            levels = self._levels
            self._users[levels] += 1
        try:
            yield levels
        finally:
            with self._lock:
                self._users[levels] -= 1
                self._give_back(levels)

    def _give_back(self, levels: Levels) -> None:
        """Close a handle that no thread reads and none will."""
        if not self._users[levels]:
            del self._users[levels]
            if self._closed or levels is not self._levels:
                levels.close()

    def _reopen_after(self, dead: Levels, level: int, box: tuple[int, int, int, int]) -> None:
        """Put another handle in place of a dead one, unless another thread has done so."""
        with self._lock:
            if self._levels is dead and not self._closed:
                try:
                    self._levels = self._reopen(self._path)
                except SlideOpenError as error:
                    msg = f"{self._undecodable(level, box, error)}; and it cannot be opened any more"
                    raise SlideOpenError(msg) from error

    def _undecodable(self, level: int, box: tuple[int, int, int, int], error: Exception) -> str:
        x_step, y_step = self._downsamples[level]
        x, y, w, h = (
            round(side * step) for side, step in zip(box, (x_step, y_step, x_step, y_step), strict=True)
        )
        return (
            f"{self._info.name}: the region x={x} y={y} w={w} h={h} (level-0 pixels, level {level}) "
            f"cannot be decoded ({_cause(error)}); the file is damaged or incomplete: copy or scan it again"
        )


def damaged(name: str, error: Exception) -> str:
    """The sentence for a slide that a library opens and then fails at, or whose facts make no sense."""
    return f"{name} is damaged, or of a kind that is not read here ({_cause(error)}); copy it again"


def _cause(error: Exception) -> str:
    """What went wrong, on one line; the kind of the error where it says nothing.

    >>> _cause(ZeroDivisionError("division by zero")), _cause(IndexError())
    ('ZeroDivisionError: division by zero', 'IndexError')
    """
    said = " ".join(str(error).split())[:CAUSE_LENGTH]
    kind = type(error).__name__
    return (said if kind in {"OpenSlideError", "SlideOpenError"} else f"{kind}: {said}") if said else kind


def _places(level: int, size: Level) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Yield the places of a level at which it is tried."""
    w, h = min(PROBE_PX, size.width), min(PROBE_PX, size.height)
    right, bottom = size.width - w, size.height - h
    for x, y in dict.fromkeys([(0, 0), (right // 2, bottom // 2), (right, bottom)]):
        yield level, (x, y, w, h)


def _cells(size: tuple[int, int], side: int) -> Iterator[tuple[slice, slice]]:
    """Yield the ``(rows, columns)`` of squares that partition an output of ``size``."""
    height, width = size
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield slice(y, min(y + side, height)), slice(x, min(x + side, width))
