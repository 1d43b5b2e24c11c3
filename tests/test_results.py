"""What is made of a finished map: outlined again, swept, ranked, shown as a picture and on a page."""

import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest
import shapely
import tifffile
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from wsiseg import report
from wsiseg.canvas import ProbabilityMap
from wsiseg.cli import main
from wsiseg.errors import CanvasError, OutputError
from wsiseg.export import export_polygons, keep_thumbnail
from wsiseg.flags import flags
from wsiseg.focus import Focus
from wsiseg.geojson import Export
from wsiseg.geometry import Scale
from wsiseg.grid import Grid
from wsiseg.heatmap import write_heatmap
from wsiseg.inputs import SlideInput
from wsiseg.ledger import Done, Ledger
from wsiseg.manifest import Canvas, Counts, Model, Result, SlideFacts, SlideManifest
from wsiseg.outlining import Outlining
from wsiseg.overview import REVIEW, TUMOR, draw_overview, shrunk
from wsiseg.place import Place
from wsiseg.polygons import join, outline, threshold_u8
from wsiseg.qupath import check
from wsiseg.records import RunRecord
from wsiseg.reoutline import outlines, reoutline, sweep
from wsiseg.report import write_report
from wsiseg.review import REVIEW_ABOVE
from wsiseg.run import Outcome
from wsiseg.view.results import facts, look

Map = npt.NDArray[np.uint8]
SETTINGS = {"block": 2}
GRID = Grid(width=300, height=200, patch=48, margin=8, per_block=2)
MPP, FACTOR = 0.5, 1.5
maps = arrays(np.uint8, (2, 40, 50), elements=st.sampled_from([0, 60, 120, 128, 180, 255]))


def discs(*circles: tuple[int, int, int, int, int]) -> Map:
    """A map (2, Y, X) with discs of (x, y, radius, probability, disagreement), both stored values."""
    map_CYX = np.zeros((2, GRID.height, GRID.width), np.uint8)
    y, x = np.indices(map_CYX.shape[1:])
    for at_x, at_y, r, prob, spread in circles:
        inside = np.hypot(x - at_x, y - at_y) < r
        map_CYX[0][inside], map_CYX[1][inside] = prob, spread
    return map_CYX


MAP_CYX = discs(
    (60, 60, 30, 200, 20), (200, 120, 40, 120, 90), (110, 150, 12, 240, 120), (280, 20, 3, 250, 0)
)


def how(**changes: Any) -> Outlining:
    first: dict[str, Any] = {
        "threshold": 0.5, "min_area_um2": 100.0, "min_hole_um2": 100.0, "simplify_px": 1.0,
        "origin": "qupath", "review_above": None, "object_type": "annotation",
        "gzip": False, "max_vertices": 200_000,
    }  # fmt: skip
    return Outlining(**{**first, **changes})


def record(grid: Grid, name: str = "a.svs", **changes: Any) -> SlideManifest:
    width, height = int(grid.width * FACTOR), int(grid.height * FACTOR)
    first = SlideManifest(
        key="k", polygon_key="", settings=SETTINGS,
        slide=SlideFacts(
            name=name, fingerprint="f" * 64, width=width + 30, height=height + 60,
            bounds=(30, 60, width, height), mpp=MPP, mpp_source="openslide.mpp-x", objective=None,
            downsamples=(1.0,), vendor="test", reader="test",
        ),
        model=Model(name="m", encoder="e", weights={"fold-1": "0" * 64, "fold-2": "1" * 64}, mpp=MPP),
        canvas=Canvas(width=grid.width, height=grid.height, factor=FACTOR, mpp=MPP * FACTOR),
        map_options={}, polygon_options={},
        counts=Counts(blocks=1, patches=1, resumed_blocks=0, polygons=0, vertices=0),
        result=Result(tissue_mm2=0.02), seconds={"total": 9.0}, device="test", versions={},
        finished="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    return first.model_copy(update=changes)


def finished(
    folder: Path, map_CYX: Map = MAP_CYX, grid: Grid = GRID, options: Outlining | None = None, **changes: Any
) -> SlideManifest:
    """A slide's folder as a run leaves it; blank blocks count as tissue too."""
    folder.mkdir(parents=True)
    manifest, options = record(grid, **changes), options or how()
    to = ProbabilityMap.create(
        folder / "probability.zarr", grid, scale=Scale(FACTOR, 30, 60), mpp=MPP, about={}
    )
    parts = []
    with Ledger(folder / "ledger.jsonl", SETTINGS) as ledger:
        for block in grid:
            part_CYX = map_CYX[:, *block.core.within(grid.extent)]
            ledger.add(Done(*block.index, to.write(block, part_CYX), 1))
            least, sure = options.levels_u8
            parts.append(outline(*part_CYX, threshold_u8=least, sure_u8=sure, x=block.core.x, y=block.core.y))
    slide_YX3 = np.random.default_rng(5).integers(0, 256, (200, 300, 3), np.uint8)
    keep_thumbnail(folder, slide_YX3)
    done = export_polygons(join(parts, grid.chunk), manifest, options, folder)
    done.write(folder / "slide.json")
    return done


def content(folder: Path, *, but: Iterable[str] = ()) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.name not in but}


