"""Where a slide holds tissue, found on a thumbnail of about 8 µm per pixel.

Losing tissue costs a diagnosis, reading glass in vain costs only time, so every bound here
leans towards tissue. What ``wsiseg.colours`` calls stained is tissue. Ink, grey and black are
doubtful: they are no tissue where they lie on glass, and count as tissue where they may hide
some. Decision 0006 has the reasons and the figures.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.colours import Kind, find_glass, is_grey_scale, kinds, strips
from wsiseg.geometry import L0, Box, Canvas, Scale
from wsiseg.slide import Slide, SlideInfo

__all__ = [
    "MASK_MPP",
    "METHOD",
    "TissueMask",
    "find_slide_tissue",
    "find_tissue",
    "has_overview",
    "mask_factor",
    "overview",
]

METHOD = "auto, method 2"
"""Changes whenever another mask would be found, so that no half-done map is continued with it."""
MASK_MPP = 8.0
"""Microns per mask pixel aimed at; the true value is a whole number of level-0 pixels."""
REACH_UM = 100.0
"""A box this near to tissue counts as holding it."""
SPECK_UM2 = 2500.0
"""Smaller islands (50 × 50 µm) are dust."""
HOLE_UM2 = 250_000.0
"""Smaller holes (500 × 500 µm: lumina, fat, folds) count as tissue."""
OVERVIEW_DOWNSAMPLE = 4.0
LITTLE_COARSER = 1.5
"""A level by so much coarser than a thumbnail asks for is taken for it."""

FAINT_UM2 = 10_000.0
"""Smaller islands (100 × 100 µm) of nothing but the faintest stain are noise."""
GAP_UM = 40.0
"""Narrower gaps (the cells of fat, cracks) count as tissue."""
STROKE_UM = 72.0
"""A pen's stroke is nowhere narrower; ink painted on a specimen's margin is, and belongs to the tissue."""
INK_REACH_UM = 1000.0
"""Ink or grey that touches tissue may hide as much of it: half the width of the broadest pen."""
BLACK_REACH_UM = 750.0
"""Black shows nothing of what it hides: it counts where tissue lies on both sides, so near."""
INK_RIM_UM, BLACK_RIM_UM = 40.0, 16.0
"""The rim of a stroke, where its colour runs out, is as doubtful as the stroke."""
MOST_PX = 2**25
"""A larger thumbnail is made coarser instead; at 8 µm a whole glass slide has 29 million pixels."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Where there is tissue.

    Attributes:
        mask_YX: True on tissue, one value per mask pixel; begins at the slide's bounds.
        scale: how mask pixels lie on level 0.
        mpp: microns per mask pixel.
    """

    mask_YX: npt.NDArray[np.bool_]
    scale: Scale
    mpp: float

    def covers(self, box: Box[L0]) -> bool:
        """Whether a level-0 box, which may reach outside the slide, has tissue in it or near it."""
        near = self.scale.to_canvas(box).grown(round(REACH_UM / self.mpp))
        height, width = self.mask_YX.shape
        extent: Box[Canvas] = Box(0, 0, width, height)
        inside = near & extent
        return bool(box and inside and self.mask_YX[inside.within(extent)].any())

    def without(self, boxes: Iterable[Box[L0]]) -> "TissueMask":
        """The mask without the tissue in some level-0 boxes, whose pixels are taken by their centres."""
        left_YX, factor = self.mask_YX.copy(), self.scale.factor
        for box in boxes:
            left, right = (round((x - self.scale.x) / factor) for x in (box.x, box.right))
            top, bottom = (round((y - self.scale.y) / factor) for y in (box.y, box.bottom))
            left_YX[max(0, top) : bottom, max(0, left) : right] = False
        return replace(self, mask_YX=left_YX)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as bits."""
        return _unpacked, (np.packbits(self.mask_YX), self.mask_YX.shape, self.scale, self.mpp)

    @property
    def area_mm2(self) -> float:
        """The area of the tissue, holes up to 0.25 mm² included."""
        return int(self.mask_YX.sum()) * self.mpp**2 / 1e6


