"""Slides through tiffslide: OME-TIFF and flat or striped TIFF, which OpenSlide does not know.

tiffslide opens much that it cannot truly read, and reads damaged files without a word, so a
file is trusted only when its structure is whole and its pixels are 8-bit RGB or grey.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tiffslide

from wsiseg.errors import SlideOpenError
from wsiseg.location import Location, Remote
from wsiseg.readers.codestreams import Codestreams
from wsiseg.readers.content import TIFF, check_alone, check_light, check_series, check_tiff, planes_apart
from wsiseg.readers.levels import (
    Facts,
    Level,
    Raw,
    bounds_in,
    first_level0,
    flatten,
    flatten_weighed,
    icc_said,
    number,
    whiten,
    with_ome_mpp,
)
from wsiseg.readers.tile_index import TileIndex, agrees, index_of

__all__ = ["TiffSlideLevels"]

CHUNK_BYTES = 1 << 30
"""The largest tile or strip, decoded, that is taken on."""
ICC_TAG = 34675
UNASSOCIATED = 2
"""ExtraSamples of an alpha by which the colours are not multiplied yet; others are, as OpenSlide has it."""


class TiffSlideLevels:
    """A slide as tiffslide sees it."""

    @staticmethod
    def knows(path: Path) -> bool:
        """Whether it is a TIFF."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) in TIFF

    def __init__(self, path: Location) -> None:
        if not isinstance(path, Remote):
            check_tiff(path, series=True)  # before tiffslide refuses it with a reason of its own
        if path.suffix.lower() == ".vsi":
            msg = f"{path.name} is an Olympus VSI: only its preview could be read; export it as OME-TIFF"
            raise SlideOpenError(msg)
        if not isinstance(path, Remote) and planes_apart(path):
            msg = (
                f"{path.name} keeps red, green and blue in planes apart, which tiffslide does not read; "
                "re-save it interleaved"
            )
            raise SlideOpenError(msg)
        self._tiles: TileIndex | None = None
        self._streams: Codestreams | None = None
        self._past = False
        self._facts: Facts
        self._slide = tiffslide.TiffSlide(path.url if isinstance(path, Remote) else str(path))
        try:
            pages = self._look(path.name)
            if not isinstance(path, Remote):
                self._be_strict(path, pages)
        except BaseException:
            self.close()
            raise

    @property
    def facts(self) -> Facts:
        """What the file says of itself."""
        return self._facts

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """The pixels ``x, y, w, h`` of one level; white where the file has no tile."""
        if self._tiles is not None:
            strictly = self._tiles.read(level, box)  # raises where a tile is damaged
            if self._past:
                return Raw(strictly)
        if self._streams is not None:
            self._streams.check(level, box)
        x, y, w, h = box
        downsample: float = self._slide.level_downsamples[level]
        at = (first_level0(x, downsample), first_level0(y, downsample))
        read: npt.NDArray[np.uint8] = self._slide.read_region(at, level, (w, h), as_array=True)
        match read.shape[2]:
            case 1:
                rgb = np.repeat(read, 3, axis=2)
            case 3:
                rgb = np.array(read)
            case _:
                rgb = (flatten_weighed if self._weighed else flatten)(read)
        absent_YX = self._absent[level]
        if absent_YX is not None:
            whiten(rgb, absent_YX, self._pieces[level], box)
        return Raw(rgb)

    def close(self) -> None:
        """Give the file back."""
        for beside in (self._tiles, self._streams):
            if beside is not None:
                beside.close()
        self._slide.close()

    def _be_strict(self, path: Path, pages: list[Any]) -> None:
        """Have JPEG tiles decoded so that damage is told, which tiffslide passes over.

        Where the strict decoder gives tiffslide's pixels, its own are taken; elsewhere it looks
        at every tile that tiffslide decodes.
        """
        self._streams = Codestreams.of_pages(path, pages)
        tiles = index_of(path, pages)
        if tiles is not None:
            self._past = agrees(tiles, self)
            self._tiles = tiles
            self._facts = replace(self._facts, reader=f"{self._facts.reader}+{tiles.version}")

    def _look(self, name: str) -> list[Any]:
        """Judge structure and content, and take the facts; the first page of every level."""
        tiff = self._slide.ts_tifffile
        series = tiff.series[int(self._slide.properties.get("tiffslide.series-index") or 0)]
        pages = [level.keyframe for level in series.levels]
        _check_place(name, tiff, series)
        check_light(name, tiff)
        check_alone(name, series, tiff.series)
        check_series(name, series)
        _check_structure(name, tiff, pages)
        self._pieces = [page.chunks[:2] for page in pages]
        self._absent = [_absent(page) for page in pages]
        properties = self._slide.properties
        icc = pages[0].tags.get(ICC_TAG)
        self._facts = _facts(self._slide, properties, 0 if icc is None else icc.count)
        if series is tiff.series[0]:  # tiffslide knows the resolution tags only
            self._facts = with_ome_mpp(self._facts, tiff.ome_metadata or "")
        self._weighed = any(alpha != UNASSOCIATED for alpha in pages[0].extrasamples)
        return pages


