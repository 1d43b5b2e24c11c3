"""A batch: found, done in any order, recorded; one bad slide costs only itself."""

import csv
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from wsiseg.canvas import ProbabilityMap
from wsiseg.cli import main
from wsiseg.errors import SlideReadError, UsageError
from wsiseg.inputs import SlideInput, find_slides, name_outputs
from wsiseg.one_slide import Progress
from wsiseg.options import ClusterOptions, MapOptions, PolygonOptions
from wsiseg.patience import within
from wsiseg.pipeline import PREDICTORS, SLIDES
from wsiseg.records import RunRecord
from wsiseg.report import write_report
from wsiseg.run import Batch, Outcome
from wsiseg.testing import DARKNESS, Darkness

MAKE_SLIDE = Path(__file__).parents[1] / "scripts" / "make_slide.py"
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "disc.svs"
    drawing = ["--side", "2600", "--disc", "1500,1100,400"]
    subprocess.run([sys.executable, MAKE_SLIDE, path, *drawing], check=True, capture_output=True)
    return path


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    yield
    SLIDES.clear()
    PREDICTORS.clear()


def batch(out: Path, **changes: object) -> Batch:
    settings = {
        "map_options": MapOptions(),
        "polygon_options": PolygonOptions(),
        "model": (DARKNESS, Darkness()),
    }
    return Batch(out, **settings | changes)  # type: ignore[arg-type]


def quiet(_slide: SlideInput, _progress: Progress) -> None:
    pass


def run(some: Batch, *slides: Path) -> list[Outcome]:
    inputs = [SlideInput(path, name) for path, name in zip(slides, name_outputs(slides), strict=True)]
    return sorted(some.run(inputs, quiet), key=lambda outcome: outcome.slide.name)


def result(folder: Path) -> tuple[bytes, bytes]:
    canvas = ProbabilityMap.open(folder / "probability.zarr")
    return canvas.read(canvas.grid.extent).tobytes(), (folder / "tumor.geojson").read_bytes()


def test_threads_and_any_number_of_processes_give_the_same_bytes(slide: Path, tmp_path: Path) -> None:
    found = {}
    for workers in (0, 1, 2):
        (outcome,) = run(batch(tmp_path / str(workers), cluster=ClusterOptions(workers)), slide)
        assert (outcome.status, outcome.reason) == ("done", "")
        assert outcome.manifest is not None
        assert outcome.manifest.counts.polygons == 1
        found[workers] = result(outcome.folder)
    assert found[0] == found[1] == found[2]