def _unpacked(bits: npt.NDArray[np.uint8], shape: tuple[int, int], scale: Scale, mpp: float) -> TissueMask:
    """Undo ``TissueMask.__reduce__``."""
    mask_YX = np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).astype(np.bool_)
    return TissueMask(mask_YX, scale, mpp)


def has_overview(info: SlideInfo) -> bool:
    """Whether a thumbnail can be read without decoding full-resolution pixels."""
    return max(info.downsamples) >= OVERVIEW_DOWNSAMPLE


def overview(slide: Slide, max_px: int) -> npt.NDArray[np.uint8]:
    """A thumbnail (Y, X, 3) of a slide's bounds, its longer side ``max_px`` or less.

    Where a level is only a little coarser than that, it is its pixels: the next finer has many more.
    """
    bounds = slide.info.bounds
    shrink = max(1.0, max(bounds.w, bounds.h) / max_px)
    near = [down for down in slide.info.downsamples if shrink <= down <= LITTLE_COARSER * shrink]
    shrink = min(near, default=shrink)
    return slide.read(bounds, (max(1, round(bounds.h / shrink)), max(1, round(bounds.w / shrink))))


def mask_factor(info: SlideInfo) -> int:
    """Level-0 pixels along a mask pixel's side: near ``MASK_MPP``, and at most ``MOST_PX`` pixels in all."""
    return max(1, round(MASK_MPP / info.mpp), math.ceil(math.sqrt(info.bounds.area / MOST_PX)))


