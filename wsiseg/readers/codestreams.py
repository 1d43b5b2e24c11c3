"""JPEG 2000 tiles that stop before their end: OpenJPEG makes a blurred picture of what there is.

A whole codestream ends with the marker EOC (ISO/IEC 15444-1, A.4.4). Where a file's tiles do, one
that does not has lost its end. Damage in its middle cannot be told from a picture.
"""

import logging
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.readers.levels import Level
from wsiseg.readers.tile_index import TileGrid, tile_grid, tile_grids

__all__ = ["Codestreams"]

log = logging.getLogger(__name__)

VENDORS = ("aperio", "generic-tiff")
JPEG2000 = {33003, 33005, 34712}
"""TIFF's Compression: Aperio's two, and the one that is registered."""
EOC = b"\xff\xd9"
ASKED = 32
"""So many tiles of a level are asked whether this file's end so at all."""


class Codestreams:
    """The tiles of a file's levels, of which each can be asked whether it is whole."""

    def __init__(self, path: Path, grids: tuple[TileGrid, ...]) -> None:
        self._grids = grids
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._release = weakref.finalize(self, os.close, self._handle)

    @classmethod
    def of_openslide(cls, path: Path, vendor: str, levels: tuple[Level, ...]) -> "Codestreams | None":
        """Those of OpenSlide's levels; None where they are no JPEG 2000, or do not end as they should.

        Raises:
            OSError: the file cannot be read.
        """
        if vendor not in VENDORS:
            return None
        try:
            grids = tile_grids(path, vendor, levels, _is_jpeg2000)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - tifffile's failures are not one family; OpenSlide judges
            log.info("%s: its tiles are not looked at: %s", path.name, error)
            return None
        return None if grids is None else cls._usual(path, grids)

    @classmethod
    def of_pages(cls, path: Path, pages: Sequence[Any]) -> "Codestreams | None":
        """Those of levels, by their first pages in tifffile; None as above.

        Raises:
            OSError: the file cannot be read.
        """
        return cls._usual(path, tuple(map(tile_grid, pages))) if all(map(_is_jpeg2000, pages)) else None

    @classmethod
    def _usual(cls, path: Path, grids: tuple[TileGrid, ...]) -> "Codestreams | None":
        """None where most tiles do not end with the marker: a writer that pads them."""
        found = cls(path, grids)
        asked = [
            found.is_whole(grid, number)
            for grid in grids
            for number in np.linspace(0, len(grid.counts_N) - 1, ASKED, dtype=int).tolist()
        ]
        if 2 * sum(asked) > len(asked):
            return found
        found.close()
        return None

    def close(self) -> None:
        """Give the file back; nothing can be asked any more."""
        self._release()
        self._handle = -1

    def is_whole(self, grid: TileGrid, number: int) -> bool:
        """Whether a tile ends as a codestream does; one that is not there does."""
        offset, count = int(grid.offsets_N[number]), int(grid.counts_N[number])
        return count == 0 or os.pread(self._handle, len(EOC), offset + count - len(EOC)) == EOC

    def check(self, level: int, box: tuple[int, int, int, int]) -> None:
        """Look at the tiles under a box ``x, y, w, h`` of a level, and a pixel around it.

        Raises:
            ValueError: one has lost its end. OSError: the file cannot be read, or is closed.
        """
        x, y, w, h = box
        grid = self._grids[level]
        for number in grid.within((x - 1, y - 1, w + 2, h + 2)):
            if not self.is_whole(grid, number):
                msg = f"tile {number} stops before its end"
                raise ValueError(msg)


def _is_jpeg2000(page: Any) -> bool:
    return page.compression in JPEG2000 and page.planarconfig.name == "CONTIG"
