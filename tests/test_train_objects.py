"""Outlines against outlines: areas and objects, with the corners defined."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import GeoJSONError
from wsiseg.rings import Polygons
from wsiseg.train.objects import compare_outlines, read_outlines


def squares(corners: list[tuple[int, int]], side: int = 4) -> Polygons:
    return np.array([shapely.box(x, y, x + side, y + side) for x, y in corners], dtype=object)


NONE = squares([])
CORNERS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), unique=True, max_size=8)


@given(CORNERS)
def test_the_truth_against_itself_scores_one(cells: list[tuple[int, int]]) -> None:
    shapes = squares([(5 * x, 5 * y) for x, y in cells])
    found = compare_outlines(shapes, shapes)
    assert (found.precision, found.recall, found.f1) == (1, 1, 1)
    assert found.dice == found.jaccard == pytest.approx(1)
    assert found.matched == len(cells)


@given(CORNERS.filter(bool))
def test_nothing_found_of_something_scores_nothing(cells: list[tuple[int, int]]) -> None:
    for one, other in ((NONE, squares(cells)), (squares(cells), NONE)):
        found = compare_outlines(one, other)
        assert (found.dice, found.jaccard, found.precision, found.recall, found.f1) == (0, 0, 0, 0, 0)


@given(st.integers(0, 8))
def test_two_squares_match_when_they_share_more_than_half_of_what_they_cover(shift: int) -> None:
    found = compare_outlines(squares([(shift, 0)], side=8), squares([(0, 0)], side=8))
    shared = max(0, 8 - shift) * 8
    assert found.dice == pytest.approx(2 * shared / 128)
    assert found.matched == int(shared / (128 - shared) > 0.5)


def test_objects_are_counted_one_to_one() -> None:
    truth = squares([(0, 0), (10, 0), (20, 0)])
    predicted = squares([(0, 0), (11, 0), (40, 0), (50, 0)])
    found = compare_outlines(predicted, truth)
    assert (found.matched, found.predicted, found.truth) == (2, 4, 3)
    assert [found.precision, found.recall, found.f1] == pytest.approx([0.5, 2 / 3, 4 / 7])


def test_one_large_outline_does_not_match_every_small_one() -> None:
    found = compare_outlines(
        squares([(0, 0)], side=20), squares([(0, 0), (10, 0), (0, 10), (10, 10)], side=10)
    )
    assert found.matched == 0
    assert found.dice == pytest.approx(1)


def feature(name: str | None, geometry: Any) -> dict[str, Any]:
    kind = {} if name is None else {"classification": {"name": name, "color": [200, 0, 0]}}
    return {"type": "Feature", "properties": kind, "geometry": shapely.geometry.mapping(geometry)}


@pytest.mark.parametrize("packed", [False, True])
def test_outlines_of_a_class_and_its_subclasses_are_read(tmp_path: Path, *, packed: bool) -> None:
    two = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)])
    listed = [
        feature("Tumor", two),
        feature("Tumor: Review", shapely.box(5, 5, 6, 6)),
        feature("Stroma", shapely.box(9, 9, 12, 12)),
        feature(None, shapely.box(9, 9, 12, 12)),
    ]
    raw = json.dumps({"type": "FeatureCollection", "features": listed}).encode()
    path = tmp_path / ("a.geojson.gz" if packed else "a.geojson")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    assert shapely.area(read_outlines(path)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("text", ["", "[1]", '{"features": [{"geometry": null, "properties": 3}]}'])
def test_what_is_no_geojson_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(GeoJSONError, match=r"a\.geojson cannot be read"):
        read_outlines(tmp_path / "a.geojson")
