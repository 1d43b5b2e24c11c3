"""QuPath annotations become patches that lie where they were drawn."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.drawn import Drawn
from wsiseg.errors import DataError, GeoJSONError, OutputError, UsageError
from wsiseg.geometry import L0, Box
from wsiseg.testing import ArraySlide, array_info
from wsiseg.train.annotations import Cut, check_classes, cut_patches, patches_of, write_patches
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
    for text in ("image,mask\n", ""):
        (tmp_path / "manifest.csv").write_text(text)
        with pytest.raises(OutputError, match="was not written by this command"):
            write_patches(slide(), NONE, NONE, cut=CUT, root=tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]


def test_annotations_of_another_slide_are_noticed(tmp_path: Path) -> None:
    glass = ArraySlide(np.full((64, 64, 3), 250, np.uint8), array_info(64, 64, mpp=0.5))
    with pytest.raises(DataError, match="another slide"):
        write_patches(glass, NONE, NONE, cut=CUT, root=tmp_path)
    assert not list(tmp_path.rglob("*.png"))


def test_images_that_no_manifest_lists_are_not_lost_sight_of(tmp_path: Path) -> None:
    older = tmp_path / "mine" / "colon" / "image" / "1.png"
    older.parent.mkdir(parents=True)
    older.write_bytes(b"")
    with pytest.raises(OutputError, match=r"no manifest\.csv, such as mine/colon/image/1\.png.*of their own"):
        write_patches(slide(), NONE, NONE, cut=CUT, root=tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["1.png"]


def test_a_patient_cut_from_two_scanners_stays_one(tmp_path: Path) -> None:
    for domain in ("one", "other"):
        write_patches(slide(), NONE, NONE, cut=replace(CUT, domain=domain), root=tmp_path)
    with (tmp_path / "manifest.csv").open(newline="") as file:
        assert {row["dataset"] for row in csv.DictReader(file)} == {""}


@pytest.mark.parametrize("name", ["../esc", "/esc", "..", ".", "", "a/b", "a\\b", "a\0", " a", "c:"])
@pytest.mark.parametrize("where", ["task", "domain"])
def test_a_task_or_domain_that_is_no_plain_name_is_refused(name: str, where: str) -> None:
    with pytest.raises(UsageError, match=f"--{where} .* becomes a folder: give a plain name"):
        replace(Cut(task="t", domain="Darm 1, ä"), **{where: name})  # type: ignore[arg-type]


def test_a_resolution_that_is_none_is_refused() -> None:
    for mpp in (float("nan"), float("inf"), 0, -1, 11):
        with pytest.raises(UsageError, match="is no size of a pixel"):
            replace(CUT, mpp=mpp)
    with pytest.raises(UsageError, match="smaller than one pixel of"):
        list(patches_of(slide(), NONE, replace(CUT, mpp=0.001)))


def test_a_slide_without_tumour_has_regions_at_most() -> None:
    def found(*classes: str, polygons: int = 0) -> Drawn:
        square_N = np.array([shapely.box(0, 0, 9, 9)] * polygons, object)
        return Drawn(
            "a.geojson", "", "Tumour", square_N, level0=False, object_N=np.arange(polygons), classes=classes
        )

    for annotations in (found(), found("Region*"), found("Field", "Ignore*"), found("Tumor", polygons=1)):
        check_classes(annotations, "Field")
    for classes in (("Tumor",), ("none",), ("Field", "Tumor")):
        with pytest.raises(
            GeoJSONError, match=r"outlines no Tumour, but has objects of class .*--tumor-class"
        ):
            check_classes(found(*classes), "Field" if len(classes) > 1 else None)
