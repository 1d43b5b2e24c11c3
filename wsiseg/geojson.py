"""Regions as GeoJSON that QuPath imports: placed on level 0, described, written as a stream.

``place`` brings polygons into QuPath's pixels, ``features`` describes them one by one,
``write`` puts them on disk. One bad feature makes QuPath refuse a whole file without a word,
so the rules that its parser really has (``wsiseg.qupath`` lists and checks them) are obeyed
here by construction: coordinates are multiples of 0.25 px and valid *after* rounding, every
class has its colour, every id is a UUID, nothing is null.
"""

import gzip
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
import shapely

from wsiseg.errors import OutputError
from wsiseg.geometry import L0, Box, Scale
from wsiseg.polygons import Regions
from wsiseg.rings import AT_ONCE, Ints, Polygons, ragged

__all__ = ["Export", "Placed", "Written", "features", "place", "unknown_features", "write"]

STEP_PX = 0.25
"""Coordinates are multiples of this: exact as float32 and on QuPath's own lattice of 0.01 px."""

LISTED_AT_ONCE = 32
"""Polygons whose coordinates are lists of numbers at the same time: ten times the size they have in GEOS."""
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "wsiseg")
Color = tuple[int, int, int]
UNREADABLE, UNREADABLE_COLOR = "Unreadable", (128, 128, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Where regions go and what they are called.

    Attributes:
        scale: how the canvas lies on level 0.
        mpp: microns per level-0 pixel.
        fingerprint, weights_key: of the slide and of the model bundle; the ids come from them.
        origin: what (0, 0) is. ``"qupath"``: the corner of the slide's bounds, as in QuPath;
            ``"level0"``: the corner of the file's level 0.
        object_type: ``"annotation"`` can be edited by hand, ``"detection"`` draws faster.
        name, color: the class. QuPath's own is ``Tumor`` in (200, 0, 0), and keeps its colour.
        review_above: regions whose folds disagree more than this get the class
            ``<name>: Review`` in ``review_color``; None: no region does.
        disagreement: whether several networks answered; of one that was alone nothing is said.
    """

    scale: Scale
    mpp: float
    fingerprint: str
    weights_key: str
    origin: Literal["qupath", "level0"] = "qupath"
    object_type: Literal["annotation", "detection"] = "annotation"
    name: str = "Tumor"
    color: Color = (200, 0, 0)
    review_above: float | None = None
    review_color: Color = (255, 170, 0)
    disagreement: bool = True

    def __post_init__(self) -> None:
        assert 0 < self.mpp < float("inf"), f"mpp {self.mpp}"


@dataclass(frozen=True, slots=True)
class Placed:
    """Regions in the pixels of an export, ready to be described.

    Attributes:
        export: where they were placed.
        polygons_N: valid polygons, every coordinate a multiple of 0.25 level-0 px.
        mean_prob_N, spread_N: as in ``Regions``.
        dropped: regions of which rounding left nothing.
        repaired: regions that rounding had made invalid, and that were mended; one that fell
            into several polygons is several rows.
    """

    export: Export
    polygons_N: Polygons
    mean_prob_N: npt.NDArray[np.float64]
    spread_N: npt.NDArray[np.float64]
    dropped: int
    repaired: int


@dataclass(frozen=True, slots=True)
class Written:
    """What a written file holds."""

    features: int
    vertices: int
    bytes: int


def place(regions: Regions, export: Export) -> Placed:
    """Bring regions from canvas pixels to the pixels of the export: scale, round, mend, shift.

    Shells run anticlockwise in the sense of RFC 7946, holes clockwise.
    """
    starts = range(0, max(1, len(regions)), AT_ONCE)
    parts = [_placed(regions.polygons_N[i : i + AT_ONCE], export) for i in starts]
    index = np.concatenate([i + source for i, (_, source, _) in zip(starts, parts, strict=True)])
    dropped = len(regions) - len(np.unique(index))
    return Placed(
        export,
        np.concatenate([polygons for polygons, _, _ in parts]),
        regions.mean_prob_N[index],
        regions.spread_N[index],
        dropped=dropped,
        repaired=sum(broken for _, _, broken in parts) - dropped,
    )


def _placed(canvas_N: Polygons, export: Export) -> tuple[Polygons, Ints, int]:
    """Polygons brought to the pixels of the export, of which one each came, and how many rounding broke."""
    exact = shapely.transform(canvas_N, lambda xy: xy * export.scale.factor)
    polygons = shapely.transform(exact, lambda xy: np.round(xy / STEP_PX) * STEP_PX)
    broken = ~shapely.is_valid(polygons)
    mended, source = shapely.get_parts(shapely.set_precision(exact[broken], STEP_PX), return_index=True)
    index = np.concatenate([np.flatnonzero(~broken), np.flatnonzero(broken)[source]])
    polygons = np.concatenate([polygons[~broken], mended])
    solid = shapely.area(polygons) > 0
    index, polygons = index[solid], polygons[solid]

    in_order = np.argsort(index, kind="stable")
    index, polygons = index[in_order], shapely.reverse(shapely.normalize(polygons[in_order]))
    if export.origin == "level0":
        corner = np.array([export.scale.x, export.scale.y])
        polygons = shapely.transform(polygons, lambda xy: xy + corner)
    return polygons, index, int(broken.sum())


def features(placed: Placed) -> Iterator[dict[str, Any]]:
    """One GeoJSON feature after the other, in the order of the regions.

    The area is that of the polygon as exported, in mm²; probability and disagreement are
    means over the mask's own pixels.
    """
    export = placed.export
    area_N = shapely.area(placed.polygons_N) * (export.mpp / 1000) ** 2
    identify = _identities(export)
    both = zip(placed.polygons_N, _coordinates(placed.polygons_N), strict=True)
    for i, (polygon, coordinates) in enumerate(both):
        spread = float(placed.spread_N[i])
        review = export.review_above is not None and spread > export.review_above
        measurements = {
            "Area mm^2": float(area_N[i]),
            "Mean probability": float(placed.mean_prob_N[i]),
            **({"Fold disagreement": spread} if export.disagreement else {}),
        }
        assert all(map(np.isfinite, measurements.values())), f"region {i}: {measurements}"
        yield {
            "type": "Feature",
            "id": identify(polygon),
            "geometry": {"type": "Polygon", "coordinates": coordinates},
            "properties": {
                "objectType": export.object_type,
                "classification": {
                    "name": f"{export.name}: Review" if review else export.name,
                    "color": list(export.review_color if review else export.color),
                },
                "measurements": measurements,
                "metadata": {"source": "wsiseg"},
            },
        }


def _coordinates(polygons_N: Polygons) -> Iterator[list[list[list[float]]]]:
    """The rings of one polygon after the other; few are held at a time, however many there are."""
    for start in range(0, len(polygons_N), LISTED_AT_ONCE):
        xy, rings, polygons = ragged(polygons_N[start : start + LISTED_AT_ONCE])
        for first, end in pairwise(polygons.tolist()):
            yield [xy[a:b].tolist() for a, b in pairwise(rings[first : end + 1].tolist())]


def unknown_features(boxes: Iterable[Box[L0]], export: Export) -> Iterator[dict[str, Any]]:
    """The regions that could not be decoded, as annotations of class ``Unreadable``.

    Without them a viewer would show "no tumour" where nothing is known.
    """
    x, y = (0, 0) if export.origin == "level0" else (export.scale.x, export.scale.y)
    squares = [shapely.box(box.x - x, box.y - y, box.right - x, box.bottom - y) for box in boxes]
    identify = _identities(export)
    for polygon in shapely.get_parts(shapely.normalize(shapely.union_all(squares))):
        solid = shapely.reverse(polygon)
        rings = [solid.exterior, *solid.interiors]
        yield {
            "type": "Feature",
            "id": identify(solid),
            "geometry": {
                "type": "Polygon",
                "coordinates": [shapely.get_coordinates(ring).tolist() for ring in rings],
            },
            "properties": {
                "objectType": "annotation",
                "classification": {"name": UNREADABLE, "color": list(UNREADABLE_COLOR)},
                "measurements": {"Area mm^2": float(solid.area * (export.mpp / 1000) ** 2)},
                "metadata": {"source": "wsiseg"},
            },
        }


class _identities:  # noqa: N801 -- called like a function; a class only to remember what it gave out
    """UUIDv5 from slide, bundle and geometry: the same on every export, never the same twice in one."""

    def __init__(self, export: Export) -> None:
        self._base = uuid.uuid5(NAMESPACE, f"{export.fingerprint}/{export.weights_key}")
        self._given: set[bytes] = set()

    def __call__(self, polygon: shapely.Polygon) -> str:
        name = shapely.to_wkb(polygon, hex=True, byte_order=1)
        identity = uuid.uuid5(self._base, name)
        while identity.bytes in self._given:  # two thin regions may be simplified to one triangle
            identity = uuid.uuid5(identity, "again")
        self._given.add(identity.bytes)
        return str(identity)


def write(path: Path, features: Iterable[dict[str, Any]], provenance: dict[str, Any]) -> Written:
    """Write a FeatureCollection, one feature a line, gzipped where the name ends in ``.gz``.

    ``provenance`` becomes the top-level member ``wsiseg``, which QuPath ignores. Features are
    taken and written one by one; the file appears under its name when it is whole and on
    disk. The same input gives the same bytes.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    count = vertices = 0
    try:
        with _appearing(path) as out:
            out.write(b'{"type":"FeatureCollection","wsiseg":' + orjson.dumps(provenance) + b',"features":[')
            for feature in features:
                out.write(b",\n" if count else b"\n")
                out.write(orjson.dumps(feature))
                count += 1
                vertices += sum(map(len, feature["geometry"]["coordinates"]))
            out.write(b"\n]}\n")
        return Written(count, vertices, path.stat().st_size)
    except OSError as error:
        msg = f"{path} cannot be written ({error.strerror}); free some space or choose another folder"
        raise OutputError(msg) from error


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A file to write to that takes its name when it is closed, and vanishes after a failure."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            if path.name.endswith(".gz"):
                with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                    yield packed
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
