"""Outlines against outlines: areas and objects, with the corners defined."""

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.rings import Polygons
from wsiseg.train.objects import compare_outlines


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


def test_objects_that_overlap_each_other_are_matched_once_and_as_often_as_can_be() -> None:
    def long(left: int, right: int) -> Any:
        return shapely.box(left, 0, right, 1)

    truth = np.array([long(0, 100), long(1, 101)], dtype=object)
    three = np.array([long(0, 100), long(0, 101), long(1, 101)], dtype=object)
    assert compare_outlines(three, truth).matched == 2
    crowd = np.array([long(0, 99), long(0, 98), long(200, 300)], dtype=object)
    others = np.array([long(0, 100), long(200, 301), long(201, 300)], dtype=object)
    assert compare_outlines(crowd, others).matched == 2  # not 3: one truth takes one of the first two
