"""What cannot be decoded fails the slide, or by request is no data: never no tumour."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import shapely
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import OutputError, SlideOpenError, SlideReadError
from wsiseg.geometry import L0, Box, Canvas, Scale
from wsiseg.grid import Grid
from wsiseg.ledger import Ledger
from wsiseg.nodata import from_afar
from wsiseg.one_slide import Job, Progress
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.outlining import outlining
from wsiseg.overview import hatched
from wsiseg.pipeline import (
    PREDICTORS,
    SLIDES,
    BlockResult,
    BlockTask,
    Predict,
    plan_work,
    segment,
)
from wsiseg.plan import Plan
from wsiseg.polygons import outline, tidy
from wsiseg.qupath import check
from wsiseg.readers import open_slide
from wsiseg.readers.preflight import preflight
from wsiseg.recipes import SlideRecipe
from wsiseg.reoutline import reoutline
from wsiseg.salvage import Salvaging, salvage
from wsiseg.spread import mean_and_spread
from wsiseg.testing import DARKNESS, ArraySlide, BlurPredictor, Darkness
from wsiseg.tissue import TissueMask, find_slide_tissue
from wsiseg.workers import in_threads, serially

Rgb = npt.NDArray[np.uint8]
MAKE_SLIDE = Path(__file__).parents[1] / "scripts" / "make_slide.py"


class Torn(ArraySlide):
    """A slide that cannot be read wherever it touches some boxes; they are still in its array."""

    torn: tuple[Box[L0], ...] = ()

    def read(self, box: Box[L0], size: tuple[int, int]) -> Rgb:
        if any(box & one for one in self.torn):
            msg = f"array.tif: {box} cannot be decoded"
            raise SlideReadError(msg)
        return super().read(box, size)


def torn(rgb_YX3: Rgb, *boxes: Box[L0]) -> Torn:
    slide = Torn(rgb_YX3)
    slide.torn = boxes
    return slide


def noise(height: int, width: int) -> Rgb:
    return np.random.default_rng(1).integers(0, 200, (height, width, 3), np.uint8)


@st.composite
def boxes(draw: st.DrawFn) -> Box[L0]:
    x, y = draw(st.integers(-5, 140)), draw(st.integers(-5, 140))
    return Box(x, y, draw(st.integers(1, 60)), draw(st.integers(1, 60)))


@settings(max_examples=60)
@given(st.lists(boxes(), max_size=3), boxes(), st.sampled_from([8, 16, 32]))
def test_all_that_can_be_read_is_read_and_the_rest_is_named_to_the_cell(
    bad: list[Box[L0]], box: Box[L0], cell: int
) -> None:
    rgb_YX3 = noise(150, 150)
    found_YX3, lost = salvage(torn(rgb_YX3, *bad), box, (box.h, box.w), cell=cell)
    expected_YX3 = ArraySlide(rgb_YX3).read(box, (box.h, box.w))
    lost_YX = np.zeros((box.h, box.w), np.bool_)
    for y in range(0, box.h, cell):
        for x in range(0, box.w, cell):
            place = Box[L0](box.x + x, box.y + y, min(cell, box.w - x), min(cell, box.h - y))
            lost_YX[y : y + cell, x : x + cell] = any(place & one for one in bad)
    expected_YX3[lost_YX] = 255
    assert np.array_equal(found_YX3, expected_YX3)
    marked_YX = np.zeros((box.h, box.w), np.int_)
    for one in lost:
        marked_YX[one.y : one.bottom, one.x : one.right] += 1
    assert np.array_equal(marked_YX, lost_YX)


def test_a_whole_slide_is_read_once_and_a_lost_square_is_one_place() -> None:
    slide = torn(noise(128, 128))
    assert salvage(slide, Box(0, 0, 128, 128), (64, 64), cell=16)[1] == ()
    assert slide.reads == [Box(0, 0, 128, 128)]
    slide.torn = (Box(0, 0, 64, 64),)
    assert salvage(slide, Box(0, 0, 128, 128), (64, 64), cell=16)[1] == (Box[Canvas](0, 0, 32, 32),)
    slide.torn = (Box(0, 0, 128, 128),)
    assert salvage(slide, Box(0, 0, 128, 128), (64, 64), cell=16)[1] == (Box[Canvas](0, 0, 64, 64),)


def test_from_afar_what_cannot_be_decoded_has_a_colour_and_nothing_else_has() -> None:
    slide = Salvaging(torn(noise(400, 400), Box(10, 10, 5, 5)), (1, 2, 3))
    filled_YX = (slide.read(Box(0, 0, 400, 400), (100, 100)) == (1, 2, 3)).all(axis=2)
    assert filled_YX[2:4, 2:4].all()
    assert not filled_YX[16:].any()
    assert not filled_YX[:, 16:].any()
    assert slide.info.width == 400


@dataclass(frozen=True, eq=False)
class Given:
    value: object

    def __call__(self) -> object:
        return self.value


def run(
    folder: Path, slide: ArraySlide, predictor: Predict, plan: Plan
) -> tuple[ProbabilityMap, list[BlockResult]]:
    path = folder / "map.zarr"
    canvas = ProbabilityMap(path, plan.grid)
    if not path.exists():
        canvas = ProbabilityMap.create(path, plan.grid, scale=plan.scale, mpp=0.5, about={})
        canvas.add_unreadable(scale=plan.scale, mpp=0.5)
    task = BlockTask(plan, canvas, Given(slide), Given(predictor), 100)  # type: ignore[arg-type]
    with Ledger(folder / "ledger.jsonl", plan.settings) as ledger:
        return canvas, list(
            segment(task, list(plan_work(plan, None, ledger)), mapper=serially, ledger=ledger)
        )


def plan_of(slide: ArraySlide, per_block: int) -> Plan:
    grid = Grid(slide.info.width, slide.info.height, 64, 16, per_block)
    return Plan(slide.info, DARKNESS, Scale(1.0), grid, sparing=True)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(boxes(), max_size=2), st.integers(1, 3))
def test_the_map_is_the_networks_around_the_holes_and_says_where_they_are(
    tmp_path_factory: pytest.TempPathFactory, bad: list[Box[L0]], per_block: int
) -> None:
    slide, predictor, folder = torn(noise(100, 130), *bad), BlurPredictor(16), tmp_path_factory.mktemp("run")
    plan = plan_of(slide, per_block)
    canvas, results = run(folder, slide, predictor, plan)
    around: Box[L0] = slide.info.extent.grown(16)
    white_YX3, lost = salvage(slide, around, (around.h, around.w), cell=16)
    lost_YX = np.zeros((around.h, around.w), np.bool_)
    for one in lost:
        lost_YX[one.y : one.bottom, one.x : one.right] = True
    inside = (slice(16, 116), slice(16, 146))
    expected_CYX = mean_and_spread(predictor(white_YX3[None])[:, 0])[:, *inside]
    expected_CYX[:, lost_YX[inside]] = 0
    assert np.array_equal(canvas.read(plan.grid.extent), expected_CYX)
    assert np.array_equal(canvas.unreadable(plan.grid.extent), lost_YX[inside])
    predictor.calls.clear()
    _, again = run(folder, slide, predictor, plan)
    assert all(result.resumed for result in again)
    assert [result.done for result in again] == [result.done for result in results]
    assert predictor.calls == []


def test_a_block_whose_mark_was_lost_is_done_again(tmp_path: Path) -> None:
    slide = torn(noise(100, 130), Box(40, 40, 4, 4))
    plan = plan_of(slide, 1)
    canvas, _ = run(tmp_path, slide, BlurPredictor(16), plan)
    before_YX = canvas.unreadable(plan.grid.extent)
    assert before_YX.sum() == 256
    (canvas.path / "labels/unreadable/0/c/1/1").unlink()
    _, results = run(tmp_path, slide, BlurPredictor(16), plan)
    assert [(one.done.row, one.done.column) for one in results if not one.resumed] == [(1, 1)]
    assert np.array_equal(canvas.unreadable(plan.grid.extent), before_YX)


def test_a_mark_of_an_attempt_that_was_not_committed_does_not_stay(tmp_path: Path) -> None:
    slide = torn(noise(100, 130), Box(40, 40, 4, 4))
    plan = plan_of(slide, 1)
    canvas, _ = run(tmp_path, slide, BlurPredictor(16), plan)
    (tmp_path / "ledger.jsonl").unlink()
    slide.torn = ()
    run(tmp_path, slide, BlurPredictor(16), plan)
    assert not canvas.unreadable(plan.grid.extent).any()


def test_sparing_is_part_of_the_key_and_changes_no_other() -> None:
    plan = plan_of(torn(noise(100, 130)), 1)
    assert plan.key != replace(plan, sparing=False).key
    assert "unreadable regions" not in replace(plan, sparing=False).settings


def test_a_hole_of_which_nothing_is_known_is_never_filled() -> None:
    prob_YX = np.full((20, 30), 255, np.uint8)
    prob_YX[5:8, 5:8] = prob_YX[5:8, 15:18] = 0
    regions = outline(prob_YX, prob_YX, threshold_u8=128, x=0, y=0)
    (filled,) = tidy(regions, min_area_px=0, min_hole_px=50, simplify_px=0).polygons_N
    assert filled.area == 600
    gap = shapely.box(15, 5, 18, 8)
    (kept,) = tidy(regions, min_area_px=0, min_hole_px=50, simplify_px=0, unknown=gap).polygons_N
    assert kept.equals(shapely.box(0, 0, 30, 20) - gap)


def test_tissue_of_which_nothing_is_known_is_not_counted() -> None:
    mask = TissueMask(np.ones((10, 10), np.bool_), Scale(16, 100, 200), mpp=8.0)
    left = mask.without([Box(100, 200, 16, 32), Box(100 + 144, 200, 500, 16)])
    assert (~left.mask_YX).sum() == 3
    assert left.area_mm2 == pytest.approx(97 * 64e-6)
    assert mask.mask_YX.all()


def test_what_is_unknown_is_hatched_and_nothing_else() -> None:
    thumbnail_YX3 = np.full((200, 300, 3), 200, np.uint8)
    assert hatched(thumbnail_YX3, None, px_per_canvas_px=0.5) is thumbnail_YX3
    drawn_YX3 = hatched(thumbnail_YX3, shapely.box(100, 100, 200, 300), px_per_canvas_px=0.5)
    assert len(np.unique(drawn_YX3[52:148, 52:98].reshape(-1, 3), axis=0)) > 1
    drawn_YX3 = drawn_YX3.copy()
    drawn_YX3[44:156, 44:106] = 200
    assert np.array_equal(drawn_YX3, thumbnail_YX3)


# From here on: a slide on disk with one damaged tile.


def quiet(_: Progress) -> None:
    pass


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    yield
    SLIDES.clear()
    PREDICTORS.clear()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide with a large disc."""
    path = tmp_path_factory.mktemp("drawn") / "disc.svs"
    drawing = ["--side", "1200", "--disc", "600,600,450"]
    subprocess.run([sys.executable, MAKE_SLIDE, path, *drawing], check=True, capture_output=True)
    return path


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> tuple[Path, Box[L0]]:
    """A slide with a large disc, and the box of its tile that is damaged, inside the disc."""
    path = Path(shutil.copy(whole, tmp_path))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        across, side = -(-page.imagewidth // page.tilewidth), page.tilewidth
        number = (600 // side) * across + 300 // side
        at, count = page.dataoffsets[number], page.databytecounts[number]
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(count))
    return path, Box(300 // side * side, 600 // side * side, side, side)


def job(**options: bool) -> Job:
    how = outlining(PolygonOptions(), DARKNESS)
    map_options = replace(MapOptions(), **options)  # type: ignore[arg-type]
    return Job(DARKNESS, Darkness(), "integers", map_options, how, overwrite=False, mapper=in_threads(2))


def recipe(path: Path, *, sparing: bool) -> SlideRecipe:
    return SlideRecipe(path, None, "--slide-mpp", "auto", DARKNESS, sparing=sparing)


def test_a_damaged_tile_fails_the_slide_by_the_name_of_its_region(
    damaged: tuple[Path, Box[L0]], tmp_path: Path
) -> None:
    path, tile = damaged
    with pytest.raises(SlideReadError, match=r"disc\.svs: the region x=\d+ .* cannot be decoded") as caught:
        job().segment(recipe(path, sparing=False), tmp_path / "out", quiet)
    words = str(caught.value).replace("=", " ").split()
    x, y, w, h = (int(words[words.index(name) + 1]) for name in "xywh")
    assert Box[L0](x, y, w, h) & tile


def test_a_damaged_tile_is_no_data_where_that_is_asked_for(
    damaged: tuple[Path, Box[L0]], tmp_path: Path
) -> None:
    path, tile = damaged
    out = tmp_path / "out"
    manifest, _ = job(skip_unreadable=True).segment(recipe(path, sparing=True), out, quiet)
    lost: list[Box[L0]] = [Box(*place) for place in manifest.unreadable]
    gone = shapely.union_all([shapely.box(b.x, b.y, b.right, b.bottom) for b in lost])
    square = shapely.box(tile.x, tile.y, tile.right, tile.bottom)
    assert square.within(gone)
    assert gone.within(square.buffer(2 * 128 * manifest.canvas.factor, join_style="mitre"))
    assert manifest.result.unreadable_mm2 == pytest.approx(gone.area * 0.25e-6, rel=0.01)
    assert "cannot be decoded: nothing is known there" in manifest.result.note
    with open_slide(path) as opened:
        tissue_mm2 = find_slide_tissue(
            from_afar(opened, job(skip_unreadable=True).plan(opened.info))
        ).area_mm2
    assert manifest.result.tissue_mm2 == pytest.approx(tissue_mm2 - gone.area * 0.25e-6, rel=0.01)

    document = json.loads((out / "tumor.geojson").read_text())
    assert document["wsiseg"]["unreadable_level0_px"] == [list(place) for place in manifest.unreadable]
    named: dict[str, list[shapely.Geometry]] = {"Tumor": [], "Unreadable": []}
    for feature in document["features"]:
        named[feature["properties"]["classification"]["name"]].append(
            shapely.geometry.shape(feature["geometry"])
        )
    assert shapely.union_all(named["Unreadable"]).equals(gone)
    assert shapely.union_all(named["Tumor"]).intersection(gone).area < 0.02 * gone.area
    assert shapely.union_all(named["Tumor"]).boundary.intersection(gone.buffer(24)).length > 500, (
        "it was tumour"
    )
    assert manifest.counts.polygons == len(named["Tumor"]) == 1
    assert [problem for problem in check(out / "tumor.geojson") if problem.severity == "error"] == []

    canvas = ProbabilityMap.open(out / "probability.zarr")
    unread_YX = canvas.unreadable(canvas.grid.extent)
    assert unread_YX.any()
    assert (canvas.read(canvas.grid.extent)[:, unread_YX] == 0).all()
    group = zarr.open_group(out / "probability.zarr" / "labels", mode="r")
    assert group.attrs["ome"] == {"version": "0.5", "labels": ["tissue", "unreadable"]}
    before = (out / "overview.png").read_bytes()
    with Image.open(out / "overview.png") as picture:
        grey = np.asarray(picture.convert("RGB"))
    assert ((grey == 110).all(axis=2)).sum() > 100
    again = reoutline(out, {"threshold": manifest.polygon_options["threshold"]})
    assert again.unreadable == manifest.unreadable
    assert again.result == manifest.result
    assert (out / "overview.png").read_bytes() == before


def test_what_was_made_without_the_option_is_not_gone_on_with_it(whole: Path, tmp_path: Path) -> None:
    def stopped(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job().segment(recipe(whole, sparing=False), tmp_path / "out", stopped)
    with pytest.raises(OutputError, match=r"\(unreadable regions\); use --overwrite"):
        job(skip_unreadable=True).segment(recipe(whole, sparing=True), tmp_path / "out", quiet)


def test_a_whole_slide_is_the_same_with_and_without_the_option(whole: Path, tmp_path: Path) -> None:
    found = []
    for sparing in (False, True):
        out = tmp_path / str(sparing)
        manifest, _ = job(skip_unreadable=sparing).segment(recipe(whole, sparing=sparing), out, quiet)
        canvas = ProbabilityMap.open(out / "probability.zarr")
        found.append((canvas.read(canvas.grid.extent).tobytes(), (out / "tumor.geojson").read_bytes()))
        assert manifest.unreadable == ()
    assert found[0] == found[1]


def test_a_slide_of_which_nothing_can_be_decoded_is_not_done(
    damaged: tuple[Path, Box[L0]], tmp_path: Path
) -> None:
    with tifffile.TiffFile(damaged[0]) as tiff:
        parts = [
            part for page in tiff.pages for part in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    with damaged[0].open("r+b") as file:
        for at, count in parts:
            file.seek(at)
            file.write(bytes(count))
    with pytest.raises(SlideReadError, match="cannot be decoded"):
        job(skip_unreadable=True).segment(recipe(damaged[0], sparing=True), tmp_path / "out", quiet)
    known = replace(recipe(damaged[0], sparing=True), fingerprint="0" * 64)  # as if it had passed the look
    with pytest.raises(SlideReadError, match="nothing of it can be decoded"):
        job(skip_unreadable=True).segment(known, tmp_path / "out", quiet)


@pytest.mark.parametrize("where", ["at the corner", "of most bytes"])
@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_a_damaged_tile_by_which_a_slide_is_tried_is_spared_too(
    whole: Path, tmp_path: Path, reader: str, where: str
) -> None:
    path = Path(shutil.copy(whole, tmp_path))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        number = 0 if where == "at the corner" else int(np.argmax(page.databytecounts))
        at, count, side = page.dataoffsets[number], page.databytecounts[number], page.tilewidth
        y, x = (side * place for place in divmod(number, -(-page.imagewidth // side)))
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(count))
    if where == "at the corner":
        with pytest.raises(SlideReadError, match="x=0 y=0"):
            preflight(path, reader=reader)
    preflight(path, reader=reader, sparing=True)
    with open_slide(path, reader=reader) as slide:
        _, lost = salvage(slide, Box(0, 0, 1152, 1152), (1152, 1152), cell=128)
    gone = shapely.union_all([shapely.box(one.x, one.y, one.right, one.bottom) for one in lost])
    tile = shapely.box(x, y, x + side, y + side)
    assert tile.intersection(shapely.box(0, 0, 1152, 1152)).within(gone)
    assert gone.within(tile.buffer(128, join_style="mitre"))


def test_a_slide_that_has_gone_is_not_taken_for_an_unreadable_region(
    damaged: tuple[Path, Box[L0]],
) -> None:
    path, tile = damaged
    with open_slide(path) as slide:
        path.unlink()
        with pytest.raises(SlideOpenError, match="cannot be opened any more"):
            salvage(slide, tile, (tile.h, tile.w), cell=128)
