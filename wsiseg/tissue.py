"""Where a slide holds tissue, found on a thumbnail of about 8 µm per pixel.

Losing tissue costs a diagnosis, reading glass in vain costs only time, so every bound here
leans towards tissue. Nothing is relative to the slide's own contrast (as Otsu's threshold
is), for a slide may be all glass or all tissue: stained tissue is what has colour, or is
clearly darker than glass; glass is bright and grey; black is a border.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.geometry import L0, Box, Canvas, Scale
from wsiseg.slide import Slide, SlideInfo

__all__ = ["MASK_MPP", "TissueMask", "find_slide_tissue", "find_tissue", "has_overview", "overview"]

MASK_MPP = 8.0
"""Microns per mask pixel aimed at; the true value is a whole number of level-0 pixels."""
REACH_UM = 100.0
"""A box this near to tissue counts as holding it."""
SPECK_UM2 = 2500.0
"""Smaller islands (50 × 50 µm) are dust."""
HOLE_UM2 = 250_000.0
"""Smaller holes (500 × 500 µm: lumina, fat, folds) count as tissue."""
OVERVIEW_DOWNSAMPLE = 4.0

GLASS_LEAST, GLASS_CHROMA = 195, 12
"""What may be taken for glass: every channel at least this bright, and no more colour than this."""
FILL = 254
"""Channels this bright are fill, where nothing was scanned."""
USUAL_GLASS = (240.0, 240.0, 240.0)
"""Glass, where the picture shows none."""
COLOURED, DARK = 10.0, 45.0
"""Grey levels: more colour than this, or this much darker than glass, is tissue."""
BLACK, BLACK_CHROMA = 70.0, 30.0
"""No brighter and no more coloured than this is a border or a hole in the scan."""


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

    @property
    def area_mm2(self) -> float:
        """The area of the tissue, holes up to 0.25 mm² included."""
        return int(self.mask_YX.sum()) * self.mpp**2 / 1e6


def has_overview(info: SlideInfo) -> bool:
    """Whether a thumbnail can be read without decoding full-resolution pixels."""
    return max(info.downsamples) >= OVERVIEW_DOWNSAMPLE


def overview(slide: Slide, max_px: int) -> npt.NDArray[np.uint8]:
    """A thumbnail (Y, X, 3) of a slide's bounds, its longer side ``max_px`` or less."""
    bounds = slide.info.bounds
    shrink = max(1.0, max(bounds.w, bounds.h) / max_px)
    return slide.read(bounds, (max(1, round(bounds.h / shrink)), max(1, round(bounds.w / shrink))))


def find_slide_tissue(slide: Slide) -> TissueMask:
    """The tissue inside a slide's bounds.

    Raises:
        SlideReadError: the thumbnail cannot be decoded.
    """
    info = slide.info
    factor = max(1, round(MASK_MPP / info.mpp))
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
    glass = _glass(thumb_YX3)
    balanced_YX3 = ndimage.uniform_filter(thumb_YX3.astype(np.float32), (3, 3, 1)) * (255 / glass)
    balanced_YX3 = balanced_YX3.clip(max=255)  # fill is whiter than glass
    least_YX, most_YX = balanced_YX3.min(axis=2), balanced_YX3.max(axis=2)
    coloured_YX = most_YX - least_YX > COLOURED
    dark_YX = balanced_YX3.mean(axis=2) < 255 - DARK
    black_YX = (thumb_YX3.max(axis=2) <= BLACK) & (np.ptp(thumb_YX3, axis=2) <= BLACK_CHROMA)
    fringe_YX = ndimage.binary_dilation(black_YX, iterations=2)
    tissue_YX = (coloured_YX & ~black_YX) | (dark_YX & ~fringe_YX)
    tissue_YX = _without_small(tissue_YX, SPECK_UM2 / mpp**2)
    return _filled(tissue_YX, HOLE_UM2 / mpp**2)


def _glass(thumb_YX3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The colour of the glass (3,): the commonest bright grey, pure white fill aside."""
    pixels_N3 = thumb_YX3.reshape(-1, 3)
    least_N, most_N = pixels_N3.min(axis=1), pixels_N3.max(axis=1)
    bright_N = (least_N >= GLASS_LEAST) & (most_N - least_N <= GLASS_CHROMA) & (least_N < FILL)
    found_N3 = pixels_N3[bright_N]
    if not len(found_N3):
        return np.array(USUAL_GLASS, np.float32)
    level_N = found_N3.sum(axis=1, dtype=np.int32) // 3
    mode = np.bincount(level_N).argmax()
    near_N3 = found_N3[np.abs(level_N - mode) <= 3]  # noqa: PLR2004 - noise
    glass: npt.NDArray[np.float32] = np.median(near_N3, axis=0).astype(np.float32)
    return glass


def _filled(mask_YX: npt.NDArray[np.bool_], most_px: float) -> npt.NDArray[np.bool_]:
    """The mask with holes of so many pixels or fewer filled, unless they open to the rim."""
    holes_YX = ~mask_YX
    small_YX = holes_YX & ~_without_small(holes_YX, most_px)
    open_YX = ndimage.binary_propagation(np.zeros_like(mask_YX), mask=holes_YX, border_value=1)
    filled_YX: npt.NDArray[np.bool_] = mask_YX | (small_YX & ~open_YX)
    return filled_YX


def _without_small(mask_YX: npt.NDArray[np.bool_], least_px: float) -> npt.NDArray[np.bool_]:
    """The mask without islands of fewer pixels, joined over corners."""
    labels_YX, _ = ndimage.label(mask_YX, np.ones((3, 3)))
    keep_N = np.bincount(labels_YX.ravel()) >= least_px
    keep_N[0] = False
    kept_YX: npt.NDArray[np.bool_] = keep_N[labels_YX]
    return kept_YX
