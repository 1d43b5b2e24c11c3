"""How well one set of outlines fits another: pixels' Dice as areas, and objects one by one."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching

from wsiseg.drawn import Drawn, read_drawn
from wsiseg.errors import GeoJSONError
from wsiseg.rings import Polygons

__all__ = ["ObjectScores", "compare_outlines", "read_outlines"]

IOU = 0.5
GRID = 2.0**-20
"""Corners are rounded to a millionth of a pixel: not rounded, GEOS (3.14) may lose polygons of a union."""

Places = npt.NDArray[np.intp]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """Dice and Jaccard of the outlined areas; objects found, missed and invented at IoU 0.5.

    Two empty files agree: all scores 1. With objects on one side only, all are 0.
    """

    dice: float
    jaccard: float
    precision: float
    recall: float
    f1: float
    matched: int
    predicted: int
    truth: int


def read_outlines(predicted: Path, truth: Path, name: str) -> tuple[Polygons, Polygons]:
    """The objects of a class in two GeoJSON files, in the same pixels; one file may hold none.

    Raises:
        GeoJSONError: a file cannot be read, they count from different corners, or neither holds an
            outline of the class but one of them other objects.
    """
    both = [read_drawn(path, name, or_none=True) for path in (predicted, truth)]
    if not any(len(one.polygons_N) for one in both):
        others = sorted({mark for one in both for mark in one.marks})
        if others:
            msg = (
                f"neither {predicted} nor {truth} holds an outline of class {name}; "
                f"pass --name with one of their classes: {', '.join(others)}"
            )
            raise GeoJSONError(msg)
        log.warning("neither %s nor %s outlines anything: two empty files agree", predicted, truth)
    for path, one in zip((predicted, truth), both, strict=True):
        if one.marks and not len(one.polygons_N):
            log.warning("%s has no outline of class %s, only: %s", path, name, ", ".join(one.marks))
    ours, theirs = both
    if ours.level0 != theirs.level0 and None in {ours.corner_L0, theirs.corner_L0}:
        whole, part = (predicted, truth) if ours.level0 else (truth, predicted)
        msg = (
            f"{whole} counts from the corner of level 0, {part} from that of the scanned area, and does not "
            f"say where that is: make {whole.name} again with `wsiseg polygons --origin qupath`"
        )
        raise GeoJSONError(msg)
    return ours.objects, _moved(theirs, ours)


def _moved(one: Drawn, other: Drawn) -> Polygons:
    """The objects of one file in the pixels of the other, as they are where both count alike."""
    if one.level0 == other.level0 or one.corner_L0 is None or other.corner_L0 is None:
        return one.objects
    apart = np.subtract(one.corner_L0, other.corner_L0)
    moved_N: Polygons = shapely.transform(one.objects, lambda xy: xy + apart)
    return moved_N


def compare_outlines(predicted: Polygons, truth: Polygons) -> ObjectScores:
    """Compare predicted with true objects, each a polygon or a multipolygon, in the same pixels.

    A predicted and a true object match when the area they share is more than half of the
    area they cover together, and no object is matched twice: where objects of one side overlap
    each other, so that it matters who is matched with whom, the most matches are taken.

    >>> square = np.array([shapely.box(0, 0, 4, 4)])
    >>> compare_outlines(square, square).f1
    1.0
    """
    predicted, truth = (shapely.set_precision(some, GRID) for some in (predicted, truth))
    ours, theirs = _apart(predicted), _apart(truth)
    shared = _shared(ours, theirs)[2].sum()
    both = shapely.area(ours).sum() + shapely.area(theirs).sum()
    matched = _matches(predicted, truth)
    return ObjectScores(
        dice=_ratio(2 * shared, both),
        jaccard=_ratio(shared, both - shared),
        precision=_ratio(matched, len(predicted) or len(truth)),
        recall=_ratio(matched, len(truth) or len(predicted)),
        f1=_ratio(2 * matched, len(predicted) + len(truth)),
        matched=matched,
        predicted=len(predicted),
        truth=len(truth),
    )


def _matches(predicted: Polygons, truth: Polygons) -> int:
    if not len(predicted) or not len(truth):
        return 0
    ours, theirs, shared = _shared(predicted, truth)
    whole = shapely.area(predicted[ours]) + shapely.area(truth[theirs]) - shared
    good = shared > IOU * whole
    graph = csr_array((np.ones(good.sum()), (ours[good], theirs[good])), shape=(len(predicted), len(truth)))
    return int((maximum_bipartite_matching(graph) >= 0).sum())


def _apart(objects: Polygons) -> Polygons:
    """The same ground without overlaps: objects that meet are united, all others stay as they are."""
    one, other = shapely.STRtree(objects).query(objects, predicate="intersects")
    links = csr_array((np.ones(len(one)), (one, other)), shape=2 * (len(objects),))
    _, group = connected_components(links, directed=False)
    order = np.argsort(group, kind="stable")
    groups = np.split(objects[order], np.flatnonzero(np.diff(group[order])) + 1)
    united = [some[0] if len(some) == 1 else shapely.union_all(some) for some in groups if len(some)]
    return np.array(united, object)


def _shared(one: Polygons, other: Polygons) -> tuple[Places, Places, npt.NDArray[np.float64]]:
    """The pairs of objects that meet, as places in both, and the area that each pair shares."""
    first, second = shapely.STRtree(other).query(one, predicate="intersects")
    return first, second, shapely.area(shapely.intersection(one[first], other[second]))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 1.0
