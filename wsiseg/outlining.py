"""How a map becomes outlines, with every choice made: the user's, and the bundle's where there is none."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from wsiseg.bundle import BundleSpec
from wsiseg.errors import OutputError
from wsiseg.manifest import SlideManifest
from wsiseg.options import PolygonOptions
from wsiseg.place import geojson_name
from wsiseg.polygons import more_asked, threshold_u8

__all__ = ["Outlining", "changed", "outlining"]

_LONG_NAMES = {
    "min_area": "min_area_um2",
    "min_hole": "min_hole_um2",
    "simplify": "simplify_px",
    "review": "review_above",
}


@dataclass(frozen=True, slots=True)
class Outlining:
    """``PolygonOptions`` with every choice made."""

    threshold: float
    min_area_um2: float
    min_hole_um2: float
    simplify_px: float
    origin: Literal["qupath", "level0"]
    review_above: float | None
    object_type: Literal["annotation", "detection"]
    gzip: bool
    max_vertices: int
    heatmap: bool = False
    sure: float = 0.0

    @property
    def key(self) -> str:
        """A sha256 (hex) over all that counts: two exports of one map with one key are the same bytes."""
        counts = asdict(self)
        if not self.more_asked:
            del counts["sure"]
        return hashlib.sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest()

    @property
    def file(self) -> str:
        """The name of the GeoJSON file."""
        return geojson_name(packed=self.gzip)

    @property
    def levels_u8(self) -> tuple[int, int]:
        """The smallest stored values that are tumour, and that are surely so."""
        return threshold_u8(self.threshold), threshold_u8(self.more_asked or self.threshold)

    @property
    def more_asked(self) -> float:
        """The probability above the threshold that a region must reach in places; 0 where none is asked."""
        return more_asked(self.threshold, self.sure)


def outlining(options: PolygonOptions, spec: BundleSpec) -> Outlining:
    """Make every choice: the user's, and where there is none, that of the bundle's author."""
    return Outlining(
        threshold=spec.threshold if options.threshold is None else options.threshold,
        min_area_um2=spec.min_area_um2 if options.min_area is None else options.min_area,
        min_hole_um2=spec.min_hole_um2 if options.min_hole is None else options.min_hole,
        simplify_px=options.simplify,
        origin=options.origin,
        review_above=spec.review_above if options.review is None else options.review,
        object_type=options.object_type,
        gzip=options.gzip,
        max_vertices=options.max_vertices,
        heatmap=options.heatmap,
        sure=spec.sure if options.sure is None else options.sure,
    )


def changed(manifest: SlideManifest, given: Mapping[str, Any]) -> Outlining:
    """How a slide was outlined last, but for what is now ``given`` (by ``PolygonOptions``' names).

    Raises:
        OutputError: the record does not say how it was outlined.
    """
    try:
        how = Outlining(**manifest.polygon_options)
    except TypeError as error:
        msg = f"the record of {manifest.slide.name} is of another version; segment it with --overwrite"
        raise OutputError(msg) from error
    return replace(how, **{_LONG_NAMES.get(name, name): value for name, value in given.items()})
