"""Regions of which nothing is known: they could not be decoded, and were left empty by request.

They are named in level-0 pixels in the record and in the outlines' file, marked in the map, hatched
in the picture, and left out of the tissue: "no data" must never be read as "no tumour".
"""

from collections.abc import Iterable

import numpy as np
import shapely

from wsiseg.errors import SlideReadError
from wsiseg.geometry import L0, Box, Canvas
from wsiseg.manifest import SlideManifest
from wsiseg.plan import Plan
from wsiseg.salvage import Salvaging
from wsiseg.slide import Slide

__all__ = ["GREY", "LIKE_TISSUE", "from_afar", "regions", "sentence", "unknown"]

LIKE_TISSUE, GREY = (200, 120, 170), (128, 128, 128)
"""What stands in a thumbnail for what cannot be decoded: where tissue is looked for, it may be there."""


def from_afar(slide: Slide, plan: Plan, *, fill: tuple[int, int, int] = LIKE_TISSUE) -> Slide:
    """The slide to make thumbnails of: ``fill`` where regions are spared that cannot be decoded."""
    return Salvaging(slide, fill) if plan.sparing else slide


def regions(plan: Plan, places: Iterable[tuple[int, int, int, int]], looked_at_px: int) -> list[Box[L0]]:
    """The places of a map that could not be decoded, ``(x, y, w, h)`` in canvas pixels, on level 0.

    Raises:
        SlideReadError: they are all of the ``looked_at_px`` canvas pixels there were.
    """
    boxes: list[Box[Canvas]] = [Box(*place) for place in places]
    if boxes and sum(box.area for box in boxes) >= looked_at_px:
        msg = f"{plan.slide.name} opens, but nothing of it can be decoded; copy or scan it again"
        raise SlideReadError(msg)
    return sorted((plan.scale.to_l0(box) & plan.slide.bounds for box in boxes), key=tuple)


def unknown(manifest: SlideManifest) -> shapely.Geometry | None:
    """The unreadable regions of a slide in canvas pixels; None where there are none."""
    if not manifest.unreadable:
        return None
    corner, factor = np.array(manifest.slide.bounds[:2]), manifest.canvas.factor
    whole = shapely.union_all([shapely.box(x, y, x + w, y + h) for x, y, w, h in manifest.unreadable])
    return shapely.transform(whole, lambda xy: (xy - corner) / factor)


def sentence(manifest: SlideManifest) -> str:
    """What a reader of the result should know of them; empty where there are none."""
    count, area_mm2 = len(manifest.unreadable), manifest.result.unreadable_mm2
    many = "1 place" if count == 1 else f"{count} places"
    return f"{many} ({area_mm2:.3g} mm²) cannot be decoded: nothing is known there" if count else ""
