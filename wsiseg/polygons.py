"""From a probability map to tumour regions: outline each block, join the blocks, tidy up.

All geometry is in canvas pixels. Outlines run on pixel edges and are exact: the area of a
polygon is its pixel count, and the joined outlines of the blocks are the outline of the
whole, vertex by vertex, whatever the block size and the order in which blocks arrive. Only
``tidy`` and ``within_budget`` give up exactness, and they come last.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsiseg.errors import UsageError
from wsiseg.rings import Ints, Polygons, corners, first_vertices, in_parts, offsets, polygons_of, ragged
from wsiseg.runs import label_runs
from wsiseg.seams import spliced

__all__ = ["Regions", "join", "more_asked", "outline", "threshold_u8", "tidy", "within_budget"]

LEVELS = 255
"""A stored probability or disagreement is round(value × LEVELS)."""

_TRIANGLE = 4  # coordinates of the smallest ring that has an inside, its repeated first one included
_MOST_SIMPLIFIED_PX = 8  # beyond it small regions lose their shape, and much of their area

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Tumour regions of a slide or of a block, one row each.

    Attributes:
        polygons_N: shapely Polygons in canvas pixels.
        area_px_N: the pixels of the mask in each, before anything was filled or simplified.
        mean_prob_N: the mean tumour probability over these pixels, 0 to 1.
        spread_N: the mean disagreement of the folds (standard deviation) over them, 0 to 1.
        sure_px_N: how many of them are surely tumour; see ``outline``.
    """

    polygons_N: Polygons
    area_px_N: Ints
    mean_prob_N: Floats
    spread_N: Floats
    sure_px_N: Ints

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self.columns}
        assert len(lengths) == 1, f"columns of different lengths: {lengths}"

    def __len__(self) -> int:
        """The number of regions."""
        return len(self.polygons_N)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as flat arrays: a tenth of the time and a third of the bytes of single polygons."""
        xy, rings, polygons = ragged(self.polygons_N)
        whole = xy.astype(np.int32)
        flat = whole if np.array_equal(whole, xy) else xy
        return _unpacked, (flat, rings, polygons, *self.columns[1:])

    @property
    def columns(self) -> tuple[npt.NDArray[Any], ...]:
        """All of them, one row a region, in the order of the attributes."""
        return self.polygons_N, self.area_px_N, self.mean_prob_N, self.spread_N, self.sure_px_N

    @property
    def vertices(self) -> int:
        """The number of vertices of all polygons; a ring's repeated last one is counted."""
        return int(shapely.get_num_coordinates(self.polygons_N).sum())

    def take(self, index: npt.NDArray[np.integer | np.bool_]) -> "Regions":
        """The regions at these places, or where the mask is true."""
        return Regions(*(column[index] for column in self.columns))

    @classmethod
    def concatenate(cls, parts: Iterable["Regions"]) -> "Regions":
        """All regions of ``parts``, in their order; no part at all gives no region."""
        ints, floats = np.empty(0, np.int64), np.empty(0)
        every = [cls(np.empty(0, object), ints, floats, floats, ints), *parts]
        return cls(*(np.concatenate(columns) for columns in zip(*(p.columns for p in every), strict=True)))


def _unpacked(xy: npt.NDArray[Any], rings: Ints, polygons: Ints, *others: npt.NDArray[Any]) -> Regions:
    """Undo ``Regions.__reduce__``."""
    if len(others[0]) == 0:
        return Regions.concatenate([])
    built = shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy.astype(np.float64), (rings, polygons))
    return Regions(built, *others)


