import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.geometry import L0, Box, Canvas, Scale

sides = st.integers(0, 5000)
places = st.integers(-5000, 200_000)
boxes = st.builds(Box[Canvas], places, places, sides, sides)
scales = st.builds(Scale, st.floats(0.05, 64), st.integers(0, 10_000), st.integers(0, 10_000))
snapped = st.builds(
    lambda factor, x, y: Scale.snapped(factor, 128, x=x, y=y),
    st.floats(0.05, 64),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
)


@given(boxes, scales)
def test_a_canvas_box_taken_to_level_0_and_back_covers_itself(box: Box[Canvas], scale: Scale) -> None:
    assert scale.to_canvas(scale.to_l0(box)).contains(box)


@given(boxes, scales)
def test_a_level_0_box_covers_what_the_canvas_box_covers(box: Box[Canvas], scale: Scale) -> None:
    l0 = scale.to_l0(box)
    assert l0.x <= scale.x + box.x * scale.factor < l0.x + 1
    assert l0.bottom - 1 < scale.y + box.bottom * scale.factor <= l0.bottom


@given(places, places, st.integers(1, 40), snapped)
def test_lattice_boxes_lie_on_whole_level_0_pixels(x: int, y: int, side: int, scale: Scale) -> None:
    box = Box[Canvas](128 * x, 128 * y, 128 * side, 128 * side)
    l0 = scale.to_l0(box)
    assert l0.x == scale.x + box.x * scale.factor
    assert l0.w == box.w * scale.factor
    assert scale.to_canvas(l0) == box


@given(st.floats(0.05, 64), st.sampled_from([32, 64, 128]))
def test_snapping_moves_a_scale_by_less_than_half_a_step(factor: float, unit: int) -> None:
    assert abs(Scale.snapped(factor, unit).factor - factor) <= max(0.5 / unit, 1 / unit - factor) + 1e-12


@given(boxes, boxes)
def test_a_box_is_the_set_of_its_pixels(a: Box[Canvas], b: Box[Canvas]) -> None:
    both = a & b
    assert both.area == max(0, min(a.right, b.right) - max(a.x, b.x)) * max(
        0, min(a.bottom, b.bottom) - max(a.y, b.y)
    )
    if both:
        assert a.contains(both)
        assert b.contains(both)
    assert (a | b).contains(a)
    assert (a | b).contains(b)


@given(boxes, st.integers(0, 100))
def test_a_box_finds_its_rows_and_columns_in_one_that_was_grown(box: Box[Canvas], by: int) -> None:
    rows, columns = box.within(box.grown(by))
    assert (rows.start, rows.stop, columns.start, columns.stop) == (by, by + box.h, by, by + box.w)


def test_a_box_of_negative_width_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        Box[L0](0, 0, -1, 1)


def test_a_scale_holds_a_finite_factor() -> None:
    with pytest.raises(AssertionError):
        Scale(0.0)
    assert math.isfinite(Scale.snapped(1e-9, 128).factor)
