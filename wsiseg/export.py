"""From joined outlines to the files people open: ``tumor.geojson`` and ``overview.png``.

Needs neither torch nor the slide, only the outlines and the slide's record, so the same
code serves a run and a later change of mind about the threshold.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image

from wsiseg.bundle import BundleSpec
from wsiseg.geojson import Export, Placed, features, place, write
from wsiseg.geometry import Scale
from wsiseg.manifest import Result, SlideManifest
from wsiseg.options import PolygonOptions
from wsiseg.overview import draw_overview
from wsiseg.place import GEOJSON, OVERVIEW
from wsiseg.polygons import Regions, tidy, within_budget

__all__ = ["Outlining", "export_polygons", "outlining"]


@dataclass(frozen=True, slots=True)
class Outlining:
    """``PolygonOptions`` with every choice made, the bundle's where the user made none."""

    threshold: float
    min_area_um2: float
    min_hole_um2: float
    simplify_px: float
    origin: Literal["qupath", "level0"]
    review_above: float | None
    object_type: Literal["annotation", "detection"]
    gzip: bool
    max_vertices: int

    @property
    def key(self) -> str:
        """A sha256 (hex) over all of them: two exports of one map with one key are the same bytes."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def file(self) -> str:
        """The name of the GeoJSON file."""
        return f"{GEOJSON}.gz" if self.gzip else GEOJSON


def outlining(options: PolygonOptions, spec: BundleSpec) -> Outlining:
    """Make every choice: the user's, and where there is none, that of the bundle's author."""
    return Outlining(
        threshold=spec.threshold if options.threshold is None else options.threshold,
        min_area_um2=spec.min_area_um2 if options.min_area is None else options.min_area,
        min_hole_um2=spec.min_hole_um2 if options.min_hole is None else options.min_hole,
        simplify_px=options.simplify,
        origin=options.origin,
        review_above=options.review,
        object_type=options.object_type,
        gzip=options.gzip,
        max_vertices=options.max_vertices,
    )


def export_polygons(
    regions: Regions,
    manifest: SlideManifest,
    how: Outlining,
    folder: Path,
    *,
    thumbnail_YX3: npt.NDArray[np.uint8],
) -> SlideManifest:
    """Write GeoJSON and overview into a slide's folder; return the record with what was found.

    Args:
        regions: the joined outlines of the whole map at ``how.threshold``, canvas pixels.
        manifest: the slide's record; its result and polygon counts are replaced.
        how: what to keep and how to write it.
        folder: where the files go.
        thumbnail_YX3: the slide's bounds in RGB, for the overview.

    Raises:
        OutputError: a file cannot be written.
    """
    px_um2 = manifest.canvas.mpp**2
    tidied = tidy(
        regions,
        min_area_px=how.min_area_um2 / px_um2,
        min_hole_px=how.min_hole_um2 / px_um2,
        simplify_px=0,
    )
    kept, tolerance_px = within_budget(tidied, simplify_px=how.simplify_px, max_vertices=how.max_vertices)
    placed = place(kept, _export(manifest, how))
    result = _result(placed, manifest, how, found=len(regions))
    if tolerance_px > how.simplify_px:
        note = f"simplified by {tolerance_px:.3g} canvas px to stay under {how.max_vertices} vertices"
        result = result.model_copy(update={"note": "; ".join(filter(None, (result.note, note)))})
    about = {
        "slide": manifest.slide.name,
        "model": manifest.model.name,
        "origin": how.origin,
        "origin_level0_px": list(manifest.slide.bounds[:2]) if how.origin == "qupath" else [0, 0],
        "mpp": manifest.slide.mpp,
        "mpp_source": manifest.slide.mpp_source,
        "options": asdict(how),
        "use": "research only, not a medical device",
    }
    written = write(folder / how.file, features(placed), about)
    _draw(kept, manifest, result, how, thumbnail_YX3).save(folder / OVERVIEW, optimize=True)
    counts = {"polygons": written.features, "vertices": written.vertices}
    return manifest.model_copy(
        update={
            "polygon_key": how.key,
            "polygon_options": asdict(how),
            "result": result,
            "counts": manifest.counts.model_copy(update=counts),
        }
    )


def _export(manifest: SlideManifest, how: Outlining) -> Export:
    x, y, _, _ = manifest.slide.bounds
    return Export(
        scale=Scale(manifest.canvas.factor, x, y),
        mpp=manifest.slide.mpp,
        fingerprint=manifest.slide.fingerprint,
        weights_key="/".join(sorted(manifest.model.weights.values())),
        origin=how.origin,
        object_type=how.object_type,
        review_above=how.review_above,
    )


def _result(placed: Placed, manifest: SlideManifest, how: Outlining, *, found: int) -> Result:
    area_mm2 = shapely.area(placed.polygons_N) * (manifest.slide.mpp / 1000) ** 2
    tumor_mm2, tissue_mm2 = float(area_mm2.sum()), manifest.result.tissue_mm2
    some = len(area_mm2) > 0
    note = "" if some else f"no region of {how.min_area_um2:g} µm² or more reaches {how.threshold:g}"
    if found and not some:
        note += f"; {found} smaller ones were dropped"
    if tissue_mm2 == 0:
        note = "no tissue was found on the slide; --tissue none looks everywhere"
    return Result(
        tumor_mm2=tumor_mm2,
        tissue_mm2=tissue_mm2,
        tissue_fraction=tumor_mm2 / tissue_mm2 if tissue_mm2 else None,
        mean_probability=float(np.average(placed.mean_prob_N, weights=area_mm2)) if some else None,
        disagreement=float(np.average(placed.spread_N, weights=area_mm2)) if some else None,
        note=note,
    )


def _draw(
    kept: Regions,
    manifest: SlideManifest,
    result: Result,
    how: Outlining,
    thumbnail_YX3: npt.NDArray[np.uint8],
) -> Image.Image:
    per_l0 = thumbnail_YX3.shape[1] / manifest.slide.bounds[2]
    of_tissue = "" if result.tissue_mm2 is None else f" of {result.tissue_mm2:.2f} mm^2 tissue"
    words = f"tumor {result.tumor_mm2:.2f} mm^2{of_tissue}, regions: {len(kept)}, p >= {how.threshold:g}"
    return draw_overview(
        thumbnail_YX3,
        kept.polygons_N,
        mpp=manifest.slide.mpp / per_l0,
        px_per_canvas_px=manifest.canvas.factor * per_l0,
        caption=f"{words} ({manifest.model.name}, research use only)",
    )
