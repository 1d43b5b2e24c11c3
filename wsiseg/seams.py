"""The seams between blocks: outlines that meet there become one, vertex by vertex that of the whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from scipy import sparse
from scipy.sparse import csgraph

from wsiseg.rings import Corners, Ints, Polygons, offsets, polygons_of, ragged

__all__ = ["spliced"]

Shorts = npt.NDArray[np.int32]
EDGES_AT_ONCE = 2**18
"""Edges that are chained together: each takes some 200 bytes meanwhile."""


@dataclass(frozen=True, slots=True)
class _Edges:
    """Directed axis-parallel edges, each of one part; whole pixels, in 32 bits: there are millions."""

    x_E: Shorts
    y_E: Shorts
    to_x_E: Shorts
    to_y_E: Shorts
    part_E: Shorts

    def __getitem__(self, index: npt.NDArray[np.integer | np.bool_]) -> "_Edges":
        return _Edges(*(a[index] for a in self._all()))

    def __add__(self, other: "_Edges") -> "_Edges":
        return _Edges(*map(np.concatenate, zip(self._all(), other._all(), strict=True)))

    def _all(self) -> tuple[Shorts, Shorts, Shorts, Shorts, Shorts]:
        return self.x_E, self.y_E, self.to_x_E, self.to_y_E, self.part_E


def spliced(polygons_N: Polygons, chunk: int) -> tuple[Polygons, Ints, Ints]:
    """Join polygons that share an edge on a line x or y = k × ``chunk``.

    Both sides of such a line walk their common edge, in opposite directions: these edges
    cancel, and what is left is the boundary of the union.

    Returns the polygons of those that have an edge on a line, the owner of each, and the
    owner of every input: -1 for those that have none and are not among the output.
    """
    edges = _edges(polygons_N, _near_lines(polygons_N, chunk))
    upright = edges.x_E == edges.to_x_E
    seam = np.where(upright, edges.x_E, edges.y_E) % chunk == 0
    touching = np.zeros(len(polygons_N), np.bool_)
    touching[edges.part_E[seam]] = True
    rest, links = _cancelled(edges[seam])
    graph = sparse.coo_array((np.ones(len(links[0]), np.int8), links), shape=2 * (len(polygons_N),))
    owner_N = csgraph.connected_components(graph, directed=False)[1].astype(np.int64)
    left = edges[~seam & touching[edges.part_E]] + rest
    del edges, seam, rest, links
    made = [polygons_of(_chained(some, owner_N)) for some in _by_owner(left, owner_N)]
    polygons, owners = (np.concatenate(column) for column in zip(*made, strict=True))
    return polygons, owners, np.where(touching, owner_N, -1)


def _by_owner(edges: _Edges, owner_N: Ints) -> Iterator[_Edges]:
    """Yield the edges of some owners after those of others: some ``EDGES_AT_ONCE``, but of one owner all."""
    owner_E = owner_N[edges.part_E]
    order = np.argsort(owner_E, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(owner_E[order])) + 1, len(order))
    done = 0
    while True:
        stop = int(ends[min(int(np.searchsorted(ends, done + EDGES_AT_ONCE)), len(ends) - 1)])
        yield edges[order[done:stop]]
        done = stop
        if done == len(order):
            return


def _near_lines(polygons_N: Polygons, chunk: int) -> Ints:
    """The polygons that reach a line x or y = k × ``chunk``: only they can have an edge on it, mostly few."""
    first, last = np.split(shapely.bounds(polygons_N) / chunk, 2, axis=1)
    return np.flatnonzero((np.floor(last) >= np.ceil(first)).any(axis=1))


def _edges(polygons_N: Polygons, index: Ints) -> _Edges:
    """The edges of the polygons at ``index``, which is what ``part_E`` holds."""
    xy, rings, polygons = ragged(polygons_N[index])
    vertex = np.rint(xy).astype(np.int32)
    part = np.repeat(index.astype(np.int32), np.diff(rings[polygons]))
    inside = np.ones(len(vertex), np.bool_)
    inside[rings[1:] - 1] = False  # a ring's last vertex is its first again: no edge leaves it
    start = np.flatnonzero(inside)
    (x, y), (to_x, to_y) = vertex[start].T, vertex[start + 1].T
    return _Edges(x, y, to_x, to_y, part[start])


def _cancelled(edges: _Edges) -> tuple[_Edges, tuple[Shorts, Shorts]]:
    """Edges on seams, cut where another one ends, less those walked both ways; and who walked those."""
    upright = edges.x_E == edges.to_x_E
    line = np.where(upright, edges.x_E, edges.y_E).astype(np.int64) * 2 + upright
    start, end = np.where(upright, (edges.y_E, edges.to_y_E), (edges.x_E, edges.to_x_E))
    span = int(max(start.max(initial=0), end.max(initial=0))) + 1
    low, high = line * span + np.minimum(start, end), line * span + np.maximum(start, end)
    cuts = np.unique(np.concatenate([low, high]))
    begin, pieces = np.searchsorted(cuts, low), np.searchsorted(cuts, high) - np.searchsorted(cuts, low)
    edge = np.repeat(np.arange(len(low)), pieces)
    piece = np.arange(len(edge)) - np.repeat(offsets(pieces)[:-1] - begin, pieces)

    by_place = np.argsort(piece, kind="stable")
    both = np.flatnonzero(piece[by_place][:-1] == piece[by_place][1:])
    one, other = by_place[both], by_place[both + 1]
    single = np.ones(len(edge), np.bool_)
    single[one] = single[other] = False

    edge_S, cut_S = edge[single], cuts[np.stack([piece[single], piece[single] + 1])] % span
    near, far = np.where((start < end)[edge_S], cut_S, cut_S[::-1])
    stand, at = upright[edge_S], line[edge_S] // 2

    def laid(upright_S: npt.NDArray[Any], level_S: npt.NDArray[Any]) -> Shorts:
        return np.where(stand, upright_S, level_S).astype(np.int32)

    rest = _Edges(laid(at, near), laid(near, at), laid(at, far), laid(far, at), edges.part_E[edge_S])
    return rest, (edges.part_E[edge[one]], edges.part_E[edge[other]])


def _chained(edges: _Edges, owner_N: Ints) -> Corners:
    """Find the edge that follows each: the leftmost of the same owner, which is around the background."""
    edges = edges[np.lexsort((edges.x_E, edges.y_E))]
    owner_E = owner_N[edges.part_E]
    # east, south, west, north = 0, 1, 2, 3; left of a direction is the one before it
    step_x, step_y = np.sign(edges.to_x_E - edges.x_E), np.sign(edges.to_y_E - edges.y_E)
    way_E = np.where(step_y == 0, 1 - step_x, 2 - step_y)
    width, height = int(edges.x_E.max(initial=0)) + 1, int(edges.y_E.max(initial=0)) + 1
    corner_E = (owner_E * height + edges.y_E) * width + edges.x_E
    by_corner = np.argsort(corner_E, kind="stable")
    corner_E = np.append(corner_E[by_corner], -1)
    end_E = (owner_E * height + edges.to_y_E) * width + edges.to_x_E
    at_E = np.searchsorted(corner_E[:-1], end_E)
    assert (corner_E[at_E] == end_E).all(), "an outline is not closed: parts overlap or were simplified"
    one_E = by_corner[at_E]
    two_E = np.where(corner_E[at_E + 1] == end_E, np.append(by_corner, 0)[at_E + 1], one_E)
    turn_of_one, turn_of_two = ((way_E[some] - way_E + 1) % 4 for some in (one_E, two_E))  # left is 0
    next_E = np.where(turn_of_two < turn_of_one, two_E, one_E)
    return Corners(edges.x_E, edges.y_E, next_E, owner_E)
