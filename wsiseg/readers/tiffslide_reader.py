"""Slides through tiffslide: OME-TIFF and flat or striped TIFF, which OpenSlide does not know.

tiffslide opens much that it cannot truly read, and reads damaged files without a word, so a
file is trusted only when its structure is whole, its pixels are 8-bit RGB or grey, and a
few probe reads succeed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tiffslide

from wsiseg.errors import SlideOpenError
from wsiseg.geometry import L0, Box
from wsiseg.readers.levels import WHITE, Facts, Level, Raw, flatten, number

__all__ = ["TiffSlideLevels"]

CHUNK_BYTES = 1 << 30
"""The largest tile or strip, decoded, that is taken on."""
PROBE_PX = 64
COLOURS = {"RGB", "YCBCR"}


class TiffSlideLevels:
    """A slide as tiffslide sees it."""

    foreign: tuple[type[Exception], ...] = (Exception,)  # tiffslide's failures are not one family

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() == ".vsi":
            msg = f"{path.name} is an Olympus VSI: only its preview could be read; export it as OME-TIFF"
            raise SlideOpenError(msg)
        try:
            self._slide = tiffslide.TiffSlide(str(path))
        except Exception as error:
            msg = f"{path.name} is of no format that openslide or tiffslide can open ({error})"
            raise SlideOpenError(msg) from error
        try:
            self._look(path.name)
        except SlideOpenError:
            self.close()
            raise
        except Exception as error:
            self.close()
            cause = str(error) or type(error).__name__
            msg = f"{path.name} is damaged or cut short: tiffslide says {cause!r}; copy it again"
            raise SlideOpenError(msg) from error

    @property
    def facts(self) -> Facts:
        """What the file says of itself."""
        return self._facts

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """The pixels ``x, y, w, h`` of one level; white where the file has no tile."""
        x, y, w, h = box
        at = (self._level0(x, level), self._level0(y, level))
        read: npt.NDArray[np.uint8] = self._slide.read_region(at, level, (w, h), as_array=True)
        samples = read.shape[2]
        if samples == 1:
            rgb = np.repeat(read, 3, axis=2)
        else:
            rgb = flatten(read, self._background) if samples > 3 else np.array(read)  # noqa: PLR2004 - RGB
        missing_YX = self._missing[level]
        if missing_YX is not None:
            chunk_h, chunk_w = self._chunks[level]
            rows, columns = np.arange(y, y + h) // chunk_h, np.arange(x, x + w) // chunk_w
            rgb[missing_YX[np.ix_(rows, columns)]] = WHITE
        return Raw(rgb)

    def close(self) -> None:
        """Give the file back."""
        self._slide.close()

    def _level0(self, at: int, level: int) -> int:
        """The first level-0 pixel that tiffslide, which rounds down, takes for level pixel ``at``."""
        downsample: float = self._slide.level_downsamples[level]
        found = int(at * downsample)
        while int(found / downsample) < at:
            found += 1
        return found

    def _look(self, name: str) -> None:
        """Judge structure and content, take the facts, and read a few places."""
        tiff = self._slide.ts_tifffile
        series = tiff.series[int(self._slide.properties.get("tiffslide.series-index") or 0)]
        pages = [level.keyframe for level in series.levels]
        _check_content(name, series, pages[0])
        _check_structure(name, tiff, pages)
        self._chunks = [page.chunks[:2] for page in pages]
        self._missing = [_missing(page) for page in pages]
        properties = self._slide.properties
        colour = properties.get("tiffslide.background-color") or "FFFFFF"
        self._background = (int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:6], 16))
        self._facts = _facts(self._slide, properties)
        for level, size in enumerate(self._facts.levels):
            w, h = min(PROBE_PX, size.width), min(PROBE_PX, size.height)
            for x in (0, (size.width - w) // 2, size.width - w):
                for y in (0, (size.height - h) // 2, size.height - h):
                    self.read_level(level, (x, y, w, h))


def _check_content(name: str, series: Any, page: Any) -> None:
    """Refuse what is not 8-bit RGB(A) or grey: it would be read as wrong colours."""
    samples = {"YXS": series.shape[-1], "CYX": series.shape[0], "YX": 1}.get(series.axes, 0)
    colour = page.photometric.name in COLOURS and samples in {3, 4}
    grey = page.photometric.name == "MINISBLACK" and samples == 1
    if series.dtype == np.uint8 and (colour or grey):
        return
    msg = (
        f"{name} holds {series.dtype} pixels with axes {series.axes} {tuple(series.shape)} "
        f"({page.photometric.name}); only 8-bit RGB or grey of one plane is brightfield: "
        f"export it as 8-bit RGB"
    )
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


def _missing(page: Any) -> npt.NDArray[np.bool_] | None:
    """Which tiles or strips the file does not hold (rows, columns); None where it holds all."""
    absent = np.equal(page.databytecounts, 0)
    if not absent.any():
        return None
    rows, columns = page.chunked[:2] if page.planarconfig.name == "CONTIG" else page.chunked[1:3]
    missing_YX: npt.NDArray[np.bool_] = absent.reshape(-1, rows, columns).any(axis=0)
    return missing_YX


def _facts(slide: Any, properties: dict[str, Any]) -> Facts:
    sides = [properties.get(f"tiffslide.bounds-{side}") for side in ("x", "y", "width", "height")]
    bounds: Box[L0] | None = None
    if None not in sides:
        bounds = Box(*(int(str(side)) for side in sides))
    return Facts(
        reader=f"tiffslide {tiffslide.__version__}",
        vendor=properties.get("tiffslide.vendor") or "tiff",
        levels=tuple(Level(w, h) for w, h in slide.level_dimensions),
        bounds=bounds,
        mpp=(number(properties.get("tiffslide.mpp-x")), number(properties.get("tiffslide.mpp-y"))),
        mpp_source="tiffslide.mpp-x",
        objective=number(properties.get("tiffslide.objective-power")),
    )
