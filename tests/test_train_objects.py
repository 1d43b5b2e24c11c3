"""Outlines against outlines: areas and objects, with the corners defined."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import GeoJSONError
from wsiseg.rings import Polygons
from wsiseg.train.objects import ObjectScores, compare_outlines, read_outlines


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


def test_no_object_is_lost_where_edges_nearly_coincide() -> None:
    """Of these four GEOS 3.14 loses two when it unites them in floating point."""
    corners = [
        [(0, 0), (0, 1), (1, 0)],
        [(0, 1), (0, 2), (4, 0)],
        [(0, 1), (2, -1), (-1, -2), (5, 1), (4, 0)],
    ]
    made = [shapely.make_valid(shapely.Polygon(ring)) for ring in corners]
    parts = shapely.get_parts(shapely.get_parts(np.array(made, object)))
    objects = parts[shapely.intersects(parts, shapely.box(0, 0, 50, 40)) & (shapely.area(parts) > 0)]
    assert len(objects) == 4
    centres = np.meshgrid(np.arange(-3, 6, 0.01), np.arange(-3, 3, 0.01))
    covered = np.any([shapely.contains_xy(one, *centres) for one in objects], axis=0).sum() / 100**2
    alone, area = compare_outlines(objects[2:3], objects), shapely.area(objects[2])
    assert alone.dice == pytest.approx(2 * area / (area + covered), rel=0.01)
    assert compare_outlines(objects, objects).dice == 1


def test_one_large_outline_does_not_match_every_small_one() -> None:
    found = compare_outlines(
        squares([(0, 0)], side=20), squares([(0, 0), (10, 0), (0, 10), (10, 10)], side=10)
    )
    assert found.matched == 0
    assert found.dice == pytest.approx(1)


def test_objects_that_overlap_each_other_are_matched_once_and_as_often_as_can_be() -> None:
    def long(left: int, right: int) -> Any:
        return shapely.box(left, 0, right, 1)

    truth = np.array([long(0, 100), long(1, 101)], dtype=object)
    three = np.array([long(0, 100), long(0, 101), long(1, 101)], dtype=object)
    assert compare_outlines(three, truth).matched == 2
    crowd = np.array([long(0, 99), long(0, 98), long(200, 300)], dtype=object)
    others = np.array([long(0, 100), long(200, 301), long(201, 300)], dtype=object)
    assert compare_outlines(crowd, others).matched == 2  # not 3: one truth takes one of the first two


def drawn(path: Path, *shapes: Any, name: str = "Tumor", **ours: Any) -> Path:
    about = {"classification": {"name": name}}
    listed = [{"geometry": shapely.geometry.mapping(shape), "properties": about} for shape in shapes]
    path.write_text(json.dumps({"features": listed, **({"wsiseg": ours} if ours else {})}))
    return path


def judged(predicted: Path, truth: Path, name: str = "Tumor") -> ObjectScores:
    return compare_outlines(*read_outlines(predicted, truth, name))


SQUARE = shapely.box(0, 0, 10, 10)


def test_a_feature_is_one_object_however_many_polygons_it_has(tmp_path: Path) -> None:
    two = shapely.MultiPolygon([SQUARE, shapely.box(20, 0, 30, 10)])
    bow_tie = shapely.Polygon([(0, 40), (10, 50), (10, 40), (0, 50)])
    mixed = shapely.GeometryCollection([two, shapely.LineString([(0, 0), (99, 99)])])
    apart = [shapely.transform(mixed, lambda xy: xy + 100), shapely.Point(1, 1), SQUARE]
    path = drawn(tmp_path / "a.geojson", two, bow_tie, *apart)
    found = judged(path, path)
    assert (found.matched, found.predicted, found.truth, found.f1) == (4, 4, 4, 1)
    assert found.dice == pytest.approx(1)


def test_a_class_that_neither_file_has_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    one, empty = drawn(tmp_path / "one.geojson", SQUARE), drawn(tmp_path / "empty.geojson")
    point = drawn(tmp_path / "point.geojson", shapely.Point(1, 1), name="Tumour")
    for pair in ((one, one), (one, empty), (empty, one)):
        with pytest.raises(
            GeoJSONError, match="of class Tumour; pass --name with one of their classes: Tumor"
        ):
            read_outlines(*pair, "Tumour")
    with pytest.raises(GeoJSONError, match="holds an outline of class Tumour"):
        read_outlines(point, point, "Tumour")


def test_files_that_outline_nothing_agree_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = drawn(tmp_path / "empty.geojson")
    region = drawn(tmp_path / "region.geojson", SQUARE, name="Region*")
    with caplog.at_level(logging.WARNING):
        assert judged(empty, region).dice == 1
    assert "two empty files agree" in caplog.text
    stroma = drawn(tmp_path / "stroma.geojson", SQUARE, name="Stroma")
    with caplog.at_level(logging.WARNING):
        assert judged(stroma, drawn(tmp_path / "one.geojson", SQUARE)).dice == 0
    assert "stroma.geojson has no outline of class Tumor, only: Stroma" in caplog.text


def test_what_is_no_geojson_is_never_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in (
        '{"hello": 1}',
        '{"format": 1, "name": "adeno"}',
        '{"features": [{"hello": 1}]}',
        '["geometry"]',
    ):
        path.write_text(text)
        with pytest.raises(GeoJSONError, match=r"a\.json cannot be read as GeoJSON"):
            read_outlines(path, path, "Tumor")


def test_files_that_count_from_different_corners_are_brought_together_or_refused(tmp_path: Path) -> None:
    moved = shapely.box(100, 200, 110, 210)
    whole = drawn(tmp_path / "whole.geojson", moved, origin="level0", origin_level0_px=[0, 0])
    ours = drawn(tmp_path / "ours.geojson", SQUARE, origin="qupath", origin_level0_px=[100, 200])
    hand = drawn(tmp_path / "hand.geojson", SQUARE)
    for pair in ((whole, ours), (ours, whole), (ours, hand), (whole, whole)):
        assert judged(*pair).dice == 1
    for pair in ((whole, hand), (hand, whole)):
        with pytest.raises(GeoJSONError, match=r"hand\.geojson .* does not say where .*--origin qupath"):
            read_outlines(*pair, "Tumor")
