"""Which threshold and which smallest areas a bundle should come with, chosen on slides.

Two questions, one after the other. Where does a region end? At the threshold with the best Dice on
mosaics when nothing is dropped (then the one nearest to 0.5). Which regions are kept? Those with
enough pixels that are surely tumour: hysteresis, as Canny's edges (IEEE PAMI 8:679, 1986).
The rule for these: of all points of the grid at which every tumour-free source shows less than 2 %
of its tissue as tumour, and at which Dice on mosaics is within 2 points of what the same networks
reach on the same images as patches, take the one with the best Dice on mosaics. Where no point does
both, false positives come first: of the points below 2 %, the one with the best Dice, if that is at
least half of the best Dice there is; else, of the points with that much Dice, the one with the
fewest false positives (the worst source counts). And say that the rule was not met. What lies within
half a point of the best Dice counts as equal: then the one that fills the larger holes (outlines
without specks), that asks for less sureness (the ensemble is seldom as sure as the single network
that a mosaic is judged by), and for a smaller area.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.polygons import threshold_u8

__all__ = [
    "AREAS_UM2",
    "HOLES_UM2",
    "SURE",
    "THRESHOLDS",
    "Found",
    "Point",
    "choose",
    "count_over",
    "grid",
    "regions",
]

SURE = (0.0, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Of a region so much must be reached on its smallest area; 0 asks for no more than the area."""
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
AREAS_UM2 = (0.0, 2000.0, 5000.0, 10_000.0, 20_000.0)
"""No more than a disc of 160 µm: on a small slide a larger one hides every false region, however sure."""
HOLES_UM2 = (0.0, 2000.0, 10_000.0)
MOST_FALSE = 0.02
WITHIN = 0.02
EQUAL = 0.005
LEAST_SHARE = 0.5

Labels = npt.NDArray[np.signedinteger]
Counts = npt.NDArray[np.signedinteger]


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """How a probability becomes regions; the names are those of ``BundleSpec``."""

    threshold: float
    min_area_um2: float
    min_hole_um2: float
    sure: float = 0.0

    @property
    def drops_nothing(self) -> bool:
        """Whether every pixel from the threshold on is tumour, and no other."""
        return not (self.min_area_um2 or self.min_hole_um2)


