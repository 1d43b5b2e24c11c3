"""The geometries of a GeoJSON document, judged for QuPath: one by one in form, all at once in shape."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

__all__ = ["Found", "Shapes"]

Found = Iterator[tuple[str, str]]
"""Pairs of the name of a rule (``wsiseg.qupath.RULES``) and what breaks it."""

Line = npt.NDArray[np.float64]
"""Positions (N, 2), x and y."""

_DEPTH = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2, "MultiPolygon": 3}
_MAX_VERTICES, _MAX_HOLES = 200_000, 1_000
_CLOSED_RING = 4
_POSITION = len(("x", "y"))
_LATTICE_PX, _FAITHFUL_PX = 0.01, 1e-6


@dataclass(slots=True)
class Shapes:
    """Takes in geometries and gathers their polygons; ``broken`` then judges these together.

    Attributes:
        rings: the rings of every well-formed polygon.
        ring_counts, part_counts: rings of each part, parts of each geometry (1 for a Polygon).
        owners: the index of the feature that each geometry belongs to.
        vertices: positions seen, of lines and points too.
        off_lattice: features with a coordinate that QuPath would move.
    """

    rings: list[Line] = field(default_factory=list)
    ring_counts: list[int] = field(default_factory=list)
    part_counts: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    vertices: int = 0
    off_lattice: list[int] = field(default_factory=list)

    def add(self, index: int, geometry: Any) -> Found:
        """Take in a feature's geometry, ``...`` where it has none; say what is wrong with its form."""
        if geometry is None:
            yield "null", "geometry"
            return
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        if kind == "GeometryCollection":
            yield "geometry-collection", ""
        elif not isinstance(kind, str) or kind not in _DEPTH:
            yield "geometry", "there is none" if geometry is ... else "its type is none of GeoJSON's"
        elif (parts := _parts(geometry.get("coordinates"), _DEPTH[kind])) is None:
            yield "coordinates", f"not those of a {kind}"
        else:
            self._note(index, list(chain.from_iterable(parts)))
            if kind in ("Polygon", "MultiPolygon"):
                yield from self._polygons(index, kind, parts)

    def _note(self, index: int, lines: list[Line]) -> None:
        self.vertices += sum(map(len, lines))
        xy = np.concatenate([np.empty((0, 2)), *lines])
        with np.errstate(all="ignore"):  # numbers near the largest there are overflow: off the lattice too
            moved = np.abs(xy - np.round(xy / _LATTICE_PX) * _LATTICE_PX)
        if not (moved <= _FAITHFUL_PX).all():
            self.off_lattice.append(index)

    def _polygons(self, index: int, kind: str, parts: list[list[Line]]) -> Found:
        if kind == "MultiPolygon" and len(parts) == 1:
            yield "one-part", ""
        if not parts or not all(parts):
            yield "zero-area", "it has no ring"
        elif any(len(r) < _CLOSED_RING or (r[0] != r[-1]).any() for r in chain.from_iterable(parts)):
            yield "open-ring", ""
        else:
            holes = max(map(len, parts)) - 1
            if holes > _MAX_HOLES:
                yield "large", f"{holes} holes"
            self.rings.extend(chain.from_iterable(parts))
            self.ring_counts.extend(map(len, parts))
            self.part_counts.append(len(parts))
            self.owners.append(index)

    def broken(self) -> Iterator[tuple[str, int | None, str]]:
        """The rules that the geometries taken in break in shape or number, by feature."""
        if self.vertices > _MAX_VERTICES:
            yield "large", None, f"{self.vertices} vertices"
        for index in self.off_lattice:
            yield "lattice", index, ""
        if self.owners:
            for at, why in _unfit(self._built()):
                yield ("invalid", self.owners[at], why) if why else ("zero-area", self.owners[at], "")

    def _built(self) -> npt.NDArray[np.object_]:
        rings = np.cumsum([0, *map(len, self.rings)])
        polygons = np.cumsum([0, *self.ring_counts])
        xy = np.concatenate(self.rings)
        parts = shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (rings, polygons))
        owner = np.repeat(np.arange(len(self.owners)), self.part_counts)
        return np.asarray(shapely.multipolygons(parts, indices=owner), object)


def _unfit(shapes: npt.NDArray[np.object_]) -> Iterator[tuple[int, str]]:
    """The shapes that are invalid, and why; and those without area, with no reason."""
    with np.errstate(all="ignore"):  # as above: invalid all the same
        valid = shapely.is_valid(shapes)
        left, top, right, bottom = shapely.bounds(shapes).T
        thin = np.minimum(right - left, bottom - top) < _LATTICE_PX
        flat = thin | (shapely.area(shapes) < _LATTICE_PX**2)
        for at in np.flatnonzero(~valid | flat).tolist():
            nothing = flat[at] and (valid[at] or shapely.make_valid(shapes[at]).area < _LATTICE_PX**2)
            yield at, "" if nothing else str(shapely.is_valid_reason(shapes[at]))


def _parts(coordinates: Any, depth: int) -> list[list[Line]] | None:
    """Coordinates as parts of lines of positions, whatever their depth; None where they are malformed."""
    parts = (coordinates, [coordinates], [[coordinates]], [[[coordinates]]])[3 - depth]
    if not isinstance(parts, list) or not all(isinstance(part, list) for part in parts):
        return None
    found = [[line for line in map(_positions, part) if line is not None] for part in parts]
    return found if list(map(len, found)) == list(map(len, parts)) else None


def _positions(line: Any) -> Line | None:
    """A list of positions as an array, a third number left out; None where it is no such list.

    >>> _positions([[1, 2], [3, 4, 5]]).tolist(), _positions([[1, "2"]])
    ([[1.0, 2.0], [3.0, 4.0]], None)
    """
    if not isinstance(line, list) or not set(map(type, line)) <= {list}:
        return None
    if not line:
        return np.empty((0, 2))
    if not set(map(type, chain.from_iterable(line))) <= {int, float} or min(map(len, line)) < _POSITION:
        return None
    xy = np.array([position[:_POSITION] for position in line], np.float64)
    return xy if np.isfinite(xy).all() else None
