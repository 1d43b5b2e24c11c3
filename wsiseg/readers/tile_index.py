"""A faster way to the pixels of slides that OpenSlide reads: plain TIFFs of JPEG tiles (SVS, generic).

OpenSlide says what the levels are. tifffile says where their tiles lie, ``os.pread`` fetches them and
libjpeg-turbo (through simplejpeg) decodes them, the same numbers as OpenSlide's own in a seventh of
the time. simplejpeg and not imagecodecs, because it takes libjpeg's warnings for errors as
OpenSlide does: without that, a damaged tile would pass for a picture.

An index is trusted only after it has given OpenSlide's pixels for the fullest tiles of every level.
Before tiffslide, which takes damage for a picture, it serves as well (``index_of``, ``agrees``).
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsiseg.readers.levels import WHITE, Level, Levels, OpenLevels
from wsiseg.resample import resize

__all__ = ["TileGrid", "TileIndex", "agrees", "index_of", "tile_grid", "tile_grids", "trusted_index"]

log = logging.getLogger(__name__)

VENDORS = ("aperio", "generic-tiff")
"""OpenSlide's formats whose levels are one plain grid of tiles each."""
JPEG, RGB, YCBCR, CONTIGUOUS = 7, 2, 6, 1
"""Values of the TIFF tags Compression, PhotometricInterpretation (2) and PlanarConfiguration."""
START = b"\xff\xd8"
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""An APP14 marker but for its last byte, which tells a decoder: 0 for RGB, 1 for YCbCr."""
CACHE_BYTES = 64 << 20
"""Decoded tiles kept by an index: neighbouring reads share tiles."""
PAGES = 64
"""So many directories are looked at for levels."""
CHECKED = 2
"""So many tiles of a level, those of most bytes, are compared with OpenSlide's."""
BESIDE = 2
"""Grey levels by which OpenSlide's numbers may be off where it reads beside a pixel and interpolates."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The tiles of one level: sizes in its pixels, and for each tile, row by row, its bytes' place.

    ``head`` comes before each tile's own bytes: the tables they share, and in which colours they are.
    """

    width: int
    height: int
    tile_w: int
    tile_h: int
    offsets_N: npt.NDArray[np.int64]
    counts_N: npt.NDArray[np.int64]
    head: bytes

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_w)

    @property
    def tile_bytes(self) -> int:
        """Bytes of a decoded tile."""
        return self.tile_h * self.tile_w * 3

    def within(self, box: tuple[int, int, int, int]) -> Iterator[int]:
        """Yield the numbers of the tiles that a box of the level touches."""
        x, y, w, h = box
        for row in range(max(0, y) // self.tile_h, -(-min(y + h, self.height) // self.tile_h)):
            for column in range(max(0, x) // self.tile_w, -(-min(x + w, self.width) // self.tile_w)):
                yield row * self.across + column

    def box(self, number: int) -> tuple[int, int, int, int]:
        """Where in the level a tile lies, without what of it is beyond the level's rim."""
        row, column = divmod(number, self.across)
        x, y = column * self.tile_w, row * self.tile_h
        return x, y, min(self.tile_w, self.width - x), min(self.tile_h, self.height - y)


def trusted_index(
    path: Path, vendor: str, levels: tuple[Level, ...], openslide: OpenLevels
) -> "TileIndex | None":
    """The index of a slide, after a look at its tiles; None where OpenSlide has to read it.

    It is compared with what ``openslide`` opens, a handle of its own: a damaged tile may be its death.

    Raises:
        OSError: the file cannot be read.
    """
    if vendor not in VENDORS or find_spec("simplejpeg") is None:
        return None
    try:
        grids = tile_grids(path, vendor, levels, _is_plain)
        index = None if grids is None else TileIndex(path, grids)
        if index is not None:
            with closing(openslide(path)) as slide:
                _compare(index, slide)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - OpenSlide judges what is odd, and it may not mind
        log.info("%s: OpenSlide decodes its tiles itself: %s", path.name, error)
        return None
    return index


def index_of(path: Path, pages: Sequence[Any]) -> "TileIndex | None":
    """The index of levels, by their first pages in tifffile; None where they are not plain JPEG.

    It is as strict as OpenSlide; whether its colours are another library's, ``agrees`` says.

    Raises:
        OSError: the file cannot be read.
    """
    if find_spec("simplejpeg") is None or not all(map(_is_plain, pages)):
        return None
    return TileIndex(path, tuple(map(tile_grid, pages)))


def agrees(index: "TileIndex", slide: Levels) -> bool:
    """Whether a library gives the same pixels for the fullest tiles of every level, all of them whole."""
    try:
        _compare(index, slide)
    except Exception as error:  # noqa: BLE001 - a damaged tile is told of when it is read
        log.info("the library decodes its tiles itself: %s", error)
        return False
    return True


class TileIndex:
    """Reads levels from their tiles; several threads may at once."""

    def __init__(self, path: Path, grids: tuple[TileGrid, ...]) -> None:
        library = import_module("simplejpeg")
        self.version = f"simplejpeg-{library.__version__}"
        self.grids = grids
        self._decode = library.decode_jpeg
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._release = weakref.finalize(self, os.close, self._handle)
        self._lock = threading.Lock()
        self._kept: dict[tuple[int, int], Future[Pixels]] = {}
        self._kept_bytes = 0

    def read(self, level: int, box: tuple[int, int, int, int]) -> Pixels:
        """The pixels ``x, y, w, h`` of one level (Y, X, 3); white where the file has no tile.

        Raises:
            OSError: a tile's bytes are not there. ValueError: they are no whole JPEG of its size.
        """
        grid, (x, y, w, h) = self.grids[level], box
        out_YX3 = np.empty((h, w, 3), np.uint8)
        for row in range(y // grid.tile_h, -(-(y + h) // grid.tile_h)):
            top = row * grid.tile_h - y
            rows, from_row = slice(max(0, top), min(h, top + grid.tile_h)), max(0, -top)
            for column in range(x // grid.tile_w, -(-(x + w) // grid.tile_w)):
                left = column * grid.tile_w - x
                columns, from_column = slice(max(0, left), min(w, left + grid.tile_w)), max(0, -left)
                tile_YX3 = self._tile(level, row * grid.across + column)
                part_YX3 = out_YX3[rows, columns]
                height, width = part_YX3.shape[:2]
                part_YX3[:] = tile_YX3[from_row : from_row + height, from_column : from_column + width]
        return out_YX3

    def close(self) -> None:
        """Give the file back; nothing can be read any more."""
        self._release()
        self._handle = -1
        with self._lock:
            self._kept, self._kept_bytes = {}, 0

    def _tile(self, level: int, number: int) -> Pixels:
        """A decoded tile: kept from before, awaited from the thread that is at it, or decoded now."""
        key, grid = (level, number), self.grids[level]
        with self._lock:
            kept = self._kept.pop(key, None)
            tile = Future[Pixels]() if kept is None else kept
            self._kept[key] = tile  # now the most recently used
            self._kept_bytes += grid.tile_bytes if kept is None else 0
            while self._kept_bytes > CACHE_BYTES:
                self._forget(next(iter(self._kept)))
        if kept is not None:
            return kept.result()
        try:
            tile.set_result(self._decoded(grid, number))
        except BaseException as error:
            with self._lock:
                if self._kept.get(key) is tile:
                    self._forget(key)
            tile.set_exception(error)
            raise
        return tile.result()

    def _forget(self, key: tuple[int, int]) -> None:
        del self._kept[key]
        self._kept_bytes -= self.grids[key[0]].tile_bytes

    def _decoded(self, grid: TileGrid, number: int) -> Pixels:
        offset, count = int(grid.offsets_N[number]), int(grid.counts_N[number])
        shape = grid.tile_h, grid.tile_w, 3
        if count == 0:
            return np.broadcast_to(np.array(WHITE, np.uint8), shape)
        stored = os.pread(self._handle, count, offset)
        if len(stored) < count:
            msg = f"the file ends {count - len(stored)} bytes before tile {number} does"
            raise OSError(msg)
        if not stored.startswith(START):
            msg = f"tile {number} is no JPEG"
            raise ValueError(msg)
        tile_YX3: Pixels = self._decode(grid.head + stored[len(START) :], "RGB", strict=True)
        if tile_YX3.shape not in {shape, (grid.box(number)[3], *shape[1:])}:  # a last strip is shorter
            msg = f"tile {number} has {tile_YX3.shape} pixels, not {shape}"
            raise ValueError(msg)
        return tile_YX3


def tile_grids(
    path: Path, vendor: str, levels: tuple[Level, ...], suits: Callable[[Any], bool]
) -> tuple[TileGrid, ...] | None:
    """The tiles of each of OpenSlide's levels; None where a level's page does not suit.

    Aperio's missing tiles are drawn from the level before, and in OpenSlide take the tiles below them
    along: such a slide is left to it.
    """
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in islice(tiff.pages, PAGES) if page.is_tiled]
        by_size = {(page.imagewidth, page.imagelength): page for page in pages}
        found = [by_size.get((level.width, level.height)) for level in levels]
        if len(by_size) < len(pages) or not all(page is not None and suits(page) for page in found):
            return None
        grids = tuple(map(tile_grid, found))
    if vendor == "aperio" and any((grid.counts_N == 0).any() for grid in grids):
        return None
    return grids


def _is_plain(page: Any) -> bool:
    return bool(
        page.compression == JPEG
        and page.photometric in {RGB, YCBCR}
        and page.planarconfig == CONTIGUOUS
        and page.samplesperpixel == len(WHITE)
        and page.dtype == np.uint8
    )


def tile_grid(page: Any) -> TileGrid:
    """The tiles or strips of a level, by its first page in tifffile."""
    tables: bytes = page.jpegtables or START + b"\xff\xd9"
    return TileGrid(
        width=page.imagewidth,
        height=page.imagelength,
        tile_w=page.chunks[1],
        tile_h=page.chunks[0],
        offsets_N=np.asarray(page.dataoffsets, np.int64),
        counts_N=np.asarray(page.databytecounts, np.int64),
        head=START + ADOBE + bytes([page.photometric == YCBCR]) + tables[len(START) : -2],
    )


def _compare(index: TileIndex, slide: Levels) -> None:
    """Look at the fullest tiles of every level through both.

    Raises:
        ValueError: they differ, or a tile cannot be decoded.
    """
    for level, box in _fullest(index.grids):
        theirs, ours_YX3 = slide.read_level(level, box), index.read(level, box)
        x, y = theirs.dx, theirs.dy
        height, width = ours_YX3.shape[0] - 2, ours_YX3.shape[1] - 2
        if min(height, width) <= 0:
            continue
        inside = (1 + x, 1 + y, 1 + x + width, 1 + y + height)
        there_YX3 = resize(ours_YX3, (height, width), kernel="bilinear", box=inside)
        off = np.abs(there_YX3.astype(np.int16) - theirs.pixels[1:-1, 1:-1]).max()
        if off > (BESIDE if x or y else 0):
            msg = f"a tile of level {level} is off by {off} grey levels"
            raise ValueError(msg)


def _fullest(grids: tuple[TileGrid, ...]) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Yield the boxes of the tiles of most bytes, where the tissue is, of every level."""
    for level, grid in enumerate(grids):
        for number in np.argsort(grid.counts_N, kind="stable")[-CHECKED:]:
            yield level, grid.box(int(number))
