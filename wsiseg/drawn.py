"""Regions that a person drew in QuPath: read from GeoJSON, and filled into masks.

Coordinates are QuPath's, level-0 pixels from the corner of the slide's bounds; a file that
wsiseg itself exported with ``--origin level0`` says so, and is believed. They may stand in place
of a tissue mask (``--tissue``), or be what is learnt from.
"""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import shapely
from shapely.errors import ShapelyError

from wsiseg.errors import GeoJSONError, UsageError
from wsiseg.geojson import UNREADABLE
from wsiseg.geometry import Scale
from wsiseg.location import Location
from wsiseg.rings import Ints, Polygons
from wsiseg.slide import SlideInfo
from wsiseg.tissue import TissueMask, mask_factor

__all__ = ["Drawn", "check_tissue_option", "drawn_tissue", "filled", "read_drawn"]

WORDS = ("auto", "none")
"""What ``--tissue`` may be that is no path."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The polygons of one GeoJSON file, of any class or of one.

    Attributes:
        name: the file's name, without its folder.
        sha256: of the file's bytes (hex).
        wanted: the class that was asked for; None takes every class.
        polygons_N: valid polygons with an area, in level-0 pixels from the corner that ``level0`` says.
        level0: whether they count from the corner of level 0, and not of the bounds.
        object_N: the object of the file that each polygon is a part of, by number, ascending.
        classes: the classes of all objects in the file; ``none`` for an object without one.
        corner_L0: the level-0 pixel (x, y) that is (0, 0) in the file; None where it does not say.
    """

    name: str
    sha256: str
    wanted: str | None
    polygons_N: Polygons
    level0: bool
    object_N: Ints
    classes: tuple[str, ...] = ()
    corner_L0: tuple[float, float] | None = None

    @property
    def setting(self) -> str:
        """What is part of the job's key."""
        return f"drawn, sha256 {self.sha256}" + ("" if self.wanted is None else f", class {self.wanted}")

    @property
    def objects(self) -> Polygons:
        """The polygons as multipolygons, one for each object."""
        _, owner_N = np.unique(self.object_N, return_inverse=True)
        return np.asarray(shapely.multipolygons(self.polygons_N, indices=owner_N), object)

    @property
    def marks(self) -> tuple[str, ...]:
        """The classes that say what something is: not QuPath's regions (``Region*``), nor ``Unreadable``."""
        return tuple(name for name in self.classes if not name.endswith("*") and name != UNREADABLE)

    def in_bounds(self, info: SlideInfo) -> Polygons:
        """The polygons as QuPath counts: in level-0 pixels from the corner of the slide's bounds."""
        corner = np.array([info.bounds.x, info.bounds.y])
        moved_N: Polygons = shapely.transform(self.polygons_N, lambda xy: xy - corner)
        return moved_N if self.level0 else self.polygons_N

    def mask(self, info: SlideInfo) -> TissueMask:
        """The regions as a mask over the slide's bounds; a pixel counts by its centre.

        Raises:
            GeoJSONError: not one region lies on the slide.
        """
        bounds, factor = info.bounds, mask_factor(info)
        shape_YX = -(-bounds.h // factor), -(-bounds.w // factor)
        mask_YX = filled(shapely.transform(self.in_bounds(info), lambda xy: xy / factor), shape_YX)
        if not mask_YX.any():
            msg = (
                f"no region of {self.name} lies on {info.name} ({bounds.w} × {bounds.h} px): it may be of "
                "another slide, or count in microns; export it from QuPath with this slide open"
            )
            raise GeoJSONError(msg)
        return TissueMask(mask_YX, Scale(factor, bounds.x, bounds.y), factor * info.mpp)


def filled(polygons_N: Polygons, shape_YX: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which pixels (Y, X) have their centre in one of some valid polygons (not multipolygons), in pixels.

    Along each row of centres an edge that goes up enters a polygon, one that goes down leaves it; inside is
    where more were entered than left. Nothing is united first: GEOS (3.14) loses polygons whose edges nearly
    coincide. Of a centre on an edge, what lies right of it decides, else below: polygons side by side share
    no pixel and lose none.

    >>> filled(np.array([shapely.box(0.5, 0, 2.5, 1)]), (2, 4)).astype(int).tolist()
    [[1, 1, 0, 0], [0, 0, 0, 0]]
    """
    height, width = shape_YX
    near_N = polygons_N[shapely.intersects(polygons_N, shapely.box(0, 0, width, height))]
    ring_R = shapely.get_rings(shapely.normalize(near_N))  # shells run clockwise, holes the other way
    xy, owner = shapely.get_coordinates(ring_R, return_index=True)
    xy -= 0.5
    same = owner[1:] == owner[:-1]
    one, two = xy[:-1][same], xy[1:][same]
    low, high = np.ceil(np.minimum(one[:, 1], two[:, 1])), np.ceil(np.maximum(one[:, 1], two[:, 1]))
    low, high = (np.clip(rows, 0, height).astype(np.intp) for rows in (low, high))
    edge = np.repeat(np.arange(len(one)), high - low)
    first = np.cumsum(high - low) - (high - low)
    row = np.arange(len(edge)) - np.repeat(first - low, high - low)
    slope = (two[edge, 0] - one[edge, 0]) / (two[edge, 1] - one[edge, 1])
    column = np.clip(np.ceil(one[edge, 0] + (row - one[edge, 1]) * slope), 0, width).astype(np.intp)
    entered_YX = np.zeros((height, width + 1), np.int16)
    np.add.at(entered_YX, (row, column), np.where(two[edge, 1] > one[edge, 1], np.int16(1), np.int16(-1)))
    np.cumsum(entered_YX, axis=1, out=entered_YX)
    inside_YX: npt.NDArray[np.bool_] = entered_YX[:, :-1] != 0
    return inside_YX


def check_tissue_option(tissue: str, slides: int) -> None:
    """Refuse before any slide what cannot be right for so many slides.

    Raises:
        UsageError: the path is not there, or one file is given for several slides.
    """
    if tissue in WORDS:
        return
    path = Path(tissue)
    if not path.exists():
        msg = f"--tissue {tissue}: there is no such file; give auto, none, a GeoJSON file or a folder of them"
        raise UsageError(msg)
    if path.is_file() and slides > 1:
        msg = f"--tissue {tissue} is the regions of one slide, and {slides} are named; give a folder of them"
        raise UsageError(msg)


def drawn_tissue(tissue: str, wanted: str | None, slide: Location) -> Drawn | None:
    """The regions that ``--tissue`` means for a slide; None for ``auto`` and ``none``.

    In a folder a slide's file is ``<slide's name without ending>.geojson``, as
    ``scripts/qupath/export_annotations.groovy`` writes it.

    Raises:
        GeoJSONError: see ``read_drawn``.
    """
    if tissue in WORDS:
        return None
    path = Path(tissue)
    return read_drawn(path / f"{slide.stem}.geojson" if path.is_dir() else path, wanted)


def read_drawn(path: Path, wanted: str | None = None, *, or_none: bool = False) -> Drawn:
    """The polygons of a GeoJSON file (or .geojson.gz), of any class or of one and those derived from it.

    Raises:
        GeoJSONError: it cannot be read, or (unless ``or_none``) holds no such polygon.
    """
    try:
        raw = path.read_bytes()
        document = orjson.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        features = _features(document)
        chosen = [orjson.dumps(one["geometry"]) for one in features if wanted in (None, _class_of(one))]
        shapes = shapely.from_geojson(np.array(chosen, dtype=object))
        polygons_N, object_N = _polygons(shapely.make_valid(shapes))
        ours = document.get("wsiseg") if isinstance(document, dict) else None
        level0, corner_L0 = _origin(ours if isinstance(ours, dict) else {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, ShapelyError) as error:
        msg = f"{path} cannot be read as GeoJSON ({error}); `wsiseg check` says what is wrong with it"
        raise GeoJSONError(msg) from error
    classes = tuple(sorted({_class_of(one) or "none" for one in features}))
    if not len(polygons_N) and not or_none:
        listed = ", ".join(classes) or "no object"
        kind = "polygon" if wanted is None else f"polygon of class {wanted}"
        msg = f"{path} holds no {kind} (its classes: {listed}); draw regions in QuPath and export them"
        raise GeoJSONError(msg)
    sha256 = hashlib.sha256(raw).hexdigest()
    return Drawn(path.name, sha256, wanted, polygons_N, level0, object_N, classes, corner_L0)


def _features(document: Any) -> list[Any]:
    """The features of a collection, a list or one alone; every one has a geometry, or it is none."""
    if isinstance(document, dict):
        found = list(document["features"]) if "features" in document else [document]
    else:
        found = list(document)
    if not all("geometry" in one for one in found):
        msg = "it holds what is no feature with a geometry"
        raise ValueError(msg)
    return found


def _polygons(shapes_N: Polygons) -> tuple[Polygons, Ints]:
    """The polygons with an area that valid shapes are made of, and which shape each is of."""
    object_N = np.arange(len(shapes_N))
    while (shapely.get_type_id(shapes_N) > shapely.GeometryType.POLYGON).any():
        shapes_N, index_N = shapely.get_parts(shapes_N, return_index=True)
        object_N = object_N[index_N]
    solid_N = shapely.area(shapes_N) > 0
    return shapes_N[solid_N], object_N[solid_N]


def _origin(ours: dict[str, Any]) -> tuple[bool, tuple[float, float] | None]:
    """Whether a file counts from the corner of level 0, and the level-0 pixel that is its (0, 0)."""
    if ours.get("origin") == "level0":
        return True, (0.0, 0.0)
    if "origin_level0_px" not in ours:
        return False, None
    x, y = map(float, ours["origin_level0_px"])
    return False, (x, y)


def _class_of(feature: Any) -> str | None:
    """A feature's class, without what is derived from it (``Tumor: Review`` is ``Tumor``)."""
    given = ((feature.get("properties") or {}).get("classification") or {}).get("name")
    return given.partition(":")[0].strip() if isinstance(given, str) else None
