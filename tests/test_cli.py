"""The command as a user meets it: exit codes, sentences, what is loaded."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from wsiseg.cli import main
from wsiseg.ensemble import TorchPredictor
from wsiseg.errors import OutputError
from wsiseg.manifest import write_whole
from wsiseg.model import Network
from wsiseg.readers import openslide_reader

SLIDE = "slides/real/CMU-1-Small-Region.svs"


def wsiseg(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_help_loads_neither_torch_nor_zarr_nor_dask() -> None:
    code = (
        "import sys\n"
        "from wsiseg.cli import main\n"
        "try: main(['segment', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'zarr', 'dask', 'distributed', 'scipy', 'shapely', 'openslide'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        below = commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
        found.extend(below)
    return found


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    done = wsiseg(*path, "--help")
    assert done.exit_code == 0
    assert f"Example: wsiseg {' '.join(path)}" in done.output
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_a_real_slide_becomes_files_that_qupath_imports(tmp_path: Path, shared: Path, bundle: Path) -> None:
    done = wsiseg("segment", shared / SLIDE, "-o", tmp_path, "--model", bundle, "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "CMU-1-Small-Region"
    assert sorted(path.name for path in folder.iterdir()) == [
        "ledger.jsonl", "overview.png", "probability.zarr", "review.csv", "slide.json", "thumbnail.jpg",
        "tumor.geojson",
    ]  # fmt: skip
    record = json.loads(done.stdout)["record"]
    assert record["slide"]["mpp"] == 0.499
    assert record["counts"]["patches"] == 3 * 4
    with Image.open(folder / "overview.png") as picture:
        assert max(picture.size) <= 2048
    assert wsiseg("check", folder / "tumor.geojson").exit_code == 0
    again = wsiseg("segment", shared / SLIDE, "-o", tmp_path, "--model", bundle, "--device", "cpu")
    assert "already done" in again.output
    refused = wsiseg(
        "segment",
        shared / SLIDE,
        "-o",
        tmp_path,
        "--model",
        bundle,
        "--device",
        "cpu",
        "--fp32",
        "--block",
        1,
    )
    assert refused.exit_code == 1
    assert "other settings (block" in refused.output


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("TCGA-CR-7395-01A-01-TS1.svs", "has no microns per pixel; pass --slide-mpp"),
        ("CropBreastSlide.tiff", "264.583 microns per pixel"),
    ],
)
def test_unknown_or_implausible_resolution_is_refused_with_the_fix(
    tmp_path: Path, shared: Path, bundle: Path, name: str, sentence: str
) -> None:
    slide = shared / "slides" / "real" / name
    done = wsiseg("segment", slide, "-o", tmp_path / "out", "--model", bundle, "--device", "cpu")
    assert done.exit_code == 1
    assert sentence in done.output
    assert "--slide-mpp" in done.output
    assert not list((tmp_path / "out").glob("*/*"))
    planned = wsiseg("inspect", slide, "--slide-mpp", "0.5", "--model", bundle, "--device", "cpu")
    assert planned.exit_code == 0, planned.output


def test_one_bad_slide_does_not_stop_the_others(tmp_path: Path, shared: Path, bundle: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"<html>not found</html>")
    common = ("-o", tmp_path / "out", "--model", bundle, "--device", "cpu", "--folds", 1)
    done = wsiseg("segment", bad, shared / SLIDE, *common)
    assert done.exit_code == 1
    assert "bad.svs" in done.output
    assert (tmp_path / "out" / "report.html").read_text().count("<tr") == 1 + 2
    rows = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    assert {tuple(row.split(",")[:2]) for row in rows[1:]} == {
        ("bad", "failed"),
        ("CMU-1-Small-Region", "done"),
    }
    stopped = wsiseg("segment", bad, shared / SLIDE, *common, "--fail-fast", "-j", 0, "-o", tmp_path / "fast")
    assert stopped.exit_code == 1
    assert len((tmp_path / "fast" / "summary.csv").read_text().splitlines()) == 2


def test_a_disk_that_is_full_for_a_while_costs_no_row_of_the_summary(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries, write = [0], write_whole

    def sometimes(path: Path, content: bytes) -> None:
        tries[0] += 1
        if tries[0] in {1, 2, 4}:
            msg = f"{path} cannot be written: No space left on device"
            raise OutputError(msg)
        write(path, content)

    for module in ("records", "summary"):
        monkeypatch.setattr(f"wsiseg.{module}.write_whole", sometimes)
    absent = [tmp_path / f"{name}.svs" for name in "abc"]
    done = wsiseg("segment", *absent, "-j", 0, "-o", tmp_path / "out", "--model", bundle, "--device", "cpu")
    assert done.exit_code == 1
    assert "0 of 3 slides done, 3 failed" in done.output
    assert caplog.text.count("No space left on device") == 3
    rows = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [[name, "failed"] for name in "abc"]


def test_inspect_reads_no_full_resolution_pixel(
    shared: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []
    read = openslide_reader.OpenSlideLevels.read_level

    def watched(self: openslide_reader.OpenSlideLevels, level: int, box: tuple[int, int, int, int]) -> object:
        if max(box[2:]) > 256:  # two tiles of each level are looked at when a slide is opened
            levels.append(level)
        return read(self, level, box)

    monkeypatch.setattr(openslide_reader.OpenSlideLevels, "read_level", watched)
    for slide, seen in ((SLIDE, False), ("slides/derived/aperio-3level-jpeg.svs", True)):
        levels.clear()
        done = wsiseg("inspect", shared / slide, "--model", bundle, "--json", "--device", "cpu")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert 0 not in levels
        assert bool(levels) == seen == (found["tissue_mm2"] is not None)
        assert found["patches"] > 0
        assert found["seconds"] > 0


def test_more_folds_than_the_bundle_has_are_refused(tmp_path: Path, shared: Path, bundle: Path) -> None:
    for command in (("segment", "-o", tmp_path / "out"), ("inspect",)):
        done = wsiseg(*command, shared / SLIDE, "--model", bundle, "--device", "cpu", "--folds", 3)
        assert done.exit_code == 2 if command[0] == "segment" else 1
        assert "--folds 3: random has 2" in done.output


def test_a_missing_model_names_those_there_are(tmp_path: Path) -> None:
    done = wsiseg("segment", tmp_path / "x.svs", "--model", "nothing", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "no model bundle 'nothing'" in done.output


def test_damaged_weights_are_found_before_they_are_used(tmp_path: Path, shared: Path, bundle: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in bundle.iterdir():
        content = bytearray(path.read_bytes())
        if path.name == "fold-2.safetensors":
            content[len(content) // 2] ^= 1
        (damaged / path.name).write_bytes(content)
    done = wsiseg("segment", shared / SLIDE, "--model", damaged, "-o", tmp_path / "out", "--device", "cpu")
    assert done.exit_code == 1
    assert "fold-2.safetensors is damaged" in done.output


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert wsiseg("segment").exit_code == 2
    for wrong in (("--threshold", "1.5"), ("--threshold", "0"), ("--min-area", "nan"), ("--simplify", "inf")):
        assert wsiseg("segment", tmp_path, *wrong).exit_code == 2


def test_check_does_not_promise_that_an_empty_file_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "empty.geojson"
    path.write_text('{"type": "FeatureCollection", "features": []}')
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0
    assert result.output.endswith("there is nothing in it to import\n")


def test_check_names_the_rule_and_the_feature(tmp_path: Path) -> None:
    path = tmp_path / "bad.geojson"
    feature = {
        "type": "Feature",
        "id": None,
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 0]]]},
        "properties": {},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    done = wsiseg("check", path)
    assert done.exit_code == 1
    assert "feature 0" in done.output
    assert "refuse the whole file" in done.output


def test_the_same_weights_give_the_same_bytes_again(tmp_path: Path, shared: Path, bundle: Path) -> None:
    hashes = set()
    for number, block in enumerate((1, 2)):
        out = tmp_path / str(number)
        done = wsiseg(
            "segment", shared / SLIDE, "-o", out, "--model", bundle, "--device", "cpu", "--block", block
        )
        assert done.exit_code == 0, done.output
        hashes.add(hashlib.sha256((out / "CMU-1-Small-Region" / "tumor.geojson").read_bytes()).hexdigest())
    assert len(hashes) == 1


class Cramped(TorchPredictor):
    """Says it is a GPU whose memory holds two patches at a time; computes on the CPU."""

    def __init__(self, networks: list[Network], _: torch.device, **options: Any) -> None:
        super().__init__(networks, torch.device("cpu"), **options | {"fp32": True})
        self.batch, self.device, self.tried = options["batch"], torch.device("cuda"), TRIED

    def _forward(self, rgb_BYX3: torch.Tensor, networks: list[Network]) -> torch.Tensor:
        self.tried.append(len(rgb_BYX3))
        if len(rgb_BYX3) > 2:
            raise torch.OutOfMemoryError
        self.device = torch.device("cpu")
        try:
            return super()._forward(rgb_BYX3, networks)
        finally:
            self.device = torch.device("cuda")


TRIED: list[int] = []


def unrecorded(*_: object) -> NoReturn:
    raise RuntimeError


def test_batch_auto_takes_what_fits_says_so_once_and_loses_no_patch(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rgb_YX3 = np.random.default_rng(0).integers(0, 256, (35, 50, 3), np.uint8).repeat(40, 0).repeat(40, 1)
    Image.fromarray(rgb_YX3).save(tmp_path / "slide.png")
    monkeypatch.setattr("wsiseg.ensemble.TorchPredictor", Cramped)
    monkeypatch.setattr("wsiseg.ensemble.InCudaGraphs", lambda: unrecorded)
    common = ("--model", bundle, "--slide-mpp", "0.5", "--tissue", "none", "--device", "cpu", "--folds", 1)
    found, tried = set(), {}
    for batch in ("auto", "2"):
        TRIED.clear()
        out = tmp_path / batch
        done = wsiseg("segment", tmp_path / "slide.png", "-o", out, "-b", batch, "--threads", 1, *common)
        assert done.exit_code == 0, done.output
        chunks = sorted((out / "slide" / "probability.zarr" / "0" / "c").rglob("*"))
        found.add(tuple(path.read_bytes() for path in chunks if path.is_file()))
        tried[batch] = list(TRIED)
    assert len(found) == 1
    assert tried == {"auto": [4, 2, 2, 2], "2": [2, 2, 2]}
    assert caplog.text.count("out of memory on cuda: going on with batches of 2") == 1


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wsiseg", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert done.stdout.startswith("wsiseg, version")
