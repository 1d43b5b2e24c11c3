"""Whether a slide was scanned in focus, from a few fields of its tissue.

A field is a square of about 256 µm that is at least half tissue, seen at 1 µm per pixel. Its
*sharpness* is the variance of the Laplacian of its grey values over the variance of these values:
how much of the contrast lies in the finest detail. Dividing makes it a matter of focus rather
than of stain. The slide's sharpness is the median over at most 16 fields, spread over the tissue.

The limit of 0.05 comes from real tissue as it is and blurred on purpose by a Gaussian of 1 and
2 µm (medians over up to 40 fields):

====================================  =====  ======  ======
tissue                                as is  1 µm    2 µm
====================================  =====  ======  ======
CMU-1-Small-Region (skin)              0.60   0.059   0.007
TCGA-CR-7395 (JPEG 2000, at 0.5)       0.71   0.139   0.019
CropBreastSlide (breast, at 0.5)       0.64   0.090   0.015
instanseg-HE_example                   1.10   0.134   0.012
GlaS (colon)                           0.58   0.081   0.013
WSSS4LUAD (lung)                       2.51   0.156   0.017
BCSS (breast)                          1.32   0.168   0.025
EBHI-Seg (colon, three stain looks)    0.43+  0.087+  0.018
====================================  =====  ======  ======

So what is in focus lies eight times above the limit, a blur of 1 µm just above, one of 2 µm always
below. Noise counts as detail: a blurred slide with much of it can pass. Lenses blur otherwise than
Gaussians do, and no slide that left the focus in a scanner was at hand.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.errors import SlideReadError
from wsiseg.geometry import L0, Box, Canvas
from wsiseg.slide import Slide
from wsiseg.tissue import TissueMask

__all__ = ["BLURRED_BELOW", "Focus", "fields", "measure_focus", "sharpness"]

FIELD_UM, FIELD_MPP = 256.0, 1.0
MOST_FIELDS = 16
BLURRED_BELOW = 0.05
"""Fields less sharp than this are out of focus; the module's text says where the number comes from."""
COARSEST_MPP = 1.25
"""A slide of more microns per pixel has no detail fine enough to judge by."""


@dataclass(frozen=True, slots=True)
class Focus:
    """How sharp a slide is; ``sharpness`` is None where no field could be judged.

    ``blurred`` of the ``fields`` that were looked at are out of focus.
    """

    sharpness: float | None = None
    fields: int = 0
    blurred: int = 0


def measure_focus(slide: Slide, tissue: TissueMask) -> Focus:
    """Look at some fields of a slide's tissue; those that cannot be decoded are passed over."""
    if slide.info.mpp > COARSEST_MPP:
        return Focus()
    found = list(_sharpness_of(slide, fields(tissue)))
    if not found:
        return Focus()
    return Focus(round(float(np.median(found)), 4), len(found), sum(one < BLURRED_BELOW for one in found))


def _sharpness_of(slide: Slide, boxes: list[Box[L0]]) -> Iterator[float]:
    for box in boxes:
        side = max(3, round(box.w * slide.info.mpp / FIELD_MPP))
        try:
            yield sharpness(slide.read(box, (side, side)))
        except SlideReadError:  # the blocks that need this place will say so, or spare it
            continue


def fields(tissue: TissueMask) -> list[Box[L0]]:
    """At most 16 squares that are half tissue or more, evenly taken from all of them, row by row."""
    height, width = tissue.mask_YX.shape
    side = min(max(1, round(FIELD_UM / tissue.mpp)), height, width)
    rows, columns = height // side, width // side
    cut_YX = tissue.mask_YX[: rows * side, : columns * side]
    share_YX = cut_YX.reshape(rows, side, columns, side).mean(axis=(1, 3))
    at_N2 = np.argwhere(share_YX >= 0.5)  # noqa: PLR2004 - half
    some = np.linspace(0, max(0, len(at_N2) - 1), min(MOST_FIELDS, len(at_N2))).round().astype(np.int64)
    return [
        tissue.scale.to_l0(Box[Canvas](column * side, row * side, side, side))
        for row, column in at_N2[some].tolist()
    ]


def sharpness(rgb_YX3: npt.NDArray[np.uint8]) -> float:
    """The variance of a picture's Laplacian over the variance of its grey values; 0 where it is plain.

    >>> sharpness(np.zeros((8, 8, 3), np.uint8))
    0.0
    """
    grey_YX = rgb_YX3.mean(axis=2)
    contrast = float(grey_YX.var())
    around_YX = grey_YX[:-2, 1:-1] + grey_YX[2:, 1:-1] + grey_YX[1:-1, :-2] + grey_YX[1:-1, 2:]
    return float((around_YX - 4 * grey_YX[1:-1, 1:-1]).var()) / contrast if contrast else 0.0
