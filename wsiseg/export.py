"""From joined outlines to the files people open: GeoJSON, ``review.csv``, ``overview.png``, heat map.

Needs neither torch nor the slide, only the outlines, the slide's record and its thumbnail, so
the same code serves a run and a later change of mind about the threshold. Each file appears
under its name when it is whole.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, UnidentifiedImageError

from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import OutputError
from wsiseg.flags import flags
from wsiseg.geojson import Export, Placed, features, place, unknown_features, write
from wsiseg.geometry import L0, Box, Scale
from wsiseg.heatmap import HEATMAP, write_heatmap
from wsiseg.manifest import Result, SlideManifest, remove, write_whole
from wsiseg.nodata import sentence, unknown
from wsiseg.outlining import Outlining
from wsiseg.overview import Mark, draw_overview, hatched, traced
from wsiseg.place import MAP, OVERVIEW, geojson_name
from wsiseg.polygons import Regions, tidy, within_budget
from wsiseg.review import REVIEW, review_limit, write_review

__all__ = [
    "THUMBNAIL",
    "chosen",
    "export_polygons",
    "keep_thumbnail",
    "thumbnail_of",
]

Areas = npt.NDArray[np.float64]

THUMBNAIL = "thumbnail.jpg"
"""The slide without outlines: what an overview is drawn on, now and when it is outlined again."""
JPEG_QUALITY, PNG_EFFORT = 90, 3
"""More effort than 3 makes a picture a thirtieth smaller in twice the time."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What of the joined outlines is exported, and how much was given up for it.

    Attributes:
        regions: simplified, in canvas pixels.
        placed: the same in the pixels of the export.
        area_mm2_N: of each region before it was simplified, small holes filled.
        tolerance_px: by how much they were simplified, in canvas px.
        found: the number of regions before the small ones were dropped.
    """

    regions: Regions
    placed: Placed
    area_mm2_N: Areas
    tolerance_px: float
    found: int


def chosen(regions: Regions, manifest: SlideManifest, how: Outlining) -> tuple[Regions, Areas]:
    """The regions that are large and sure enough, small holes filled, none simplified; their areas in mm²."""
    px_um2 = manifest.canvas.mpp**2
    left = tidy(
        regions,
        min_area_px=how.min_area_um2 / px_um2,
        min_hole_px=how.min_hole_um2 / px_um2,
        simplify_px=0,
        unknown=unknown(manifest),
        min_sure_px=max(1, how.min_area_um2 / px_um2) if how.more_asked else 0,
    )
    return left, shapely.area(left.polygons_N) * px_um2 / 1e6


def _keep(regions: Regions, manifest: SlideManifest, how: Outlining) -> _Kept:
    """Fill, drop, simplify and place the outlines of the whole map at ``how.threshold``."""
    left, area_mm2_N = chosen(regions, manifest, how)
    kept, tolerance_px = within_budget(left, simplify_px=how.simplify_px, max_vertices=how.max_vertices)
    return _Kept(kept, place(kept, _export(manifest, how)), area_mm2_N, tolerance_px, len(regions))


def export_polygons(regions: Regions, manifest: SlideManifest, how: Outlining, folder: Path) -> SlideManifest:
    """Write a slide's files into its folder; return the record with what was found.

    Args:
        regions: the joined outlines of the whole map at ``how.threshold``, canvas pixels.
        manifest: the slide's record; its result and polygon counts are replaced.
        how: what to keep and how to write it.
        folder: where the files go, where the thumbnail is, and the map for a heat map.

    Raises:
        OutputError: a file cannot be written, or there is no thumbnail.
    """
    kept = _keep(regions, manifest, how)
    result = _result(kept, manifest, how)
    ids: list[str] = []
    lost: list[Box[L0]] = [Box(*place) for place in manifest.unreadable]
    every = chain(_noting(features(kept.placed), ids), unknown_features(lost, kept.placed.export))
    written = write(folder / how.file, every, _about(manifest, how))
    to_review = write_review(folder / REVIEW, kept.placed, ids, limit=how.review_above)
    picture = _draw(kept.regions, manifest, result, how, _background(folder, manifest))
    write_whole(folder / OVERVIEW, _encoded(picture, "PNG"))
    if how.heatmap and not (folder / HEATMAP).exists():  # the map decides it alone, and never changes
        write_heatmap(folder / HEATMAP, ProbabilityMap.open(folder / MAP), mpp=manifest.canvas.mpp)
    for other in {geojson_name(packed=False), geojson_name(packed=True)} - {how.file}:
        remove(folder / other)
    counts = {"polygons": len(ids), "vertices": written.vertices}
    done = manifest.model_copy(
        update={
            "polygon_key": how.key,
            "polygon_options": asdict(how),
            "result": result,
            "counts": manifest.counts.model_copy(update=counts),
        }
    )
    return done.model_copy(update={"flags": flags(done, to_review)})


def _about(manifest: SlideManifest, how: Outlining) -> dict[str, Any]:
    """What a GeoJSON file says of itself."""
    return {
        "slide": manifest.slide.name,
        "model": manifest.model.name,
        "origin": how.origin,
        "origin_level0_px": list(manifest.slide.bounds[:2]) if how.origin == "qupath" else [0, 0],
        "mpp": manifest.slide.mpp,
        "mpp_source": manifest.slide.mpp_source,
        "options": asdict(how),
        "unreadable_level0_px": [list(place) for place in manifest.unreadable],
        "use": "research only, not a medical device",
    }


def _noting(features: Iterable[dict[str, Any]], ids: list[str]) -> Iterator[dict[str, Any]]:
    for feature in features:
        ids.append(feature["id"])
        yield feature


def _encoded(picture: Image.Image, kind: Literal["JPEG", "PNG"]) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, quality=JPEG_QUALITY, compress_level=PNG_EFFORT)
    return content.getvalue()


def keep_thumbnail(folder: Path, thumbnail_YX3: npt.NDArray[np.uint8]) -> None:
    """Write the slide's bounds (Y, X, 3), RGB, for the overview to be drawn on.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(folder / THUMBNAIL, _encoded(Image.fromarray(thumbnail_YX3), "JPEG"))


