"""A drawn disc, segmented by a predictor that knows its colour, comes back where it was drawn."""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from scipy import ndimage

from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import OutputError, PlanError, WsisegError
from wsiseg.manifest import SlideManifest
from wsiseg.one_slide import Job, Progress
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.outlining import Outlining, outlining
from wsiseg.pipeline import PREDICTORS, SLIDES, Predict
from wsiseg.place import Place
from wsiseg.qupath import check
from wsiseg.recipes import SlideRecipe
from wsiseg.testing import DARKNESS
from wsiseg.workers import in_threads, serially

MAKE_SLIDE = Path(__file__).parents[1] / "scripts" / "make_slide.py"
SPEC = DARKNESS.model_copy(update={"name": "purple"})


@dataclass(frozen=True)
class Purple:
    """Says tumour where it is as purple as make_slide draws it, once smoothed."""

    def __call__(self) -> Predict:
        def predict(rgb_BYX3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            red_BYX = ndimage.uniform_filter(rgb_BYX3[..., 0].astype(np.float32), (0, 15, 15))
            return (1 / (1 + np.exp((red_BYX - 165) / 8)))[None].astype(np.float32)

        return predict


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    yield
    SLIDES.clear()
    PREDICTORS.clear()


@functools.cache
def drawing(name: str, *options: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        subprocess.run([sys.executable, MAKE_SLIDE, path, *options], check=True, capture_output=True)
        return path.read_bytes()


def drawn(path: Path, *options: str) -> Path:
    path.write_bytes(drawing(path.name, *options))
    return path


def job(**changes: object) -> Job:
    how = replace(outlining(PolygonOptions(), SPEC), **changes.pop("outlining", {}))  # type: ignore[arg-type]
    first = Job(SPEC, Purple(), "test", MapOptions(), how, overwrite=False, mapper=in_threads(2))
    return replace(first, **changes)  # type: ignore[arg-type]


def quiet(_: Progress) -> None:
    pass


def recipe(path: Path, mpp: float | None = None) -> SlideRecipe:
    return SlideRecipe(path, mpp, "--slide-mpp", "auto", SPEC)


def polygons(folder: Path) -> list[shapely.geometry.base.BaseGeometry]:
    document = json.loads((folder / "tumor.geojson").read_text())
    return [shapely.geometry.shape(feature["geometry"]) for feature in document["features"]]


def assert_is_disc(polygon: shapely.geometry.base.BaseGeometry, x: float, y: float, r: float) -> None:
    assert polygon.centroid.distance(shapely.Point(x, y)) < 4
    assert polygon.area == pytest.approx(np.pi * r**2, rel=0.04)
    assert polygon.hausdorff_distance(shapely.Point(x, y).buffer(r)) < 25


@pytest.mark.parametrize("mpp", ["0.5", "0.25"])
def test_a_disc_comes_back_in_its_level_0_place(tmp_path: Path, mpp: str) -> None:
    slide = drawn(tmp_path / "disc.svs", "--side", "2600", "--mpp", mpp, "--disc", "1500,1100,400")
    manifest, skipped = job().segment(recipe(slide), tmp_path / "out", quiet)
    (polygon,) = polygons(tmp_path / "out")
    assert_is_disc(polygon, 1500, 1100, 400)
    assert not skipped
    assert manifest.result.tumor_mm2 == pytest.approx(np.pi * (400 * float(mpp) / 1000) ** 2, rel=0.04)
    assert manifest.slide.mpp == pytest.approx(float(mpp))
    assert [p for p in check(tmp_path / "out" / "tumor.geojson") if p.severity == "error"] == []


def test_with_bounds_the_disc_is_placed_as_qupath_counts_or_as_level_0_counts(tmp_path: Path) -> None:
    drawing = ["--side", "3072", "--disc", "1900,1800,350", "--sparse", "1280,1024,1280,1536"]
    slide = drawn(tmp_path / "sparse.tiff", *drawing)
    for origin, shift in (("qupath", (1280, 1024)), ("level0", (0, 0))):
        out = tmp_path / origin
        manifest, _ = job(outlining={"origin": origin}).segment(recipe(slide, 0.5), out, quiet)
        assert manifest.slide.bounds == (1280, 1024, 1280, 1536)
        (polygon,) = polygons(out)
        assert_is_disc(polygon, 1900 - shift[0], 1800 - shift[1], 350)
        assert json.loads((out / "tumor.geojson").read_text())["wsiseg"]["origin_level0_px"] == list(shift)


def test_only_where_regions_were_drawn_is_looked_and_the_record_says_so(tmp_path: Path) -> None:
    slide = drawn(tmp_path / "disc.svs", "--side", "1400", "--disc", "1050,1050,200")
    ring = [[0, 0], [300, 0], [300, 300], [0, 300], [0, 0]]
    region = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    path = tmp_path / "regions.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [region]}))
    options = replace(MapOptions(), tissue=str(path))
    manifest, _ = job(map_options=options).segment(recipe(slide), tmp_path / "out", quiet)
    assert 0 < manifest.counts.patches < 20
    assert manifest.result.tumor_mm2 == 0
    assert manifest.result.tissue_mm2 == pytest.approx(0.0225, rel=0.05)
    assert str(manifest.settings["tissue"]).startswith("drawn, sha256 ")
    assert manifest.map_options["tissue"] == "regions.geojson"
    assert str(tmp_path) not in (tmp_path / "out" / "slide.json").read_text()


def test_block_size_and_threads_move_no_byte(tmp_path: Path) -> None:
    slide = drawn(tmp_path / "disc.svs", "--side", "1200", "--disc", "500,700,300", "--disc", "950,250,100")
    found = set()
    for number, (block, mapper) in enumerate([(1, serially), (2, in_threads(3)), (3, in_threads(2))]):
        out = tmp_path / str(number)
        job(map_options=replace(MapOptions(), block=block), mapper=mapper).segment(recipe(slide), out, quiet)
        canvas = ProbabilityMap.open(out / "probability.zarr")
        found.add((canvas.read(canvas.grid.extent).tobytes(), (out / "tumor.geojson").read_bytes()))
    assert len(found) == 1


def test_a_finished_slide_is_skipped_and_one_of_other_settings_refused(tmp_path: Path) -> None:
    slide, out = drawn(tmp_path / "disc.svs", "--side", "1024", "--disc", "500,500,200"), tmp_path / "out"
    manifest, _ = job().segment(recipe(slide), out, quiet)
    assert job().segment(recipe(slide), out, quiet) == (manifest, True)
    with pytest.raises(OutputError, match=r"\(numerics\); use --overwrite"):
        job(numerics="other").segment(recipe(slide), out, quiet)
    assert manifest.model.advised["sure"] == SPEC.sure
    with pytest.raises(OutputError, match=r"other options \(threshold 0\.5, now 0\.4\); 'wsiseg polygons'"):
        job(outlining={"threshold": 0.4}).segment(recipe(slide), out, quiet)
    again, skipped = job(numerics="other", overwrite=True).segment(recipe(slide), out, quiet)
    assert not skipped
    assert again.settings["numerics"] == "other"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disc.svs", "out"]


def test_two_runs_on_one_output_do_not_mix(tmp_path: Path) -> None:
    slide, out = drawn(tmp_path / "disc.svs", "--side", "512"), tmp_path / "out"
    with Place(out).claimed(), pytest.raises(OutputError, match=r"/out is being written by .+ pid \d+"):
        job().segment(recipe(slide), out, quiet)
    job().segment(recipe(slide), out, quiet)


OWNER = """
import os, subprocess, sys
from pathlib import Path
from wsiseg.place import Place
with Place(Path(sys.argv[1])).claimed():
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    print(subprocess.Popen(sleeper, stdout=subprocess.DEVNULL, close_fds=False).pid, flush=True)
    os._exit(0)
"""


def test_the_lock_ends_with_its_owner_for_no_child_inherits_it(tmp_path: Path) -> None:
    call = [sys.executable, "-c", OWNER, str(tmp_path / "out")]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    try:
        assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
        with Place(tmp_path / "out").claimed():
            pass
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)


def test_a_stopped_slide_keeps_what_is_done_and_goes_on(tmp_path: Path) -> None:
    slide, out = drawn(tmp_path / "disc.svs", "--side", "1024", "--disc", "500,500,200"), tmp_path / "out"
    small = replace(MapOptions(), block=1)
    stopped = job(map_options=small)

    def stop_after_one(progress: Progress) -> None:
        if progress.done:
            stopped.stop.set()

    for on_progress in (stop_after_one, quiet):  # the second time it is stopped before it begins
        with pytest.raises(WsisegError, match="run the same command again"):
            stopped.segment(recipe(slide), out, on_progress)
    manifest, _ = job(map_options=small).segment(recipe(slide), out, quiet)
    assert 1 <= manifest.counts.resumed_blocks < manifest.counts.blocks


def test_a_disk_that_is_too_small_is_refused_before_a_pixel_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, out = drawn(tmp_path / "disc.svs", "--side", "1024", "--disc", "500,500,200"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("wsiseg.one_slide.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(PlanError, match="0 MiB free, the map of disc"):
            job().segment(recipe(slide), out, quiet)
    job().segment(recipe(slide), out, quiet)


def test_outlines_that_outgrow_the_forecast_are_told_of_and_those_without_end_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slide, out = drawn(tmp_path / "disc.svs", "--side", "1024", "--disc", "500,500,200"), tmp_path / "out"
    monkeypatch.setattr("wsiseg.one_slide.FOUND_CORNERS", 3)
    with monkeypatch.context() as patch:
        patch.setattr("wsiseg.one_slide.MOST_CORNERS", 200)
        with pytest.raises(PlanError, match="more than 200 corners: noise; the same command with another"):
            job().segment(recipe(slide), out, quiet)
    caplog.clear()
    manifest, _ = job(outlining={"threshold": 0.6}).segment(recipe(slide), out, quiet)
    assert caplog.text.count("takes more memory than foretold") == 1
    assert manifest.counts.polygons == 1


def test_a_run_keeps_a_region_for_its_sure_core_and_outlines_all_of_it(tmp_path: Path) -> None:
    slide, options = (
        drawn(tmp_path / "disc.svs", "--side", "1024", "--disc", "500,500,200"),
        {"simplify_px": 0},
    )
    whole, core = (
        job(outlining={"threshold": p, **options}).segment(recipe(slide), tmp_path / str(p), quiet)[0].result
        for p in (0.5, 0.95)
    )
    assert core.tumor_mm2 < 0.95 * whole.tumor_mm2
    for share, kept in ((0.99, whole.tumor_mm2), (1.01, 0)):
        how = {"sure": 0.95, "min_area_um2": share * core.tumor_mm2 * 1e6, **options}
        manifest, _ = job(outlining=how).segment(recipe(slide), tmp_path / f"{share}", quiet)
        assert manifest.result.tumor_mm2 == kept


def test_a_slide_without_tumour_still_gets_a_file_and_the_reason(tmp_path: Path) -> None:
    slide, out = drawn(tmp_path / "none.svs", "--side", "1024"), tmp_path / "out"
    manifest, _ = job().segment(recipe(slide), out, quiet)
    assert polygons(out) == []
    assert "no region of 5000 µm² or more reaches 0.5" in manifest.result.note
    assert manifest.result.mean_probability is None


def test_the_record_says_all_and_comes_back_as_it_was(tmp_path: Path) -> None:
    slide, out = drawn(tmp_path / "disc.svs", "--side", "1024", "--disc", "500,500,200"), tmp_path / "out"
    manifest, _ = job().segment(recipe(slide), out, quiet)
    assert SlideManifest.read(out / "slide.json") == manifest
    assert SlideManifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.counts.polygons == 1
    assert Outlining(**manifest.polygon_options) == job().outlining
    assert str(tmp_path) not in (out / "slide.json").read_text()


def test_a_damaged_record_is_refused_and_not_overwritten(tmp_path: Path) -> None:
    slide, out = drawn(tmp_path / "disc.svs", "--side", "512"), tmp_path / "out"
    job().segment(recipe(slide), out, quiet)
    (out / "slide.json").write_text("{}")
    with pytest.raises(OutputError, match="not a slide record"):
        job().segment(recipe(slide), out, quiet)
    assert (out / "slide.json").read_text() == "{}"


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    slide = drawn(tmp_path / "disc.svs", "--side", "512")
    foreign = tmp_path / "disc"
    foreign.mkdir()
    (foreign / "Data0000.dat").write_bytes(b"the slide's own pixels")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="no result of wsiseg"):
            job(overwrite=overwrite).segment(recipe(slide), foreign, quiet)
    assert [path.name for path in foreign.iterdir()] == ["Data0000.dat"]


def test_a_finished_slide_that_lost_a_file_is_not_called_done(tmp_path: Path) -> None:
    slide, out = drawn(tmp_path / "disc.svs", "--side", "512"), tmp_path / "out"
    job().segment(recipe(slide), out, quiet)
    (out / "tumor.geojson").unlink()
    with pytest.raises(OutputError, match=r"has lost tumor\.geojson"):
        job().segment(recipe(slide), out, quiet)
    job(overwrite=True).segment(recipe(slide), out, quiet)
    assert job().segment(recipe(slide), out, quiet)[1]


def test_an_interrupted_overwrite_goes_on_where_it_was(tmp_path: Path) -> None:
    def stop_after_one(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    slide, out = drawn(tmp_path / "disc.svs", "--side", "1024", "--disc", "500,500,200"), tmp_path / "out"
    job().segment(recipe(slide), out, quiet)
    again = job(overwrite=True, numerics="other", mapper=serially)
    with pytest.raises(KeyboardInterrupt):
        again.segment(recipe(slide), out, stop_after_one)
    manifest, _ = again.segment(recipe(slide), out, quiet)
    assert manifest.counts.resumed_blocks > 0
