"""QuPath annotations become patches that lie where they were drawn."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.errors import DataError, OutputError
from wsiseg.geometry import L0, Box
from wsiseg.testing import ArraySlide, array_info
from wsiseg.train.annotations import Cut, cut_patches, patches_of, write_patches
from wsiseg.train.cases import read_cases

CUT = Cut(task="mine", domain="colon", patient="p1", size_px=64, mpp=0.5)
NONE = np.empty(0, object)


def slide(width: int = 200, height: int = 150, bounds: Box[L0] | None = None) -> ArraySlide:
    rng = np.random.default_rng(0)
    rgb_YX3 = rng.integers(60, 160, (height, width, 3)).astype(np.uint8)
    return ArraySlide(rgb_YX3, array_info(width, height, mpp=0.5, bounds=bounds))


@given(st.integers(10, 300), st.integers(10, 300), st.integers(0, 50))
@settings(max_examples=50)
def test_patches_cover_the_bounds_and_stay_in_them_where_they_fit(
    width: int, height: int, corner: int
) -> None:
    bounds = Box[L0](corner, corner, width, height)
    covered = np.zeros((height, width), bool)
    for box in patches_of(slide(400, 400, bounds), NONE, CUT):
        x, y = box.x - corner, box.y - corner
        covered[y : y + box.h, x : x + box.w] = True
        assert x == 0 or x + box.w <= width
        assert y == 0 or y + box.h <= height
    assert covered.all()


@given(st.integers(0, 120), st.integers(0, 80), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_a_box_drawn_in_qupath_is_the_mask_to_the_pixel(x: int, y: int, w: int, h: int) -> None:
    whole = slide(220, 170, Box(20, 10, 200, 150))
    tumour = np.array([shapely.box(x, y, x + w, y + h)], object)
    expected = np.zeros((170, 220), bool)
    expected[y + 10 : y + 10 + h, x + 20 : x + 20 + w] = True
    for box, rgb_YX3, mask_YX in cut_patches(whole, tumour, NONE, CUT):
        np.testing.assert_array_equal(rgb_YX3, whole.read(box, (64, 64)))
        at = np.s_[box.y : box.bottom, box.x : box.right]
        here = expected[at]
        assert (mask_YX[: here.shape[0], : here.shape[1]] > 0).sum() == here.sum()
        np.testing.assert_array_equal(mask_YX[: here.shape[0], : here.shape[1]] > 0, here)


def test_a_hole_is_no_tumour_and_an_island_in_it_is() -> None:
    ring = shapely.box(0, 0, 60, 60).difference(shapely.box(10, 10, 50, 50))
    tumour = np.array([shapely.box(20, 20, 30, 30), ring], object)
    _, _, mask_YX = next(iter(cut_patches(slide(), tumour, NONE, CUT)))
    assert (mask_YX[5, 5], mask_YX[15, 15], mask_YX[25, 25]) == (255, 0, 255)


def test_outside_a_region_is_white_and_no_tumour() -> None:
    region = np.array([shapely.Polygon([(10, 10), (70, 10), (10, 70)])], object)
    everywhere = np.array([shapely.box(0, 0, 200, 150)], object)
    (_, rgb_YX3, mask_YX), *more = cut_patches(slide(), everywhere, region, CUT)
    assert not more
    assert (rgb_YX3[60, 60] == 255).all()
    assert mask_YX[60, 60] == 0
    assert mask_YX[5, 5] == 255


def test_patches_of_glass_are_left_out() -> None:
    glass = ArraySlide(np.full((64, 128, 3), 240, np.uint8), array_info(128, 64, mpp=0.5))
    glass.rgb_YX3[:, 64:] = 120
    assert [box.x for box, _, _ in cut_patches(glass, NONE, NONE, CUT)] == [64]


def test_what_is_written_can_be_trained_on(tmp_path: Path) -> None:
    tumour = np.array([shapely.box(0, 0, 30, 30)], object)
    count = write_patches(slide(), tumour, NONE, cut=CUT, root=tmp_path)
    found = read_cases(tmp_path, image_mpp=9)
    assert len(found) == count == 12
    assert {(c.task, c.domain, c.patient, c.mpp) for c in found} == {("mine", "colon", "p1", 0.5)}
    assert sum(not c.empty for c in found) == 1
    with pytest.raises(OutputError, match="is there already"):
        write_patches(slide(), tumour, NONE, cut=CUT, root=tmp_path)


def test_another_manifest_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("image,mask\n")
    with pytest.raises(OutputError, match="was not written by this command"):
        write_patches(slide(), NONE, NONE, cut=CUT, root=tmp_path)


def test_annotations_of_another_slide_are_noticed(tmp_path: Path) -> None:
    glass = ArraySlide(np.full((64, 64, 3), 250, np.uint8), array_info(64, 64, mpp=0.5))
    with pytest.raises(DataError, match="another slide"):
        write_patches(glass, NONE, NONE, cut=CUT, root=tmp_path)
    assert not list(tmp_path.rglob("*.png"))
