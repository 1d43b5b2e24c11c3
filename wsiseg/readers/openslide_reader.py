"""Slides through OpenSlide: SVS, NDPI, VMS, MRXS, SCN, BIF, Philips, DICOM, tiled TIFF."""

from pathlib import Path
from typing import Any

import numpy as np
import openslide

from wsiseg.errors import SlideOpenError
from wsiseg.geometry import L0, Box
from wsiseg.readers.levels import Facts, Level, Raw, flatten, number

__all__ = ["OpenSlideLevels", "knows"]

CACHE_BYTES = 64 << 20
"""Decoded tiles kept by a handle: neighbouring reads share tiles."""


def knows(path: Path) -> bool:
    """Whether OpenSlide knows the format of a file, be it readable or not."""
    try:
        return openslide.OpenSlide.detect_format(str(path)) is not None
    except openslide.OpenSlideError:
        return True


class OpenSlideLevels:
    """A slide as OpenSlide sees it."""

    foreign: tuple[type[Exception], ...] = (openslide.OpenSlideError, OSError)

    def __init__(self, path: Path) -> None:
        try:
            self._slide = openslide.OpenSlide(str(path))
        except (openslide.OpenSlideError, OSError) as error:
            msg = f"{path.name} is damaged or incomplete: openslide says {str(error)!r}; copy it again"
            raise SlideOpenError(msg) from error
        self._slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        self._downsamples: tuple[float, ...] = self._slide.level_downsamples
        properties: dict[str, str] = dict(self._slide.properties)
        colour = properties.get("openslide.background-color", "FFFFFF")
        self._background = (int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:6], 16))
        self._facts = _facts(self._slide, properties)

    @property
    def facts(self) -> Facts:
        """What the file says of itself."""
        return self._facts

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """The pixels ``x, y, w, h`` of one level; OpenSlide takes their place in level 0.

        That place is whole, so with a fractional downsample the read begins up to half a
        level-0 pixel beside the one asked for, and the difference is returned.
        """
        x, y, w, h = box
        downsample = self._downsamples[level]
        at_x, at_y = round(x * downsample), round(y * downsample)
        rgba = np.asarray(self._slide.read_region((at_x, at_y), level, (w, h)))
        return Raw(flatten(rgba, self._background), at_x / downsample - x, at_y / downsample - y)

    def close(self) -> None:
        """Give the file back."""
        self._slide.close()


def _facts(slide: Any, properties: dict[str, str]) -> Facts:
    version = f"openslide {openslide.__library_version__}"
    levels = tuple(
        Level(w, h, whole=downsample.is_integer())
        for (w, h), downsample in zip(slide.level_dimensions, slide.level_downsamples, strict=True)
    )
    sides = [properties.get(f"openslide.bounds-{side}") for side in ("x", "y", "width", "height")]
    bounds: Box[L0] | None = None
    if None not in sides:
        bounds = Box(*(int(str(side)) for side in sides))
    return Facts(
        reader=version,
        vendor=properties.get("openslide.vendor", "unknown"),
        levels=levels,
        bounds=bounds,
        mpp=(number(properties.get("openslide.mpp-x")), number(properties.get("openslide.mpp-y"))),
        mpp_source="openslide.mpp-x",
        objective=number(properties.get("openslide.objective-power")),
    )
