"""Boundaries of pixel regions as rings of corners: whole numbers in, exact polygons out.

Pixel (x, y) covers the square from (x, y) to (x + 1, y + 1); x grows rightwards, y downwards.
Every boundary is walked with the region on the right hand as one looks at the screen: shells
then have a positive shoelace sum and holes a negative one, which is what RFC 7946 asks for.

A region is 4-connected. Where it touches itself at a corner, the rings are paired around the
background, so that no ring visits a point twice (a valid polygon); where two regions touch at
a corner, around the foreground, so that they stay apart. This pairing is the only valid one,
hence a region has exactly one outline, however it was put together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from scipy import sparse
from scipy.sparse import csgraph

from wsiseg.runs import Runs

__all__ = [
    "AT_ONCE",
    "Corners",
    "Ints",
    "Polygons",
    "corners",
    "first_vertices",
    "in_parts",
    "offsets",
    "polygons_of",
    "ragged",
]

AT_ONCE = 1024
"""Polygons that are changed together; see ``in_parts``."""

Ints = npt.NDArray[np.int64]
Polygons = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Corners:
    """The corners of closed rings, sorted by (y, x): where, which comes next, whose ring it is."""

    x_N: npt.NDArray[np.integer]
    y_N: npt.NDArray[np.integer]
    next_N: Ints
    owner_N: Ints


def corners(mask_YX: npt.NDArray[np.bool_], runs: Runs, left: int, top: int) -> Corners:
    """The corners of every region's boundary in a block at pixel (left, top), given the mask's runs.

    A boundary runs straight between two corners, and the corners of one row, taken in pairs,
    are the ends of its horizontal runs; likewise the columns. Each corner ends one run of
    either kind, so the runs alone say which corner follows which.
    """
    inside = np.pad(mask_YX, 1)
    across, down = inside[:-1] ^ inside[1:], inside[:, :-1] ^ inside[:, 1:]
    turn = across[:, :-1] ^ across[:, 1:]
    saddle = across[:, :-1] & across[:, 1:] & down[:-1] & down[1:]
    at = np.flatnonzero(turn | saddle)
    twice = saddle.ravel()[at]
    vertex = np.repeat(at, 1 + twice)
    y_N, x_N = np.divmod(vertex, turn.shape[1])

    west, east = np.arange(0, len(vertex), 2), np.arange(1, len(vertex), 2)
    below = inside[y_N[west] + 1, x_N[west] + 1]
    owner_N = np.repeat(runs.label_at(y_N[west] - ~below, x_N[west]), 2)
    next_N = np.empty(len(vertex), np.int64)
    _link(next_N, west, east, below)

    column = np.arange(len(vertex))
    first = np.flatnonzero(np.repeat(twice, 1 + twice))[::2]
    y, x = y_N[first], x_N[first]
    _pair_saddles(column, first, runs, (y, x), inside[y, x])
    narrow = x_N.astype(np.min_scalar_type(turn.shape[1]))
    column = column[np.argsort(narrow, kind="stable")]
    north, south = column[0::2], column[1::2]
    _link(next_N, north, south, inside[y_N[north] + 1, x_N[north]])
    return Corners(x_N + left, y_N + top, next_N, owner_N)


def _link(next_N: Ints, start: Ints, end: Ints, forward: npt.NDArray[np.bool_]) -> None:
    """Write runs from ``start`` to ``end``, or back where not ``forward``, into ``next_N``."""
    next_N[np.where(forward, start, end)] = np.where(forward, end, start)


def _pair_saddles(
    column: Ints, first: Ints, runs: Runs, at: tuple[Ints, Ints], falling: npt.NDArray[np.bool_]
) -> None:
    """Swap the two corners of a saddle in ``column`` where the second, eastern one goes up.

    ``at`` is the saddles' vertex (y, x), which is also the pixel south-east of it; ``falling`` says that
    the pixels north-west and south-east are those inside, and not the other two.
    """
    y, x = at
    one = runs.label_at(y - 1, np.where(falling, x - 1, x))
    other = runs.label_at(y, np.where(falling, x, x - 1))
    swap = first[falling == (one == other)]
    column[swap], column[swap + 1] = swap + 1, swap


def polygons_of(corners: Corners) -> tuple[Polygons, Ints]:
    """One polygon per owner, and the owners, sorted by the polygons' first vertex (y, x).

    A ring starts at its topmost-leftmost vertex; the holes follow the shell sorted by theirs.
    Corners that lie on a straight line are left out.
    """
    n = len(corners.x_N)
    if n == 0:
        return np.empty(0, object), np.empty(0, np.int64)
    count, ring_N = csgraph.connected_components(_successors(corners.next_N), connection="strong")
    first_R = _first(ring_N, count)
    owner_R = corners.owner_N[first_R]
    first_O = _first(corners.owner_N, int(corners.owner_N.max()) + 1)
    by_polygon = np.lexsort((first_R, first_O[owner_R]))
    order = _walk(corners.next_N, first_R[by_polygon])
    length_R = np.bincount(ring_N, minlength=count)[by_polygon]

    x, y = corners.x_N[order], corners.y_N[order]
    start = offsets(length_R)
    corner = _corners_of(x, start)
    length_R = np.add.reduceat(corner.astype(np.int64), start[:-1])
    start = offsets(length_R)
    xy = np.stack([x[corner], y[corner]], axis=1).astype(np.float64)
    closed = np.insert(xy, start[1:], xy[start[:-1]], axis=0)

    owner_R = owner_R[by_polygon]
    shell = np.flatnonzero(np.diff(owner_R, prepend=-1))
    rings = (start + np.arange(count + 1), np.append(shell, count))
    return shapely.from_ragged_array(shapely.GeometryType.POLYGON, closed, rings), owner_R[shell]


def _successors(next_N: Ints) -> sparse.csr_array:
    """The graph with one edge from every corner to the next."""
    n = len(next_N)
    return sparse.csr_array((np.ones(n, np.int8), next_N.astype(np.int32), np.arange(n + 1, dtype=np.int32)))


def _first(group_N: npt.NDArray[np.integer], count: int) -> Ints:
    """The smallest index at which each group occurs.

    >>> _first(np.array([1, 0, 1, 0]), 2).tolist()
    [1, 0]
    """
    first = np.zeros(count, np.int64)
    index = np.arange(len(group_N))[::-1]
    first[group_N[::-1]] = index  # the last write stays
    return first


def _walk(next_N: Ints, heads: Ints) -> Ints:
    """All corners, ring after ring from each ring's head: the rings, cut open, are one long path."""
    before = np.empty_like(next_N)
    before[next_N] = np.arange(len(next_N))
    path = next_N.copy()
    path[before[heads[:-1]]] = heads[1:]
    path[before[heads[-1]]] = heads[0]
    order = csgraph.breadth_first_order(_successors(path), int(heads[0]), return_predecessors=False)
    return np.asarray(order, np.int64)


