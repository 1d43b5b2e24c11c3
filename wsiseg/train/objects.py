"""How well one GeoJSON of outlines fits another: pixels' Dice as areas, and objects one by one."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from shapely.errors import ShapelyError

from wsiseg.errors import GeoJSONError
from wsiseg.rings import Polygons

__all__ = ["ObjectScores", "compare_outlines", "read_outlines"]

IOU = 0.5


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


def read_outlines(path: Path, *, name: str = "Tumor") -> Polygons:
    """The polygons of a class (and of classes derived from it, ``Tumor: …``) in a GeoJSON file.

    Raises:
        GeoJSONError: the file cannot be read, or is no GeoJSON.
    """
    try:
        raw = path.read_bytes()
        document = orjson.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        listed = document["features"] if isinstance(document, dict) else document
        chosen = [orjson.dumps(f["geometry"]) for f in listed if _is(f, name)]
        shapes = shapely.from_geojson(np.array(chosen, dtype=object))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, ShapelyError) as error:
        msg = f"{path} cannot be read as GeoJSON ({error}); `wsiseg check` says what is wrong with it"
        raise GeoJSONError(msg) from error
    parts = shapely.get_parts(shapely.make_valid(shapes))
    areas: Polygons = parts[shapely.area(parts) > 0]
    return areas


def compare_outlines(predicted: Polygons, truth: Polygons) -> ObjectScores:
    """Compare predicted with true polygons, in the same pixels.

    A predicted and a true object match when the area they share is more than half of the
    area they cover together. Objects of one side do not overlap each other, so that an
    object has one match at most.

    >>> square = np.array([shapely.box(0, 0, 4, 4)])
    >>> compare_outlines(square, square).f1
    1.0
    """
    ours, theirs = shapely.union_all(predicted), shapely.union_all(truth)
    shared = shapely.area(shapely.intersection(ours, theirs))
    both = shapely.area(ours) + shapely.area(theirs)
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
    ours, theirs = shapely.STRtree(truth).query(predicted, predicate="intersects")
    shared = shapely.area(shapely.intersection(predicted[ours], truth[theirs]))
    whole = shapely.area(predicted[ours]) + shapely.area(truth[theirs]) - shared
    pairs = np.column_stack([ours, theirs])[shared > IOU * whole]
    return min(len(np.unique(pairs[:, 0])), len(np.unique(pairs[:, 1])))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 1.0


def _is(feature: Any, name: str) -> bool:
    given = ((feature["properties"] or {}).get("classification") or {}).get("name")
    return isinstance(given, str) and given.partition(":")[0].strip() == name