def find_slide_tissue(slide: Slide) -> TissueMask:
    """The tissue inside a slide's bounds.

    Raises:
        SlideReadError: the thumbnail cannot be decoded.
    """
    info = slide.info
    factor = mask_factor(info)
    height, width = -(-info.bounds.h // factor), -(-info.bounds.w // factor)
    box: Box[L0] = Box(info.bounds.x, info.bounds.y, width * factor, height * factor)
    mpp = factor * info.mpp
    tissue_YX = find_tissue(slide.read(box, (height, width)), mpp)
    return TissueMask(tissue_YX, Scale(factor, box.x, box.y), mpp)


def find_tissue(thumb_YX3: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.bool_]:
    """Where a thumbnail (Y, X, 3) uint8 of ``mpp`` microns per pixel shows tissue (Y, X).

    >>> thumb = np.full((40, 40, 3), (243, 241, 244), np.uint8)
    >>> thumb[10:20, 10:20] = 225, 190, 215
    >>> tissue_YX = find_tissue(thumb, 8.0)
    >>> bool(tissue_YX[10:20, 10:20].all()), bool(tissue_YX[:8].any())
    (True, False)
    """
    kind_YX = kinds(thumb_YX3, find_glass(thumb_YX3))
    if is_grey_scale(thumb_YX3):
        kind_YX[kind_YX == Kind.GREY] = Kind.TISSUE
    stroke_YX = kind_YX == Kind.INK
    if stroke_YX.any():
        stroke_YX = ndimage.minimum_filter(stroke_YX, math.ceil(STROKE_UM / mpp))
    ink_YX = _with(stroke_YX, kind_YX >= Kind.INK)
    black_YX = kind_YX == Kind.BLACK
    rim_YX = _grown(ink_YX, INK_RIM_UM / mpp) | _grown(black_YX, BLACK_RIM_UM / mpp)
    stained_YX = (kind_YX >= Kind.FAINT) & ~rim_YX
    seed_YX = _without_small(stained_YX & (kind_YX != Kind.FAINT), SPECK_UM2 / mpp**2)
    certain_YX = _with(seed_YX, stained_YX)
    pale_YX = _without_small(stained_YX, FAINT_UM2 / mpp**2) & ~certain_YX
    certain_YX |= pale_YX | ((kind_YX == Kind.TRACE) & _grown(pale_YX, 1))
    doubtful_YX = (kind_YX >= Kind.GREY) & (rim_YX | (kind_YX == Kind.GREY)) & ~black_YX
    hidden_YX = _with(certain_YX, certain_YX | doubtful_YX) & _grown(certain_YX, INK_REACH_UM / mpp)
    tissue_YX = certain_YX | hidden_YX
    if black_YX.any():
        tissue_YX |= black_YX & _closed(tissue_YX, BLACK_REACH_UM / mpp)
    tissue_YX = _closed(tissue_YX, GAP_UM / mpp)
    return _filled(tissue_YX, HOLE_UM2 / mpp**2)


def _grown(mask_YX: npt.NDArray[np.bool_], reach_px: float) -> npt.NDArray[np.bool_]:
    """The mask and all that is so near to it, along rows and columns."""
    if not mask_YX.any():  # most slides bear neither ink nor black
        return mask_YX
    side = 2 * math.ceil(reach_px) + 1
    grown_YX: npt.NDArray[np.bool_] = ndimage.maximum_filter(mask_YX, side, mode="nearest")
    return grown_YX


def _closed(mask_YX: npt.NDArray[np.bool_], reach_px: float) -> npt.NDArray[np.bool_]:
    """The mask and all that has it so near on both sides, along its row or its column."""
    reach = math.ceil(reach_px)
    closed_YX = mask_YX.copy()
    for axis in (0, 1):
        before_YX, after_YX = (
            ndimage.maximum_filter1d(mask_YX, 2 * reach + 1, axis, mode="constant", cval=False, origin=side)
            for side in (reach, -reach)
        )
        closed_YX |= before_YX & after_YX
    return closed_YX


def _with(seed_YX: npt.NDArray[np.bool_], mask_YX: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Those islands of a mask, joined over corners, that hold some of the seed."""
    if not seed_YX.any():
        return np.zeros_like(mask_YX)
    labels_YX, count = ndimage.label(mask_YX, np.ones((3, 3)))
    keep_N = np.zeros(count + 1, np.bool_)
    for rows in strips(mask_YX):
        keep_N[labels_YX[rows][seed_YX[rows]]] = True
    return _kept(labels_YX, keep_N)


def _filled(mask_YX: npt.NDArray[np.bool_], most_px: float) -> npt.NDArray[np.bool_]:
    """The mask with holes of so many pixels or fewer filled, unless they open to the rim."""
    holes_YX = ~mask_YX
    small_YX = holes_YX & ~_without_small(holes_YX, most_px)
    if not small_YX.any():
        return mask_YX
    labels_YX, count = ndimage.label(holes_YX)  # what opens to the rim does so over pixels' sides
    open_N = np.zeros(count + 1, np.bool_)
    for rim in (labels_YX[0], labels_YX[-1], labels_YX[:, 0], labels_YX[:, -1]):
        open_N[rim] = True
    filled_YX: npt.NDArray[np.bool_] = mask_YX | (small_YX & ~_kept(labels_YX, open_N))
    return filled_YX


def _without_small(mask_YX: npt.NDArray[np.bool_], least_px: float) -> npt.NDArray[np.bool_]:
    """The mask without islands of fewer pixels, joined over corners."""
    labels_YX, count = ndimage.label(mask_YX, np.ones((3, 3)))
    size_N = np.zeros(count + 1, np.int64)
    for rows in strips(mask_YX):
        size_N += np.bincount(labels_YX[rows].ravel(), minlength=count + 1)
    return _kept(labels_YX, size_N >= least_px)


def _kept(labels_YX: npt.NDArray[Any], keep_N: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Where the label is one to keep; 0 never is."""
    keep_N[0] = False
    kept_YX = np.empty(labels_YX.shape, np.bool_)
    for rows in strips(labels_YX):
        kept_YX[rows] = keep_N[labels_YX[rows]]
    return kept_YX