def test_a_slide_that_is_enlarged_is_warned_of_once_flagged_and_summed_up(
    slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """1.2 µm per pixel, where the canvas has 0.73."""
    (outcome,) = run(batch(tmp_path, map_options=MapOptions(slide_mpp=1.2)), slide)
    said = "enlarged 1.6 times: the network expects finer detail"
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert warned == [f"disc.svs has 1.2 µm per pixel and is {said}"]
    assert outcome.manifest is not None
    assert said in outcome.manifest.flags
    assert said in json.loads((outcome.folder / "slide.json").read_text())["flags"]
    RunRecord(tmp_path, ["wsiseg", "segment", str(slide)], {}).add(outcome)
    with (tmp_path / "summary.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert said in row["flags"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such name")
def test_a_name_that_is_no_utf_8_costs_nobody_anything(tmp_path: Path) -> None:
    """Names are bytes: of an old disk, of a scanner with another alphabet; and a line feed is one of them."""
    folder = tmp_path / "Jos\udce9"
    folder.mkdir()
    good, broken = folder / "good\udcff\n.png", folder / "broken\udcff\n.svs"
    Image.new("RGB", (300, 200), (90, 40, 90)).save(good, "PNG", dpi=(50_800, 50_800))
    broken.write_text("no slide")
    out = tmp_path / "out"
    record = RunRecord(out, ["wsiseg", "segment", str(good)], {})
    for outcome in run(batch(out), good, broken, folder / "gone.svs"):
        record.add(outcome)
    record.finish("complete")
    write_report(out)
    rows = {row["slide"]: row for row in csv.DictReader((out / "summary.csv").open(newline=""))}
    assert rows["good\\udcff\\n"]["status"] == "done"
    assert rows["broken\\udcff\\n"]["reason"].startswith("broken\\udcff\\n.svs is of no format")
    assert rows["gone"]["reason"] == "gone.svs does not exist"
    name = json.loads((out / "good\\udcff\\n" / "slide.json").read_text())["slide"]["name"]
    assert name == "good\\udcff\\n.png"
    called = CliRunner().invoke(main, ["inspect", str(broken)])
    assert called.exit_code == 1
    assert len(called.stderr.splitlines()) == 1


@contextmanager
def cluster(folder: Path, workers: int, *tls: str) -> Iterator[tuple[Path, "subprocess.Popen[bytes]"]]:
    """The documented set-up: a scheduler and its workers as processes of their own, found by a file."""
    file = folder / "scheduler.json"
    common = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file), *tls)
    calls = [("dask_scheduler", "--port", "0")] + [("dask_worker", "--nthreads", "1")] * workers
    started: list[subprocess.Popen[bytes]] = []
    for program, *options in calls:
        call = [sys.executable, "-m", f"distributed.cli.{program}", *options, *common]
        started.append(subprocess.Popen(call, cwd=folder, stderr=subprocess.DEVNULL))
    try:
        while not file.exists():
            assert started[0].poll() is None
            time.sleep(0.2)
        yield file, started[0]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_the_documented_cluster_gives_the_bytes_of_this_process(slide: Path, tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as (file, _):
        (outcome,) = run(batch(tmp_path / "there", cluster=ClusterOptions(scheduler=str(file))), slide)
    (here,) = run(batch(tmp_path / "here"), slide)
    assert result(outcome.folder) == result(here.folder)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with the openssl command")
def test_a_cluster_behind_tls_is_used_with_its_files_and_refused_without(slide: Path, tmp_path: Path) -> None:
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    made = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=wsiseg -keyout {key} -out {cert}"
    subprocess.run(["openssl", *made.split()], check=True, capture_output=True)  # noqa: S607
    files = ("--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    with cluster(tmp_path, 1, *files) as (file, _):
        assert json.loads(file.read_text())["address"].startswith("tls://")
        with pytest.raises(UsageError, match="is behind TLS: give --tls-ca"):
            run(batch(tmp_path / "out", cluster=ClusterOptions(scheduler=str(file))), slide)
        with pytest.raises(UsageError, match="all three of"):
            run(batch(tmp_path / "out", cluster=ClusterOptions(scheduler=str(file), tls_ca=cert)), slide)
        inside = ClusterOptions(scheduler=str(file), tls_ca=cert, tls_cert=cert, tls_key=key)
        (outcome,) = run(batch(tmp_path / "out", cluster=inside), slide)
    assert (outcome.status, outcome.reason) == ("done", "")


def test_a_scheduler_lost_in_the_middle_is_a_sentence_and_the_next_run_goes_on(
    slide: Path, tmp_path: Path
) -> None:
    small = {"map_options": MapOptions(block=1)}
    with cluster(tmp_path, 1) as (file, scheduler):

        def strike(_: SlideInput, progress: Progress) -> None:
            if progress.done == 2:
                scheduler.kill()

        there = batch(tmp_path / "out", cluster=ClusterOptions(scheduler=str(file)), **small)
        (lost,) = there.run([SlideInput(slide, "disc")], strike)
    assert (lost.status, "the Dask scheduler was lost" in lost.reason) == ("failed", True), lost.reason
    (again,) = run(batch(tmp_path / "out", **small), slide)
    (whole,) = run(batch(tmp_path / "x", **small), slide)
    assert again.manifest is not None
    assert again.manifest.counts.resumed_blocks >= 2
    assert result(again.folder) == result(whole.folder)


def test_the_next_slide_is_begun_before_the_one_before_is_over(slide: Path, tmp_path: Path) -> None:
    told: list[tuple[str, bool]] = []

    def listen(one: SlideInput, progress: Progress) -> None:
        told.append((one.name, progress.done == progress.blocks))

    inputs = [SlideInput(slide, name) for name in ("first", "second", "third")]
    assert {outcome.status for outcome in batch(tmp_path / "out").run(inputs, listen)} == {"done"}
    over = [name for name, is_over in told if is_over]
    begun = list(dict.fromkeys(name for name, _ in told))
    assert told.index((begun[1], False)) < told.index((over[0], True))


def test_a_bad_slide_costs_only_itself(slide: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.svs"
    torn.write_bytes(slide.read_bytes()[:50_000])
    outcomes = run(batch(tmp_path / "out"), torn, slide, tmp_path / "absent.svs")
    assert [(o.slide.name, o.status) for o in outcomes] == [
        ("absent", "failed"),
        ("disc", "done"),
        ("torn", "failed"),
    ]
    assert "absent.svs" in outcomes[0].reason


def test_a_defect_of_ours_costs_only_its_slide(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        msg = "oops"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr("wsiseg.one_slide.join", broken)
    (outcome,) = run(batch(tmp_path / "out"), slide)
    assert outcome.status == "failed"
    assert outcome.reason == "a defect of wsiseg, please report it: ZeroDivisionError: oops"


@pytest.mark.parametrize(
    ("where", "said"),
    [("pipeline", "gave no pixels for 600 s"), ("look", "could not be seen as a whole within 3600 s")],
)
def test_a_slide_that_hangs_is_given_up_and_the_next_one_done(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, said: str
) -> None:
    def soon(_: float, work: object, late: str) -> object:
        del work
        return within(0.05, __import__("threading").Event().wait, late)

    monkeypatch.setattr(f"wsiseg.{where}.within", soon)
    (outcome,) = run(batch(tmp_path / "out"), slide)
    assert said in outcome.reason
    monkeypatch.undo()
    (outcome,) = run(batch(tmp_path / "out"), slide)
    assert outcome.status == "done"


def test_records_say_what_was_done_and_why_not(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = RunRecord(out, ["wsiseg", "segment"], {"block": 2})
    for outcome in run(batch(out), slide, tmp_path / "absent.svs"):
        record.add(outcome)
    record.finish("complete")
    with (out / "summary.csv").open(newline="") as file:
        rows = {row["slide"]: row for row in csv.DictReader(file)}
    assert (rows["disc"]["status"], rows["absent"]["status"]) == ("done", "failed")
    assert float(rows["disc"]["tumor_mm2"]) > 0
    assert json.loads((out / "absent.failed.json").read_text())["reason"] == rows["absent"]["reason"]
    (said,) = (json.loads(path.read_text()) for path in out.glob("run-*.json"))
    assert said["totals"]["done"] == said["totals"]["failed"] == 1
    assert said["models"] == {"darkness": {"fold-1.safetensors": "0" * 64}}
    shutil.copy(slide, tmp_path / "absent.svs")
    again = RunRecord(out, ["wsiseg", "segment"], {})
    for outcome in run(batch(out), tmp_path / "absent.svs"):
        again.add(outcome)
    assert not (out / "absent.failed.json").exists()
    with (out / "summary.csv").open(newline="") as file:
        told = [(row["slide"], row["status"]) for row in csv.DictReader(file)]
    assert told == [("absent", "done"), ("disc", "done")]


def test_two_runs_in_one_folder_lose_no_row_of_each_other(tmp_path: Path) -> None:
    first, second = (RunRecord(tmp_path, ["wsiseg", "segment"], {}) for _ in range(2))

    def failed(record: RunRecord, name: str, reason: str) -> None:
        slide = SlideInput(Path(f"{name}.svs"), name)
        record.add(Outcome(slide, "failed", tmp_path / name, reason=reason))

    failed(second, "a", "is being written by the first")
    failed(first, "a", "the first says so")
    failed(second, "b", "the second says so")
    failed(first, "c", "the first says so")
    second.finish("complete")
    with (tmp_path / "summary.csv").open(newline="") as file:
        found = {row["slide"]: row["reason"] for row in csv.DictReader(file)}
    assert found == {"a": "the first says so", "b": "the second says so", "c": "the first says so"}
    assert list(tmp_path.glob(".*")) == []


def test_stopping_a_batch_stops_the_slide_in_work_and_keeps_what_is_done(slide: Path, tmp_path: Path) -> None:
    some, begun, failed = batch(tmp_path / "out"), threading.Event(), threading.Event()

    def hold(_: SlideInput, progress: Progress) -> None:
        if progress.done == 1:
            begun.set()
            assert failed.wait(60)

    for outcome in some.run([SlideInput(tmp_path / "absent.svs", "absent"), SlideInput(slide, "a")], hold):
        assert (outcome.status, begun.wait(60)) == ("failed", True)
        failed.set()
        break
    assert not (tmp_path / "out" / "a").exists()
    (again,) = some.run([SlideInput(slide, "a")], quiet)
    assert again.manifest is not None
    assert 1 <= again.manifest.counts.resumed_blocks < again.manifest.counts.blocks


def touched(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_patterns_and_files_name_each_slide_once(tmp_path: Path) -> None:
    touched(tmp_path, "a.svs", "b.TIF", "notes.txt", ".hidden.svs", "m.mrxs", "m/Data0001.dat", "in/a.svs")
    flat = find_slides([tmp_path, tmp_path / "a.svs", tmp_path / "*.svs"])
    assert [slide.path.name for slide in flat] == ["a.svs", "b.TIF", "m.mrxs"]
    deep = find_slides([tmp_path], recursive=True)
    assert [slide.name for slide in deep] == ["a", "b", "in/a", "m"]
    odd = find_slides([tmp_path / "notes.txt"])
    assert [slide.name for slide in odd] == ["notes"], "what is named outright is tried"


@pytest.mark.parametrize("name", ["empty", "*.svs"])
def test_nothing_found_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no slide|no file"):
        find_slides([tmp_path / name])


def test_a_list_gives_paths_resolutions_and_names(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path,mpp,name\nx/a.svs,0.25,case 1\nb.tif,,\n")
    first, second = find_slides([], slide_list=str(table))
    assert first == SlideInput(tmp_path / "x" / "a.svs", "case 1", 0.25, "the slide list")
    assert (second.name, second.mpp) == ("b", None)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("path,mpp\na.svs,fine\n", "line 2: mpp is 'fine'"),
        ("path,mpp\na.svs,0.5\nb.svs,-1\n", "line 3: mpp is '-1'"),
        ("path,name\na.svs,../../a\n", "stays inside"),
        ("file\na.svs\n", "lists no slide"),
        ("path,name\na.svs,x\nb.svs,x\n", "several slides would be written to 'x'"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path, text: str, what: str) -> None:
    table = tmp_path / "list.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=what):
        find_slides([], slide_list=str(table))


def test_no_slide_at_all_is_a_usage_error_of_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["segment", "-o", str(tmp_path)])
    assert done.exit_code == 2
    assert "no slide was named" in done.stderr


def test_our_errors_survive_the_way_home() -> None:
    import pickle  # noqa: PLC0415

    error = pickle.loads(pickle.dumps(SlideReadError("torn")))  # noqa: S301 - our own
    assert (type(error), str(error)) == (SlideReadError, "torn")