def offsets(length: npt.NDArray[np.integer]) -> Ints:
    """Where each of several runs begins, and where the last one ends.

    >>> offsets(np.array([4, 6])).tolist()
    [0, 4, 10]
    """
    return np.concatenate([[0], np.cumsum(length)])


def _corners_of(x: npt.NDArray[np.integer], start: Ints) -> npt.NDArray[np.bool_]:
    """Which vertices of axis-parallel rings turn: one edge upright, the other not."""
    before = np.arange(-1, len(x) - 1)
    before[start[:-1]] = start[1:] - 1
    after = np.arange(1, len(x) + 1)
    after[start[1:] - 1] = start[:-1]
    upright = x == x[before]
    turns: npt.NDArray[np.bool_] = upright != upright[after]
    return turns


def ragged(polygons_N: Polygons) -> tuple[npt.NDArray[np.float64], Ints, Ints]:
    """Coordinates (V, 2), where each ring begins among them, where each polygon begins among the rings."""
    if len(polygons_N) == 0:
        return np.empty((0, 2)), np.zeros(1, np.int64), np.zeros(1, np.int64)
    _, xy, (rings, polygons) = shapely.to_ragged_array(polygons_N, include_z=False)
    return xy, rings.astype(np.int64), polygons.astype(np.int64)


def in_parts(change: Callable[[Polygons], Any], polygons_N: Polygons) -> Any:
    """``change(polygons_N)``, row by row the same, of ``AT_ONCE`` polygons at a time.

    GEOS copies every vertex at every step; so only those of a few polygons exist many times.
    """
    parts = [change(polygons_N[i : i + AT_ONCE]) for i in range(0, max(1, len(polygons_N)), AT_ONCE)]
    return np.concatenate(parts)


def first_vertices(polygons_N: Polygons) -> npt.NDArray[np.float64]:
    """Where the shell of each begins, ``x, y`` (N, 2)."""
    return shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(polygons_N), 0))