def _check_place(name: str, tiff: Any, series: Any) -> None:
    """Refuse an OME-TIFF whose XML names another file for its pixels: nobody would know whose they are."""
    pages = (page for level in series.levels for page in level.pages if page is not None)
    if any(page.parent is not tiff for page in pages):
        msg = f"{name} keeps its pixels in other files, which are not read: export it as one file"
        raise SlideOpenError(msg)


def _check_structure(name: str, tiff: Any, pages: list[Any]) -> None:
    """Refuse a file whose parts lie beyond its end: it was cut short."""
    size = tiff.filehandle.size
    ends = [
        offset + count
        for page in pages
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    ]
    ends += [offset + 1 for page in pages for offset in page.subifds or ()]
    if not ends or max(ends) > size or _next_directory(tiff):
        msg = f"{name} is cut short: parts of it lie beyond its {size} bytes; copy it again"
        raise SlideOpenError(msg)
    for page in pages:
        if int(np.prod(page.chunks, dtype=np.int64)) > CHUNK_BYTES:
            msg = f"{name} is stored in pieces of {page.chunks} pixels, too large to decode; re-save it tiled"
            raise SlideOpenError(msg)


def _next_directory(tiff: Any) -> int:
    """Where the last directory says that the next one is: 0 in a whole file."""
    tiff.filehandle.seek(tiff.pages.next_page_offset)
    return int.from_bytes(
        tiff.filehandle.read(tiff.tiff.offsetsize), "big" if tiff.byteorder == ">" else "little"
    )


def _absent(page: Any) -> npt.NDArray[np.bool_] | None:
    """Which tiles or strips the file does not hold (rows, columns); None where it holds all."""
    absent = np.equal(page.databytecounts, 0)
    if not absent.any():
        return None
    rows, columns = page.chunked[:2] if page.planarconfig.name == "CONTIG" else page.chunked[1:3]
    absent_YX: npt.NDArray[np.bool_] = absent.reshape(-1, rows, columns).any(axis=0)
    return absent_YX


def _facts(slide: Any, properties: dict[str, Any], icc_bytes: int) -> Facts:
    return Facts(
        reader=f"tiffslide {tiffslide.__version__}",
        vendor=properties.get("tiffslide.vendor") or "tiff",
        levels=tuple(Level(w, h) for w, h in slide.level_dimensions),
        bounds=bounds_in(properties, "tiffslide"),
        mpp=(number(properties.get("tiffslide.mpp-x")), number(properties.get("tiffslide.mpp-y"))),
        mpp_source="tiffslide.mpp-x",
        objective=number(properties.get("tiffslide.objective-power")),
        colour=icc_said(icc_bytes),
    )
