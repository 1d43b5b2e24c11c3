"""Slides through OpenSlide: SVS, NDPI, VMS, MRXS, SCN, BIF, Philips, CZI, DICOM, tiled TIFF.

Where the tiles are plain JPEG they are decoded past OpenSlide, see ``tile_index``; the reader's name says so.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openslide

from wsiseg.errors import SlideOpenError
from wsiseg.readers.codestreams import Codestreams
from wsiseg.readers.content import check_properties, check_tiff, ome_xml, planes_apart
from wsiseg.readers.levels import Facts, Level, Raw, bounds_in, flatten, icc_said, number, with_ome_mpp
from wsiseg.readers.tile_index import TileIndex, trusted_index

__all__ = ["OpenSlideLevels"]

GENERIC = "generic-tiff"
"""OpenSlide's word for a tiled TIFF of no vendor that it knows."""
CACHE_BYTES = 64 << 20
"""Decoded tiles kept by a handle: neighbouring reads share tiles."""


class OpenSlideLevels:
    """A slide as OpenSlide sees it."""

    @staticmethod
    def knows(path: Path) -> bool:
        """Whether OpenSlide knows the format of a file, be it readable or not."""
        vendor = openslide.OpenSlide.detect_format(str(path)) if path.is_file() else None
        if vendor == GENERIC and ome_xml(path):  # it would see one level of an OME-TIFF, and no resolution
            return planes_apart(path)
        return vendor is not None

    def __init__(self, path: Path, *, past: bool = True) -> None:
        """Open a slide; without ``past`` OpenSlide itself decodes every tile."""
        self._tiles: TileIndex | None = None
        self._streams: Codestreams | None = None
        try:
            self._slide = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            if "compression" not in str(error):
                raise
            msg = (
                f"{path.name} is compressed in a way that OpenSlide does not read ({error}); "
                "try --reader tiffslide, or re-save it in JPEG tiles"
            )
            raise SlideOpenError(msg) from error
        try:
            properties: dict[str, str] = dict(self._slide.properties)
            check_properties(path.name, properties)
            generic = properties.get("openslide.vendor") == GENERIC
            check_tiff(path, series=generic)
            self._slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
            self._downsamples: tuple[float, ...] = self._slide.level_downsamples
            self._background = tuple(bytes.fromhex(properties.get("openslide.background-color", "FFFFFF")))
            self._facts = _facts(self._slide, properties)
            if generic:
                self._facts = with_ome_mpp(self._facts, ome_xml(path))
            if past:
                self._go_past(path)
            self._streams = Codestreams.of_openslide(path, self._facts.vendor, self._facts.levels)
        except BaseException:
            self.close()
            raise

    def _go_past(self, path: Path) -> None:
        """Let tiles be decoded past OpenSlide where that gives its pixels."""
        facts = self._facts
        alone = partial(OpenSlideLevels, past=False)
        self._tiles = trusted_index(path, facts.vendor, facts.levels, alone)
        if self._tiles is not None:
            self._slide.set_cache(openslide.OpenSlideCache(0))
            exact = tuple(replace(level, whole=True) for level in facts.levels)
            self._facts = replace(facts, reader=f"{facts.reader}+{self._tiles.version}", levels=exact)

    @property
    def facts(self) -> Facts:
        """What the file says of itself."""
        return self._facts

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """The pixels ``x, y, w, h`` of one level; OpenSlide takes their place in level 0.

        That place is whole, so with a fractional downsample the read begins up to half a
        level-0 pixel beside the one asked for, and the difference is returned.
        """
        if self._tiles is not None:
            return Raw(self._tiles.read(level, box))
        if self._streams is not None:
            self._streams.check(level, box)
        x, y, w, h = box
        downsample = self._downsamples[level]
        at_x, at_y = round(x * downsample), round(y * downsample)
        rgba = np.asarray(self._slide.read_region((at_x, at_y), level, (w, h)))
        return Raw(flatten(rgba, self._background), at_x / downsample - x, at_y / downsample - y)

    def close(self) -> None:
        """Give the file back."""
        for beside in (self._tiles, self._streams):
            if beside is not None:
                beside.close()
        self._slide.close()


def _facts(slide: Any, properties: dict[str, str]) -> Facts:
    version = f"openslide {openslide.__library_version__}"
    levels = tuple(
        Level(w, h, whole=downsample.is_integer())
        for (w, h), downsample in zip(slide.level_dimensions, slide.level_downsamples, strict=True)
    )
    return Facts(
        reader=version,
        vendor=properties.get("openslide.vendor", "unknown"),
        levels=levels,
        bounds=bounds_in(properties, "openslide"),
        mpp=(number(properties.get("openslide.mpp-x")), number(properties.get("openslide.mpp-y"))),
        mpp_source="openslide.mpp-x",
        objective=number(properties.get("openslide.objective-power")),
        colour=icc_said(int(properties.get("openslide.icc-size", 0))),
    )