def features(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads((folder / "tumor.geojson").read_bytes())["features"]
    return found


def wsiseg(*arguments: str | Path | float) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_asked_again_with_nothing_changed_not_a_byte_of_the_outlines_changes(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    before = content(tmp_path / "a", but=["slide.json"])
    reoutline(tmp_path / "a", {})
    assert content(tmp_path / "a", but=["slide.json"]) == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"], "no lock and no partial folder is left"


@pytest.mark.parametrize(
    ("given", "same"), [({"threshold": 0.35}, {"threshold": 0.35}), ({"min_area": 1000.0, "simplify": 2.0},
    {"min_area_um2": 1000.0, "simplify_px": 2.0}), ({"threshold": 1.0, "review": 0.3, "origin": "level0"},
    {"threshold": 1.0, "review_above": 0.3, "origin": "level0"}), ({"sure": 0.9}, {"sure": 0.9}),
    ({"threshold": 0.6, "sure": 0.0}, {"threshold": 0.6})],
)  # fmt: skip
def test_outlined_again_is_what_a_run_with_these_options_would_have_written(
    tmp_path: Path, given: dict[str, Any], same: dict[str, Any]
) -> None:
    finished(tmp_path / "again")
    reoutline(tmp_path / "again", given)
    finished(tmp_path / "run", options=how(**same))
    assert content(tmp_path / "again", but=["slide.json"]) == content(tmp_path / "run", but=["slide.json"])
    again, run = (SlideManifest.read(tmp_path / name / "slide.json") for name in ("again", "run"))
    assert again.model_copy(update={"seconds": run.seconds}) == run


@settings(max_examples=15, deadline=None)  # each example is a map on disk
@given(maps, st.sampled_from([0.2, 0.47, 0.5, 0.7, 1.0]))
def test_the_outlines_of_the_stored_blocks_are_those_of_the_whole_map(map_CYX: Map, threshold: float) -> None:
    grid = Grid(width=50, height=40, patch=12, margin=2, per_block=2)
    with tempfile.TemporaryDirectory() as folder:
        manifest = finished(Path(folder) / "a", map_CYX, grid)
        found = outlines(Path(folder) / "a", manifest, how(threshold=threshold))
    whole = outline(*map_CYX, threshold_u8=threshold_u8(threshold), x=0, y=0)
    assert shapely.equals_exact(found.polygons_N, whole.polygons_N).all()
    assert len(found) == len(whole)
    assert np.array_equal(found.mean_prob_N, whole.mean_prob_N)


def test_a_region_is_kept_where_enough_of_it_is_sure_and_outlined_where_it_ends(tmp_path: Path) -> None:
    peak = discs((60, 60, 30, 150, 20), (60, 60, 9, 250, 20), (200, 120, 40, 150, 90))  # 9 px: 254 of them
    finished(tmp_path / "a", peak)
    px_um2 = SlideManifest.read(tmp_path / "a" / "slide.json").canvas.mpp ** 2
    whole = len(features(tmp_path / "a"))
    done = reoutline(tmp_path / "a", {"sure": 0.9, "min_area": 200 * px_um2})
    assert (whole, done.counts.polygons) == (2, 1)
    assert done.result.tumor_mm2 == pytest.approx(np.pi * 30**2 * px_um2 / 1e6, rel=0.02), "not the core"
    none = reoutline(tmp_path / "a", {"min_area": 300 * px_um2})
    assert none.counts.polygons == 0
    assert "that reach 0.9" in none.result.note
    assert reoutline(tmp_path / "a", {"sure": 0.0}).counts.polygons == 2


def test_a_slide_that_was_outlined_before_there_was_sure_is_outlined_again_as_it_was(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    manifest = SlideManifest.read(tmp_path / "a" / "slide.json")
    before = content(tmp_path / "a", but=["slide.json"])
    old = {name: value for name, value in manifest.polygon_options.items() if name != "sure"}
    manifest.model_copy(update={"polygon_options": old}).write(tmp_path / "a" / "slide.json")
    assert reoutline(tmp_path / "a", {}).polygon_options["sure"] == 0.0
    assert content(tmp_path / "a", but=["slide.json"]) == before


def test_where_no_more_than_the_threshold_is_asked_outlines_have_the_key_they_had_before_there_was_sure() -> (
    None
):
    before = {name: value for name, value in asdict(how(threshold=0.9)).items() if name != "sure"}
    key = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()
    assert {how(threshold=0.9, sure=sure).key for sure in (0.0, 0.5, 0.9, 0.901)} == {key}
    assert how(threshold=0.9, sure=0.95).key != key


def test_with_no_smallest_area_a_region_needs_one_sure_pixel(tmp_path: Path) -> None:
    finished(tmp_path / "a", discs((60, 60, 30, 150, 20), (200, 120, 40, 180, 90)))
    assert reoutline(tmp_path / "a", {"min_area": 0.0, "sure": 0.7}).counts.polygons == 1
    none = reoutline(tmp_path / "a", {"sure": 1.0})
    assert (none.counts.polygons, none.result.note) == (
        0, "no region reaches 1; 2 smaller or less sure ones were dropped",
    )  # fmt: skip


@pytest.mark.parametrize(("threshold", "told"), [(0.35, 0.75), (0.75, 0.0), (0.9, 0.0)])
def test_what_more_is_asked_is_told_everywhere_and_only_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threshold: float, told: float
) -> None:
    captions: list[str] = []

    def kept(*given: Any, caption: str, **more: Any) -> Image.Image:
        captions.append(caption)
        return draw_overview(*given, caption=caption, **more)

    monkeypatch.setattr("wsiseg.export.draw_overview", kept)
    done = finished(tmp_path / "a", options=how(sure=0.75))
    RunRecord(tmp_path, [], {}).add(Outcome(SlideInput(Path("a.svs"), "a"), "done", tmp_path / "a", done))
    line = wsiseg("polygons", tmp_path / "a", "--threshold", threshold).stdout
    assert f"p >= {threshold}{f' ({told} in places)' if told else ''}, " in line
    assert (f"{threshold} or more, {told} in places;" if told else f"{threshold} or more;") in captions[-1]
    assert float(rows(tmp_path / "summary.csv")[0]["sure"]) == told
    (head, cells) = Page(write_report(tmp_path).read_text()).table
    words = f"p\xa0≥\xa0{threshold}" + (f", sure\xa0{told}" if told else "")
    assert cells[head.index("Tumour, mm²")].endswith(words)
    (entry,) = look(tmp_path).values()
    assert facts(entry)["sure"] == told
    swept = {one.threshold: one.sure for one in sweep(tmp_path / "a", {})}
    assert (swept[0.7], swept[0.75], swept[0.8]) == (0.75, 0, 0)


@pytest.mark.parametrize("sure", [0.0, 0.7])
def test_a_sweep_says_what_each_threshold_would_write_and_writes_nothing(tmp_path: Path, sure: float) -> None:
    finished(tmp_path / "a", options=how(sure=sure))
    before = content(tmp_path / "a")
    swept = list(sweep(tmp_path / "a", {}))
    assert content(tmp_path / "a") == before
    for one in swept[::4]:
        done = reoutline(tmp_path / "a", {"threshold": one.threshold})
        assert (one.regions, one.tumor_mm2) == (done.counts.polygons, done.result.tumor_mm2)
        assert one.tissue_fraction == done.result.tissue_fraction
    areas = [one.tumor_mm2 for one in swept]
    assert areas == sorted(areas, reverse=True)
    assert len(set(areas)) > (1 if sure else 3)


def test_what_is_not_named_stays_as_it_was_last_asked(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    assert wsiseg("polygons", tmp_path / "a", "--threshold", 0.35, "--gzip").exit_code == 0
    done = wsiseg("polygons", tmp_path / "a", "--min-area", 500, "--json")
    options = json.loads(done.stdout)["record"]["polygon_options"]
    assert options == {**options, "threshold": 0.35, "min_area_um2": 500.0, "gzip": True, "simplify_px": 1.0}
    assert not (tmp_path / "a" / "tumor.geojson").exists(), "the outlines of before would lie beside the new"
    assert wsiseg("polygons", tmp_path / "a", "--no-gzip").exit_code == 0
    assert [p.name for p in (tmp_path / "a").glob("tumor*")] == ["tumor.geojson"]


def test_a_damaged_lost_or_unfinished_map_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    before = content(tmp_path / "a")
    chunk = tmp_path / "a" / "probability.zarr" / "0" / "c" / "0" / "0" / "0"
    whole = chunk.read_bytes()
    for damage in (None, whole[:-9], whole[:20] + bytes([whole[20] ^ 1]) + whole[21:]):
        chunk.unlink()
        if damage is not None:
            chunk.write_bytes(damage)
        with pytest.raises(CanvasError, match="damaged"):
            reoutline(tmp_path / "a", {"threshold": 0.35})
        with pytest.raises(CanvasError, match="damaged"):
            list(sweep(tmp_path / "a", {}))
        chunk.write_bytes(whole)
    (tmp_path / "a" / "ledger.jsonl").rename(tmp_path / "ledger.jsonl")
    with pytest.raises(CanvasError, match=r"ledger\.jsonl is missing"):
        reoutline(tmp_path / "a", {})
    (tmp_path / "ledger.jsonl").rename(tmp_path / "a" / "ledger.jsonl")
    assert content(tmp_path / "a") == before
    done = wsiseg("polygons", tmp_path)
    assert done.exit_code == 1
    assert "give the folder of a finished slide" in done.output


def test_a_slide_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    with Place(tmp_path / "a").claimed(), pytest.raises(OutputError, match="being written"):
        reoutline(tmp_path / "a", {})


def test_outlining_again_loads_neither_torch_nor_a_slide_library(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    code = (
        "import sys\n"
        "from wsiseg.cli import main\n"
        f"try: main(['polygons', {str(tmp_path / 'a')!r}, '--threshold', '0.35'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'openslide', 'tiffslide', 'dask', 'distributed', 'segmentation_models_pytorch'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_sweep_is_printed_and_takes_no_threshold(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    done = wsiseg("polygons", tmp_path / "a", "--sweep")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 2 + 19
    sure = wsiseg("polygons", tmp_path / "a", "--sweep", "--sure", 0.75).stdout.splitlines()
    assert [line.split()[1] for line in sure[2:17]] == 14 * ["0.75"] + ["-"], "at 0.75 no more is asked"
    swept = json.loads(wsiseg("polygons", tmp_path / "a", "--sweep", "--json").stdout)["sweep"]
    assert [one["threshold"] for one in swept][:2] == [0.05, 0.1]
    assert wsiseg("polygons", tmp_path / "a", "--sweep", "--threshold", 0.3).exit_code == 2


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_review_list_ranks_every_region_by_disagreement_and_names_its_feature(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    reoutline(tmp_path / "a", {"threshold": 0.35})
    ranked = rows(tmp_path / "a" / "review.csv")
    assert [round(float(row["disagreement"]) * 255) for row in ranked] == [120, 90, 20]
    assert [row["rank"] for row in ranked] == ["1", "2", "3"]
    assert [row["review"] for row in ranked] == ["yes", "yes", "no"]
    by_id = {feature["id"]: feature for feature in features(tmp_path / "a")}
    for row in ranked:
        feature = by_id.pop(row["id"])
        measured = feature["properties"]["measurements"]
        assert float(row["area_mm2"]) == pytest.approx(measured["Area mm^2"], abs=1e-6)
        assert float(row["mean_probability"]) == pytest.approx(measured["Mean probability"], abs=1e-4)
        centre = shapely.geometry.shape(feature["geometry"]).centroid
        assert (float(row["x_px"]), float(row["y_px"])) == pytest.approx((centre.x, centre.y), abs=0.51)
    assert by_id == {}


@pytest.mark.parametrize(("limit", "marked"), [(None, 0), (0.4, 1), (0.1, 2), (0.5, 0)])
def test_class_and_list_agree_on_what_is_to_be_reviewed(
    tmp_path: Path, limit: float | None, marked: int
) -> None:
    finished(tmp_path / "a", options=how(threshold=0.35, review_above=limit))
    classed = {
        feature["id"]
        for feature in features(tmp_path / "a")
        if feature["properties"]["classification"]["name"] == "Tumor: Review"
    }
    assert len(classed) == marked
    listed = {row["id"] for row in rows(tmp_path / "a" / "review.csv") if row["review"] == "yes"}
    above = REVIEW_ABOVE if limit is None else limit
    assert listed == (
        classed if limit is not None else {f["id"] for f in features(tmp_path / "a")
        if f["properties"]["measurements"]["Fold disagreement"] > above}
    )  # fmt: skip
    assert check(tmp_path / "a" / "tumor.geojson") == []


@pytest.mark.parametrize(("limit", "colors"), [(None, {TUMOR, REVIEW}), (0.01, {REVIEW}), (0.5, {TUMOR})])
def test_the_overview_and_the_list_agree_on_what_is_to_be_reviewed(
    tmp_path: Path, limit: float | None, colors: set[tuple[int, int, int]]
) -> None:
    done = finished(tmp_path / "a", options=how(threshold=0.35, review_above=limit))
    listed = [row["review"] for row in rows(tmp_path / "a" / "review.csv")]
    assert {{"yes": REVIEW, "no": TUMOR}[said] for said in listed} == colors
    with Image.open(tmp_path / "a" / "overview.png") as picture:
        rgb_YX3 = np.asarray(picture)[:200]
    assert {color for color in (TUMOR, REVIEW) if (rgb_YX3 == color).all(axis=2).any()} == colors
    flag = f"{listed.count('yes')} of 3 regions to review"
    assert (flag in done.flags) == ("yes" in listed)


def test_to_review_has_one_colour_in_every_output() -> None:
    assert Export(scale=Scale(1), mpp=1, fingerprint="", weights_key="").review_color == REVIEW
    folder, written = Path(report.__file__).parent, "#{:02x}{:02x}{:02x}".format(*REVIEW)
    assert f".swatch.review {{ border-color: {written}; }}" in (folder / "report_page.html").read_text()
    assert f"--review: {written};" in (folder / "view" / "page" / "view.css").read_text()
    assert "rgb({} {} {})".format(*REVIEW) in (folder / "view" / "page" / "outlines.js").read_text()


def test_of_one_network_no_disagreement_is_told_anywhere(tmp_path: Path) -> None:
    alone = Model(name="m", encoder="e", weights={"fold-1": "0" * 64}, mpp=MPP)
    map_CYX = MAP_CYX * np.array([1, 0], np.uint8)[:, None, None]
    manifest = finished(tmp_path / "a", map_CYX, options=how(review_above=0.1), model=alone)
    assert manifest.result.disagreement is None
    assert manifest.result.mean_probability is not None
    assert "Fold disagreement" not in (tmp_path / "a" / "tumor.geojson").read_text()
    assert {(row["disagreement"], row["review"]) for row in rows(tmp_path / "a" / "review.csv")} == {
        ("", "no")
    }
    assert check(tmp_path / "a" / "tumor.geojson") == []


def test_a_slide_over_the_vertex_budget_is_simplified_and_says_so(tmp_path: Path) -> None:
    rough = (np.random.default_rng(0).random((2, GRID.height, GRID.width)) < 0.6).astype(np.uint8) * 255
    finished(tmp_path / "a", rough, options=how(min_area_um2=0.0, min_hole_um2=0.0, simplify_px=0.0))
    before = SlideManifest.read(tmp_path / "a" / "slide.json")
    pixels = int((rough[0] >= threshold_u8(0.5)).sum())
    assert before.result.tumor_mm2 == pytest.approx(pixels * (MPP * FACTOR / 1000) ** 2)
    done = reoutline(tmp_path / "a", {"max_vertices": before.counts.vertices // 2})
    assert done.counts.vertices <= before.counts.vertices // 2
    assert "to stay under" in done.result.note
    assert "to stay under" not in before.result.note
    assert done.result.tumor_mm2 == before.result.tumor_mm2, "how it is drawn does not change what was found"
    short = reoutline(tmp_path / "a", {"max_vertices": 4})
    assert f"and still {short.counts.vertices}: a larger --min-area leaves fewer" in short.result.note


@pytest.mark.parametrize("size", [(1500, 700), (300, 200), (5, 3)])
def test_the_heat_map_is_the_map_level_by_level_at_its_physical_size(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    grid = Grid(width=size[0], height=size[1], patch=192, margin=32, per_block=2)
    map_CYX = np.random.default_rng(1).integers(0, 256, (2, grid.height, grid.width), np.uint8)
    finished(tmp_path / "a", map_CYX, grid)
    reoutline(tmp_path / "a", {"heatmap": True})
    path, canvas = (
        tmp_path / "a" / "heatmap.ome.tif",
        ProbabilityMap.open(tmp_path / "a" / "probability.zarr"),
    )
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        assert series.axes == "CYX"
        assert len(series.levels) == canvas.depth
        assert series.keyframe.is_tiled
        assert np.array_equal(series.asarray(), map_CYX)
        for level, found in enumerate(series.levels[1:], 1):
            box = type(grid.extent)(0, 0, found.shape[2], found.shape[1])
            assert np.array_equal(found.asarray(), canvas.read(box, level))
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
    assert pixels["PhysicalSizeX"] == pixels["PhysicalSizeY"] == MPP * FACTOR
    assert [c["Name"] for c in pixels["Channel"]] == ["tumor probability", "fold disagreement"]
    write_heatmap(tmp_path / "again.ome.tif", canvas, mpp=MPP * FACTOR)
    assert (tmp_path / "again.ome.tif").read_bytes() == path.read_bytes()


def test_the_overview_is_drawn_on_the_same_thumbnail_each_time(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    reoutline(tmp_path / "a", {"threshold": 1.0, "min_area": 1e9})
    with Image.open(tmp_path / "a" / "overview.png") as picture, \
            Image.open(tmp_path / "a" / "thumbnail.jpg") as plain:  # fmt: skip
        top = np.asarray(picture)[: plain.height, : plain.width]
        assert np.array_equal(top, np.asarray(plain)), "nothing found, nothing drawn, nothing left of before"
    (tmp_path / "a" / "thumbnail.jpg").unlink()
    with pytest.raises(OutputError, match=r"thumbnail\.jpg cannot be read"):
        reoutline(tmp_path / "a", {})


def test_the_overview_tints_what_is_inside_and_nothing_in_holes_or_outside() -> None:
    ring = shapely.Polygon(
        [(20, 20), (180, 20), (180, 180), (20, 180)], [[(60, 60), (140, 60), (140, 140), (60, 140)]]
    )
    polygons_N = np.array([shapely.box(90, 90, 110, 110), ring, shapely.box(5, 5, 9, 9)], object)
    polygons_N = shapely.transform(polygons_N, lambda xy: xy * 0.5)
    white = np.full((100, 100, 3), 255, np.uint8)
    picture = draw_overview(white, polygons_N, np.array([False, False, True]), mpp=1.0, marks=[], caption="x")
    pixel = np.asarray(picture).astype(int)
    for inside in ((20, 20), (50, 50)):  # the ring, and the island in its hole
        assert pixel[inside][0] > pixel[inside][1] + 20
    for outside in ((96, 96), (36, 36)):
        assert tuple(pixel[outside]) == (255, 255, 255)
    assert tuple(pixel[10, 40]) == (200, 0, 0), "the outline"
    assert tuple(pixel[2, 3]) == (255, 170, 0), "the outline of what is to be reviewed"


def test_the_overview_shows_the_rim_of_the_tissue_where_it_lies(tmp_path: Path) -> None:
    """It is stored with the map, so that asking again draws it too; at the picture's rim there is no line."""
    finished(tmp_path / "a")
    mask_YX = np.zeros((20, 30), np.bool_)
    mask_YX[4:9, 6:30] = True
    canvas = ProbabilityMap.open(tmp_path / "a" / "probability.zarr")
    canvas.write_tissue(mask_YX, scale=Scale(20.0, 30, 60), mpp=MPP)
    reoutline(tmp_path / "a", {"threshold": 1.0, "min_area": 1e9})
    with Image.open(tmp_path / "a" / "overview.png") as picture, \
            Image.open(tmp_path / "a" / "thumbnail.jpg") as plain:  # fmt: skip
        found_YX3, plain_YX3 = np.asarray(picture)[: plain.height, : plain.width], np.asarray(plain)
        per_mask_px = plain.width / (GRID.width * FACTOR) * 20
    teal_YX = (found_YX3 == (0, 120, 140)).all(axis=2)
    assert np.array_equal(found_YX3[~teal_YX], plain_YX3[~teal_YX])
    rows, columns = np.flatnonzero(teal_YX.any(axis=1)), np.flatnonzero(teal_YX.any(axis=0))
    assert (rows[0], rows[-1] + 1) == pytest.approx((4 * per_mask_px, 9 * per_mask_px), abs=1)
    assert columns[0] == pytest.approx(6 * per_mask_px, abs=1)
    assert teal_YX[rows[0] + 2 : rows[-1] - 1, columns[0]].all()
    assert teal_YX[rows[0] + 2 : rows[-1] - 1].sum() == rows[-1] - rows[0] - 3, "one pixel wide, on one side"


@pytest.mark.parametrize(("height", "width"), [(1984, 40), (1984, 1984), (300, 1984), (50, 50), (300, 650)])
def test_the_words_under_an_overview_are_whole_whatever_the_slides_shape(height: int, width: int) -> None:
    white = np.full((height, width, 3), 255, np.uint8)
    found = "tumour 1234.56 mm^2 of 2345.67 mm^2 tissue, 12345 regions (1234 to review); "
    one = np.array([shapely.box(5, 5, 30, 30)], object)
    picture = draw_overview(
        white, one, np.array([True]), mpp=2.0, marks=["tissue", "unreadable"],
        caption=f"{found}probability 0.55 or more; a-bundle-of-some-name, research use only",
    )  # fmt: skip
    assert max(picture.size) <= 2048
    words = np.asarray(picture)[height:]
    assert (words[:, -3:] == 255).all(), "not cut at the right"
    assert (words[-2:] == 255).all(), "nor below"
    for color in ((200, 0, 0), (255, 170, 0), (0, 120, 140), (110, 110, 110)):
        assert (words == color).all(axis=2).any(), "what a colour means"


@pytest.mark.parametrize("most_px", [480, 120])
def test_a_picture_made_small_still_shows_every_outline(most_px: int) -> None:
    white = np.full((1400, 1984, 3), 255, np.uint8)
    shapes = np.array(
        [shapely.Point(x, 700).buffer(r) for x, r in ((300, 200), (900, 9), (1500, 80))], object
    )
    review_N = np.array([False, True, False])
    picture = draw_overview(white, shapes, review_N, mpp=2.0, marks=[], caption="x").crop((0, 0, 1984, 1400))
    small = shrunk(picture, most_px)
    assert max(small.size) == most_px
    by = small.width / picture.width
    for shape, review in zip(shapes, review_N, strict=True):
        for x, y in shapely.get_coordinates(shapely.segmentize(shape, 5).exterior) * by:
            pixel = small.getpixel((int(min(x, small.width - 1)), int(y)))
            assert pixel == (REVIEW if review else TUMOR)


class Page(HTMLParser):
    """The text of a page's table cells, row by row, and every address it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.table: list[list[str]] = []
        self.addresses: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag == "tr":
            self.table.append([])
        elif tag in {"td", "th"}:
            self.table[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.table[-1][-1] += data


def test_the_report_has_a_row_per_slide_failures_first_and_fetches_nothing(tmp_path: Path) -> None:
    finished(tmp_path / "b")
    finished(tmp_path / "sub" / "a", options=how(threshold=0.35))
    (tmp_path / "summary.csv").write_text("slide,status,reason\nz,failed,no microns <b>&\nb,done,\n")
    (tmp_path / ".c.partial").mkdir()
    (tmp_path / ".c.partial" / "slide.json").write_text("{}")
    page = Page(write_report(tmp_path).read_text())
    head, *body = page.table
    assert [row[0].split("tumor.geojson")[0] for row in body] == ["z", "b", "sub/a"]
    assert [row[1] for row in body] == ["failed", "done", "done"]
    assert "no microns <b>&" in body[0][2]
    assert all(len(row) == len(head) for row in body)
    assert body[2][head.index("Regions")] == "3"
    assert body[2][head.index("µm per pixel")] == "0.5from the file"
    assert body[2][head.index("Tumour, mm²")].endswith("p\xa0≥\xa00.35")
    assert "2 of 3 regions to review" in body[2][2]
    assert all(a.startswith("data:image/jpeg;base64,") or (tmp_path / a).exists() for a in page.addresses)


def test_names_in_a_report_are_text_and_never_code(tmp_path: Path) -> None:
    evil = "<script>alert(1)<%2Fscript>\"'&"
    finished(tmp_path / evil, name=evil)
    (tmp_path / "summary.csv").write_text(f'slide,status,reason\n"<img src=x onerror=y>",failed,{evil[:8]}\n')
    text = write_report(tmp_path).read_text()
    assert text.count("<script") == 1
    assert "<img src=x" not in text
    assert any(row[0].startswith(evil) for row in Page(text).table)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        (
            {"slide": {"mpp_source": "objective power 20"}},
            "microns per pixel assumed from objective power 20",
        ),
        ({"slide": {"mpp_source": "--slide-mpp"}}, "microns per pixel given by hand (--slide-mpp)"),
        ({"slide": {"mpp_source": "the slide list"}}, "microns per pixel given by hand (the slide list)"),
        ({"canvas": {"factor": 0.66}}, "enlarged 1.5 times"),
        ({"canvas": {"factor": 0.67}}, None),
        ({"result": {"tissue_mm2": 0.0}}, "no tissue found"),
        ({"result": {"tissue_mm2": None}}, "tissue was not looked for"),
        ({"focus": Focus(0.049, 9, 9)}, "out of focus: sharpness 0.049, under 0.05"),
        ({"focus": Focus(0.05, 16, 4)}, "partly out of focus: 4 of 16 fields"),
        ({"focus": Focus(0.05, 16, 3)}, None),
        ({"focus": Focus()}, None),
        ({"unreadable": ((0, 0, 9, 9),), "result": {"unreadable_mm2": 0.5}}, "0.50 mm² unreadable"),
        ({"model": {"weights": {"fold-1": "0"}}}, "one network: it cannot disagree with itself"),
    ],
)
def test_what_to_know_before_trusting_a_result_is_said_in_words(
    changes: dict[str, Any], said: str | None
) -> None:
    first = record(GRID, result=Result(tissue_mm2=1.0))
    whole = {
        name: getattr(first, name).model_copy(update=change) if isinstance(change, dict) else change
        for name, change in changes.items()
    }
    found = flags(first.model_copy(update=whole), 0)
    assert len(found) == (said is not None)
    assert all(flag.startswith(said or "") for flag in found)


def test_the_flags_are_in_the_record_the_summary_and_the_report(tmp_path: Path) -> None:
    mark = record(GRID).slide.model_copy(update={"mpp_source": "objective power 20"})
    done = finished(tmp_path / "a", options=how(threshold=0.35), slide=mark)
    every = ("microns per pixel assumed from objective power 20", "2 of 3 regions to review")
    assert SlideManifest.read(tmp_path / "a" / "slide.json").flags == done.flags == every
    slide = SlideInput(Path("a.svs"), "a")
    RunRecord(tmp_path, [], {}).add(Outcome(slide, "done", tmp_path / "a", done))
    (row,) = rows(tmp_path / "summary.csv")
    assert row["flags"] == "; ".join(every)
    (_, line) = Page(write_report(tmp_path).read_text()).table
    assert all(flag in line[2] for flag in every)
    reoutline(tmp_path / "a", {"threshold": 0.35, "review": 0.5})
    assert SlideManifest.read(tmp_path / "a" / "slide.json").flags == every[:1], "asked again, judged again"


def test_outlined_again_a_slides_row_of_the_summary_says_what_its_record_says(tmp_path: Path) -> None:
    run = RunRecord(tmp_path / "out", [], {})
    for name in ("sub/a", "b"):
        done = finished(tmp_path / "out" / name)
        run.add(Outcome(SlideInput(Path(name), name), "done", tmp_path / "out" / name, done))
    run.add(Outcome(SlideInput(Path("z"), "z"), "failed", tmp_path / "out" / "z", reason="no"))
    foreign = tmp_path / "out" / "sub" / "summary.csv"
    foreign.write_text("patient,age\n1,2\n")
    before = {row["slide"]: row for row in rows(tmp_path / "out" / "summary.csv")}
    done = reoutline(tmp_path / "out" / "sub" / "a", {"threshold": 0.35})
    after = {row["slide"]: row for row in rows(tmp_path / "out" / "summary.csv")}
    assert {name: after[name] for name in ("b", "z")} == {name: before[name] for name in ("b", "z")}
    assert (before["sub/a"]["threshold"], after["sub/a"]["threshold"]) == ("0.5", "0.35")
    assert float(after["sub/a"]["tumor_mm2"]) == pytest.approx(done.result.tumor_mm2, rel=1e-5)
    assert float(after["sub/a"]["tumor_mm2"]) > float(before["sub/a"]["tumor_mm2"])
    assert (after["sub/a"]["status"], after["sub/a"]["polygons"]) == ("done", "3")
    assert foreign.read_text() == "patient,age\n1,2\n"


def test_what_cannot_be_outlined_or_checked_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    for name in ("a", "c"):
        finished(tmp_path / name)
    (tmp_path / "a" / "ledger.jsonl").unlink()
    again = wsiseg("polygons", tmp_path / "a", tmp_path / "none", tmp_path / "c", "--threshold", 0.35)
    assert again.exit_code == 1
    assert [line for line in again.stderr.splitlines() if "failed" in line] == again.stderr.splitlines()
    assert [str(tmp_path / name) in again.stderr for name in ("a", "none", "c")] == [True, True, False]
    assert SlideManifest.read(tmp_path / "c" / "slide.json").polygon_options["threshold"] == 0.35
    looked = wsiseg("check", tmp_path / "none.geojson", tmp_path / "c" / "tumor.geojson")
    assert looked.exit_code == 1
    assert "none.geojson" in looked.stderr
    assert "QuPath will import it" in looked.stdout


def test_the_summary_is_sorted_by_name_whatever_came_first(tmp_path: Path) -> None:
    names = ["b", "a/c", "B", "ä", "a"]
    run = RunRecord(tmp_path, [], {})
    for name in names:
        run.add(Outcome(SlideInput(Path(name), name), "failed", tmp_path / name, reason="no"))
    assert [row["slide"] for row in rows(tmp_path / "summary.csv")] == sorted(names)
    RunRecord(tmp_path, [], {}).add(
        Outcome(SlideInput(Path("Z"), "Z"), "failed", tmp_path / "Z", reason="no")
    )
    assert [row["slide"] for row in rows(tmp_path / "summary.csv")] == sorted([*names, "Z"])


def test_the_report_says_what_a_folder_without_a_record_of_ours_lacks(tmp_path: Path) -> None:
    finished(tmp_path / "b", np.zeros_like(MAP_CYX), result=Result(tissue_mm2=0.0))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "slide.json").write_text("{}")
    notes = {row[0][0]: row[2] for row in Page(write_report(tmp_path).read_text()).table[1:]}
    assert "no tissue was found" in notes["b"]
    assert "not a slide record" in notes["d"]


def test_a_folder_without_results_gets_no_report(tmp_path: Path) -> None:
    done = wsiseg("report", tmp_path)
    assert done.exit_code == 1
    assert "holds no finished slide" in done.output
    assert list(tmp_path.iterdir()) == []