def thumbnail_of(folder: Path) -> npt.NDArray[np.uint8]:
    """The thumbnail in a slide's folder (Y, X, 3), RGB.

    Raises:
        OutputError: there is none that can be read.
    """
    try:
        with Image.open(folder / THUMBNAIL) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        msg = f"{folder / THUMBNAIL} cannot be read ({error}); segment the slide again with --overwrite"
        raise OutputError(msg) from error


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
        disagreement=_several(manifest),
    )


def _several(manifest: SlideManifest) -> bool:
    """Whether there are networks that can disagree."""
    return len(manifest.model.weights) > 1


def _result(kept: _Kept, manifest: SlideManifest, how: Outlining) -> Result:
    area_mm2_N, some = kept.area_mm2_N, len(kept.regions) > 0
    apart = some and _several(manifest)
    tumor_mm2, tissue_mm2 = float(area_mm2_N.sum()), manifest.result.tissue_mm2
    return Result(
        tumor_mm2=tumor_mm2,
        tissue_mm2=tissue_mm2,
        tissue_fraction=tumor_mm2 / tissue_mm2 if tissue_mm2 else None,
        mean_probability=float(np.average(kept.regions.mean_prob_N, weights=area_mm2_N)) if some else None,
        disagreement=float(np.average(kept.regions.spread_N, weights=area_mm2_N)) if apart else None,
        unreadable_mm2=manifest.result.unreadable_mm2,
        note="; ".join(_notes(kept, manifest, how)),
    )


def _notes(kept: _Kept, manifest: SlideManifest, how: Outlining) -> Iterator[str]:
    """What a reader of the result should know."""
    if lost := sentence(manifest):
        yield lost
    if manifest.result.tissue_mm2 == 0:
        yield "no tissue was found on the slide; --tissue none looks everywhere"
    elif len(kept.regions) == 0:
        if not how.more_asked:
            yield f"no region of {how.min_area_um2:g} µm² or more reaches {how.threshold:g}"
        elif how.min_area_um2:
            yield f"no region has {how.min_area_um2:g} µm² or more that reach {how.sure:g}"
        else:
            yield f"no region reaches {how.sure:g}"
        if kept.found:
            yield f"{kept.found} smaller {'or less sure ' if how.more_asked else ''}ones were dropped"
    if kept.tolerance_px > how.simplify_px:
        vertices, most = kept.regions.vertices, how.max_vertices
        done = f"outlines simplified by {kept.tolerance_px:.3g} canvas px to stay under {most} vertices"
        yield done if vertices <= most else f"{done}, and still {vertices}: a larger --min-area leaves fewer"


def _background(folder: Path, manifest: SlideManifest) -> npt.NDArray[np.uint8]:
    """The thumbnail with what was looked at and what could not be: the tissue's rim, unreadable places."""
    slide_YX3 = thumbnail_of(folder)
    per_um = slide_YX3.shape[1] / manifest.slide.bounds[2] / manifest.slide.mpp
    if manifest.result.tissue_mm2 is not None and (tissue := ProbabilityMap.open(folder / MAP).tissue()):
        mask_YX, mask_mpp = tissue
        slide_YX3 = traced(slide_YX3, mask_YX, px_per_mask_px=per_um * mask_mpp)
    return hatched(slide_YX3, unknown(manifest), px_per_canvas_px=per_um * manifest.canvas.mpp)


def _draw(
    kept: Regions,
    manifest: SlideManifest,
    result: Result,
    how: Outlining,
    background_YX3: npt.NDArray[np.uint8],
) -> Image.Image:
    per_l0 = background_YX3.shape[1] / manifest.slide.bounds[2]
    several = _several(manifest)
    review_N = (kept.spread_N > review_limit(how.review_above)) & several
    of_tissue = "" if result.tissue_mm2 is None else f" of {result.tissue_mm2:.2f} mm^2 tissue"
    to_review = f" ({int(review_N.sum())} to review)" if several and len(kept) else ""
    lost = f"; {result.unreadable_mm2:.2f} mm^2 unreadable" if manifest.unreadable else ""
    regions = "1 region" if len(kept) == 1 else f"{len(kept)} regions"
    found = f"tumour {result.tumor_mm2:.2f} mm^2{of_tissue}, {regions}{to_review}"
    sure = f", {how.sure:g} in places" if how.more_asked else ""
    how_found = f"probability {how.threshold:g} or more{sure}{lost}; {manifest.model.name}, research use only"
    px_per_canvas_px = manifest.canvas.factor * per_l0
    marks: list[Mark] = ["tissue"] if result.tissue_mm2 else []
    marks += ["unreadable"] if manifest.unreadable else []
    return draw_overview(
        background_YX3,
        shapely.transform(kept.polygons_N, lambda xy: xy * px_per_canvas_px),
        review_N,
        mpp=manifest.slide.mpp / per_l0,
        marks=marks,
        caption=f"{found}; {how_found}",
    )