@dataclass(frozen=True, slots=True)
class Found:
    """What a point of the grid gives: mean Dice on mosaics, and the false fraction of each free source."""

    point: Point
    dice: float
    false: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest false fraction; 0 where there is no tumour-free source."""
        return max(self.false.values(), default=0.0)


def grid() -> Iterator[Point]:
    """Every point that is tried, in the order of ``count_over``."""
    for threshold in THRESHOLDS:
        for hole in HOLES_UM2:
            for sure in _surer(threshold):
                for area in AREAS_UM2:
                    if area or not sure:
                        yield Point(threshold, area, hole, sure)


def _surer(threshold: float) -> list[float]:
    """What more may be asked of a region that is outlined there."""
    return [sure for sure in SURE if sure == 0 or sure > threshold]


def regions(
    tumour_YX: npt.NDArray[np.bool_], *, min_area_px: float, min_hole_px: float
) -> tuple[Labels, int]:
    """The 4-connected regions (numbered from 1) that ``wsiseg.polygons.tidy`` would keep, and how many.

    Small holes are filled and belong to their region, and a region is judged by its area with
    them. They differ from polygons in two rare places: an island inside a small hole goes with
    the hole, and a small hole between two regions that touch at a corner joins them.
    """
    label_YX, area_N = _filled_regions(tumour_YX, min_hole_px)
    kept_N = area_N >= min_area_px
    kept_N[0] = False
    number_N = np.where(kept_N, np.cumsum(kept_N), 0).astype(np.int32)
    return number_N[label_YX], int(kept_N.sum())


def _filled_regions(tumour_YX: npt.NDArray[np.bool_], min_hole_px: float) -> tuple[Labels, Counts]:
    """The regions with small holes filled, and the area of each; region 0 is everything else."""
    filled_YX = tumour_YX
    if min_hole_px > 0:
        hole_YX, count = ndimage.label(~tumour_YX)
        small_N = np.bincount(hole_YX.ravel(), minlength=count + 1) < min_hole_px
        small_N[np.concatenate([hole_YX[0], hole_YX[-1], hole_YX[:, 0], hole_YX[:, -1]])] = False
        small_N[0] = False
        filled_YX = tumour_YX | small_N[hole_YX]
    label_YX, count = ndimage.label(filled_YX)
    return label_YX, np.bincount(label_YX.ravel(), minlength=count + 1)


def count_over(
    prob_YX: npt.NDArray[np.uint8],
    truth_YX: npt.NDArray[np.bool_],
    tiles: Sequence[tuple[slice, slice]],
    *,
    mpp: float,
) -> tuple[Counts, Counts]:
    """For every point of the grid: TP, FP and FN of each tile (P, T, 3), and the tumour of the whole map (P).

    ``prob_YX`` holds probability × 255 as it is stored, at ``mpp`` microns per pixel; all counts
    are pixels. The map is outlined as a whole, so regions reach over from tile to tile.
    """
    home_YX = np.zeros(prob_YX.shape, np.int64)
    for number, tile in enumerate(tiles, 1):
        home_YX[tile] = number
    truth_T = np.bincount(home_YX[truth_YX], minlength=len(tiles) + 1)
    every, whole = [], []
    for threshold in THRESHOLDS:
        for hole in HOLES_UM2:
            found_YX = prob_YX >= threshold_u8(threshold)
            label_YX, area_N = _filled_regions(found_YX, hole / mpp**2)
            inside = label_YX > 0
            place = home_YX[inside] * len(area_N) + label_YX[inside]
            shape = (len(tiles) + 1, len(area_N))
            size = shape[0] * shape[1]
            pixels_TN = np.bincount(place, minlength=size).reshape(shape)
            right_TN = np.bincount(place[truth_YX[inside]], minlength=size).reshape(shape)
            for sure in _surer(threshold):
                size_N = area_N
                if sure:
                    sure_YX = prob_YX >= threshold_u8(sure)
                    size_N = np.bincount(label_YX[sure_YX], minlength=len(area_N))
                for area in AREAS_UM2 if not sure else AREAS_UM2[1:]:
                    kept_N = size_N >= area / mpp**2
                    kept_N[0] = False
                    both_T, found_T = right_TN[:, kept_N].sum(axis=1), pixels_TN[:, kept_N].sum(axis=1)
                    every.append(np.stack([both_T, found_T - both_T, truth_T - both_T], axis=1)[1:])
                    whole.append(area_N[kept_N].sum())
    return np.stack(every), np.array(whole)


def choose(found: Sequence[Found], patch_dice: float) -> tuple[Found, bool]:
    """The point to recommend, and whether the rule (see above) is met there."""
    whole = [f for f in found if f.point.drops_nothing]
    edge = min(whole, key=lambda f: (-f.dice, abs(f.point.threshold - 0.5))).point.threshold
    some = [f for f in found if f.point.threshold == edge]
    good = [f for f in some if f.worst < MOST_FALSE and f.dice >= patch_dice - WITHIN]
    if good:
        return _best(good), True
    useful = [f for f in some if f.dice >= LEAST_SHARE * max(f.dice for f in some)]
    quiet = [f for f in useful if f.worst < MOST_FALSE]
    if quiet:
        return _best(quiet), False
    return min(useful, key=lambda f: (f.worst, -f.dice, f.point)), False


def _best(some: Sequence[Found]) -> Found:
    """The best Dice, or what is as good and tidier."""
    least = max(f.dice for f in some) - EQUAL
    as_good = [f for f in some if f.dice >= least]
    return min(as_good, key=lambda f: (-f.point.min_hole_um2, f.point.sure, f.point.min_area_um2, -f.dice))