def threshold_u8(threshold: float) -> int:
    """The smallest stored value that means a probability of at least ``threshold``.

    >>> [threshold_u8(t) for t in (0.001, 0.2, 0.5, 1.0)]
    [1, 51, 128, 255]

    Raises:
        UsageError: the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        msg = f"a threshold of {threshold} makes no sense: give a probability above 0 and up to 1"
        raise UsageError(msg)
    return int(np.searchsorted(np.arange(LEVELS + 1) / LEVELS, threshold))


def more_asked(threshold: float, sure: float) -> float:
    """``sure``, or 0 where it asks a region for no more than ``threshold`` does, as both are stored.

    >>> more_asked(0.4, 0.75), more_asked(0.5, 0.501), more_asked(0.9, 0.75), more_asked(0.4, 0)
    (0.75, 0.0, 0.0, 0.0)
    """
    return sure if sure > threshold and threshold_u8(sure) > threshold_u8(threshold) else 0.0


def outline(
    prob_YX: npt.NDArray[np.uint8],
    spread_YX: npt.NDArray[np.uint8],
    *,
    threshold_u8: int,
    x: int,
    y: int,
    sure_u8: int = 0,
) -> Regions:
    """The 4-connected regions with ``prob_YX >= threshold_u8`` of a block at canvas pixel (x, y).

    Both maps hold round(value × 255). Outlines run exactly on pixel edges, holes included;
    regions are sorted by their topmost-leftmost vertex. Pixels from ``sure_u8`` on are surely
    tumour; where that is no more than the threshold, all are.

    >>> square = np.full((2, 3), 255, np.uint8)
    >>> outline(square, square, threshold_u8=128, x=10, y=0).polygons_N[0].wkt
    'POLYGON ((10 0, 13 0, 13 2, 10 2, 10 0))'
    """
    rows, columns = _around(prob_YX >= threshold_u8)
    prob_YX, spread_YX = prob_YX[rows, columns], spread_YX[rows, columns]
    inside_YX = prob_YX >= threshold_u8
    runs = label_runs(inside_YX)
    polygons, label_N = polygons_of(corners(inside_YX, runs, x + columns.start, y + rows.start))

    def total(run_R: Ints) -> Floats:
        return _totals(runs.label_R, run_R, runs.count)[label_N]

    sure_N = area_N = total(runs.lengths).astype(np.int64)
    if sure_u8 > threshold_u8:
        sure_N = total(runs.sums((prob_YX >= sure_u8).view(np.uint8))).astype(np.int64)
    prob_N, spread_N = (_mean(total(runs.sums(stored_YX)), area_N) for stored_YX in (prob_YX, spread_YX))
    return Regions(polygons, area_N, prob_N, spread_N, sure_N)


def _around(mask_YX: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """The rows and columns between the first and the last true pixel; most blocks hold little or none.

    >>> _around(np.eye(4, dtype=bool)[1:3])
    (slice(0, 2, None), slice(1, 3, None))
    """
    rows, columns = np.flatnonzero(mask_YX.any(axis=1)), np.flatnonzero(mask_YX.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _totals(group_N: npt.NDArray[np.integer], value_N: npt.NDArray[Any], count: int) -> Floats:
    """The sum of each group's values; exact for whole numbers below 2^53."""
    return np.bincount(group_N, weights=value_N.astype(np.float64), minlength=count).astype(np.float64)


def _mean(sum_N: Floats, area_N: Ints) -> Floats:
    """Means 0 to 1 from sums of stored values."""
    return sum_N / (area_N * LEVELS)


def _sum(mean_N: Floats, area_N: Ints) -> Floats:
    """The sums of stored values, whole numbers, back from their means: exact below 10^14."""
    return np.rint(mean_N * (area_N * LEVELS))


def join(parts: Iterable[Regions], chunk: int) -> Regions:
    """The outline of the whole from the outlines of its blocks, bit by bit the same.

    Block corners lie at multiples of ``chunk``. Only regions with an edge on such a line are
    touched: those that share one become one region, areas summed, means weighted by area; a
    shared corner joins nothing. The order of ``parts`` changes nothing, and parts may
    themselves have been joined. They must not overlap nor have been simplified.
    """
    whole = Regions.concatenate(parts)
    polygons, owner_M, owner_N = spliced(whole.polygons_N, chunk)
    loose = whole.take(owner_N < 0)
    met = whole.take(owner_N >= 0)

    def total(value_N: npt.NDArray[Any]) -> Floats:
        return _totals(owner_N[owner_N >= 0], value_N, len(whole) + 1)[owner_M]

    area_M = total(met.area_px_N).astype(np.int64)
    prob_M = _mean(total(_sum(met.mean_prob_N, met.area_px_N)), area_M)
    spread_M = _mean(total(_sum(met.spread_N, met.area_px_N)), area_M)
    sure_M = total(met.sure_px_N).astype(np.int64)
    every = Regions.concatenate([loose, Regions(polygons, area_M, prob_M, spread_M, sure_M)])
    x_N, y_N = in_parts(first_vertices, every.polygons_N).T
    return every.take(np.lexsort((x_N, y_N)))


def tidy(
    regions: Regions,
    *,
    min_area_px: float,
    min_hole_px: float,
    simplify_px: float,
    unknown: shapely.Geometry | None = None,
    min_sure_px: float = 0,
) -> Regions:
    """Fill holes under ``min_hole_px``, drop regions that are too small or not sure enough, then simplify.

    Too small is what is under ``min_area_px``; not sure enough, what has fewer than ``min_sure_px`` that are
    surely tumour (hysteresis: a region is kept for its core, and outlined where it ends).
    A hole that holds a part of ``unknown``, of which nothing was read, is never filled.
    A region is judged by its area with the small holes filled: the polygon that is seen.
    ``area_px_N`` and the means stay those of the mask's own pixels.
    """
    filled = in_parts(lambda some: _without_holes_under(some, min_hole_px, unknown), regions.polygons_N)
    kept = (shapely.area(filled) >= min_area_px) & (regions.sure_px_N >= min_sure_px)
    return replace(regions.take(kept), polygons_N=_simplified(filled[kept], simplify_px))


def within_budget(regions: Regions, *, simplify_px: float, max_vertices: int) -> tuple[Regions, float]:
    """Simplify by ``simplify_px``, or by as much more as it takes to stay under ``max_vertices``.

    What was simplified by ``simplify_px`` is simplified again, each try by √2 times as much as
    the one before; tries end at 8 px, fit or no fit. Returns the regions and the tolerance of
    the last try, in canvas px.
    """
    tolerance, first = simplify_px, _simplified(regions.polygons_N, simplify_px)
    polygons = first
    while shapely.get_num_coordinates(polygons).sum() > max_vertices and tolerance < _MOST_SIMPLIFIED_PX:
        tolerance = max(tolerance * math.sqrt(2), 0.5)
        polygons = _simplified(first, tolerance)
    return replace(regions, polygons_N=polygons), tolerance


def _simplified(polygons_N: Polygons, simplify_px: float) -> Polygons:
    """Polygons with the vertices left out that lie within ``simplify_px`` of the line without them.

    Each ring is simplified by itself (Douglas and Peucker), which takes a tenth of the time that it takes
    to keep them from crossing; where they do cross, the polygon is simplified again with that care. Then
    an outline may move by nearly twice as much: GEOS looks at a ring's first vertex last. One that would
    come out invalid is left as it is.
    """
    if simplify_px <= 0:
        return polygons_N

    def simplified(some_N: Polygons) -> Polygons:
        simple_N = _rings_simplified(some_N, simplify_px)
        crossing = ~shapely.is_valid(simple_N)
        with_care_N = shapely.simplify(some_N[crossing], simplify_px, preserve_topology=True)
        simple_N[crossing] = np.where(shapely.is_valid(with_care_N), with_care_N, some_N[crossing])
        return simple_N

    chosen: Polygons = in_parts(simplified, polygons_N)
    return chosen


def _rings_simplified(polygons_N: Polygons, simplify_px: float) -> Polygons:
    """Polygons each of whose rings is simplified by itself, and keeps an inside; rings may cross."""
    if len(polygons_N) == 0:
        return polygons_N
    xy, rings, polygons = ragged(polygons_N)
    ring_R = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, xy, (rings,))
    simple_R = shapely.simplify(ring_R, simplify_px, preserve_topology=False)
    flat = shapely.get_num_coordinates(simple_R) < _TRIANGLE
    if flat.any():
        corner, owner = shapely.get_coordinates(ring_R[flat], return_index=True)
        alone_R = shapely.polygons(shapely.linearrings(corner, indices=owner))
        kept_R = shapely.simplify(alone_R, simplify_px, preserve_topology=True)
        simple_R[flat] = shapely.get_exterior_ring(kept_R)
    starts = offsets(shapely.get_num_coordinates(simple_R))
    built: Polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, shapely.get_coordinates(simple_R), (starts, polygons)
    )
    return built


def _without_holes_under(
    polygons_N: Polygons, min_hole_px: float, unknown: shapely.Geometry | None
) -> Polygons:
    xy, rings, polygons = ragged(polygons_N)
    if len(polygons_N) == 0 or min_hole_px <= 0:
        return polygons_N
    ring_R = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, xy, (rings, np.arange(len(rings), dtype=np.int64))
    )
    keep = shapely.area(ring_R) >= min_hole_px
    if unknown is not None:
        keep |= shapely.area(shapely.intersection(ring_R, unknown)) > 0
    keep[polygons[:-1]] = True
    owner = np.repeat(np.arange(len(polygons_N)), np.diff(polygons))
    rings_R = shapely.get_exterior_ring(ring_R[keep])
    return np.asarray(shapely.polygons(rings_R, indices=owner[keep]), object)
