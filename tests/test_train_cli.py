"""The commands that train and judge, as their user meets them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from wsiseg.cli import main
from wsiseg.cli_train import compare, evaluate, patches, train
from wsiseg.errors import GeoJSONError, UsageError
from wsiseg.train.evaluate import Question
from wsiseg.train.recipe import Recipe, make_recipe


def data(root: Path) -> Path:
    for i in range(4):
        for kind, value in (("image", 150), ("mask", 255 if i % 2 else 0)):
            path = root / "t1" / "colon" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 40), value, np.uint8)).save(path)
    return root


def invoke(command: object, *arguments: object) -> str:
    found = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)  # type: ignore[arg-type]
    assert found.exit_code == 0, found.output
    return found.stdout


def test_every_field_of_the_recipe_is_an_option_with_its_help() -> None:
    text = " ".join(invoke(train, "--help").split())
    for name, field in Recipe.model_fields.items():
        assert "--" + name.replace("_", "-") in text
        assert str(field.description).split(";", maxsplit=1)[0].split(",", maxsplit=1)[0] in text


def test_a_preset_is_changed_by_what_is_given() -> None:
    recipe = make_recipe("paper", epochs=6, encoder=None)
    assert (recipe.crop, recipe.epochs, recipe.encoder, recipe.learning_rate) == (1024, 6, "mit_b5", 1e-4)
    with pytest.raises(UsageError, match="not 3 equal cycles"):
        make_recipe("paper", epochs=7)
    with pytest.raises(UsageError, match="crop"):
        make_recipe("default", crop=33)
    with pytest.raises(UsageError, match="no preset 'papr'"):
        make_recipe("papr")


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", -1), ("seed", 2**32), ("learning_rate", float("inf")), ("weight_decay", float("inf"))],
)
def test_a_recipe_holds_numbers_that_can_be_used(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"the recipe cannot be used: {field}"):
        make_recipe("default", **{field: value})


def test_a_note_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_bytes(b"caf\xe9")
    options = ["--data", tmp_path, "--task", "t1", "--dry-run", "--card-note", tmp_path / "note.txt"]
    found = CliRunner().invoke(train, [str(a) for a in options])
    assert isinstance(found.exception, UsageError)
    assert "save it as UTF-8" in str(found.exception)


def test_a_training_that_is_interrupted_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wsiseg.train.experiment.plan_table", interrupted)
    monkeypatch.setattr("wsiseg.cli.leave", lambda _: None)
    said = ["train", "--data", str(tmp_path), "--task", "t1", "--dry-run"]
    found = CliRunner().invoke(main, said)
    assert found.exit_code == 130
    assert "the same command with --resume goes on" in found.output


def test_a_dry_run_shows_cases_and_folds_and_writes_nothing(tmp_path: Path) -> None:
    root = data(tmp_path / "data")
    told = invoke(train, "--data", root, "--task", "t1", "--folds", 2, "--dry-run")
    assert "colon                     4      2   unknown" in told
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_training_needs_a_place_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="-o FOLDER"):
        invoke(train, "--data", tmp_path, "--task", "t1")


def test_a_bundle_is_trained_judged_and_compared_from_the_command_line(tmp_path: Path) -> None:
    root, out = data(tmp_path / "data"), tmp_path / "mine"
    small = ["--folds", 2, "--epochs", 1, "--crop", 32, "--batch", 2, "--image-mpp", 0.73]
    invoke(train, "--data", root, "--task", "t1", "-o", out, "--device", "cpu", *small)
    lines = (out / "run" / "fold-1" / "metrics.jsonl").read_text().splitlines()
    assert {"fold", "epoch", "loss", "dice", "images_per_s", "seconds"} <= set(json.loads(lines[0]))
    judged = json.loads(
        invoke(
            evaluate,
            out,
            "--data",
            root,
            "--by",
            "held-out",
            "--json",
            "--device",
            "cpu",
            "--image-mpp",
            0.73,
        )
    )
    assert judged["n"] == judged["domains"]["colon"]["n"] == 4
    assert {"dice_mean", "dice_std", "jaccard_mean"} <= set(judged)
    table = invoke(compare, out, "-o", tmp_path, "--data", root, "--device", "cpu")
    assert f"{100 * judged['dice_mean']:.2f} ±" in table
    for name in ("table1.md", "table1.csv", "folds.png", "worst-mine.png"):
        assert (tmp_path / name).is_file()
    slide = root / "t1" / "colon" / "image" / "1.png"
    there = ["--slide-mpp", 1.0, "--tissue", "none", "--device", "cpu", "--threads", 1]
    invoke(main, "segment", slide, "-o", tmp_path / "results", "--model", out, *there)
    record = json.loads((tmp_path / "results" / "1" / "slide.json").read_text())
    assert record["model"]["weights"].keys() == {"fold-1.safetensors", "fold-2.safetensors"}
    assert (tmp_path / "results" / "1" / "tumor.geojson").is_file()


def test_outlines_are_judged_from_the_command_line(tmp_path: Path) -> None:
    for name, width in (("a", 8), ("b", 10)):
        shape = shapely.geometry.mapping(shapely.box(0, 0, width, 10))
        kind = {"classification": {"name": "Tumor", "color": [200, 0, 0]}}
        whole = {"features": [{"type": "Feature", "properties": kind, "geometry": shape}]}
        (tmp_path / f"{name}.geojson").write_text(json.dumps(whole))
    found = json.loads(invoke(evaluate, tmp_path / "a.geojson", tmp_path / "b.geojson", "--json"))
    assert found["dice"] == pytest.approx(160 / 180)
    assert (found["f1"], found["matched"]) == (1, 1)
    assert "dice 0.8889" in invoke(evaluate, tmp_path / "a.geojson", tmp_path / "b.geojson")
    with pytest.raises(UsageError, match="a bundle with --data DIR"):
        invoke(evaluate, tmp_path / "a.geojson")
    unused = ["--data", tmp_path, "--by", "ensemble", "--threshold", 0.5, "--shift", "blur"]
    with pytest.raises(
        UsageError, match=r"two files .* no use for --data, --by, --threshold, --shift: leave"
    ):
        invoke(evaluate, tmp_path / "a.geojson", tmp_path / "b.geojson", *unused)
    with pytest.raises(UsageError, match="a bundle and images have no use for --name: leave that out"):
        invoke(evaluate, "adeno", "--data", tmp_path, "--name", "Tumor")


@pytest.mark.parametrize("threshold", ["nan", "0", "1", "-1", "inf"])
def test_a_threshold_lies_between_0_and_1(tmp_path: Path, threshold: str) -> None:
    arguments = ["evaluate", "adeno", "--data", str(tmp_path), "--threshold", threshold]
    assert CliRunner().invoke(main, arguments).exit_code == 2
    with pytest.raises(UsageError, match="take one between 0 and 1"):
        Question(threshold=float(threshold))


def test_a_misspelt_tumour_class_is_named_before_the_slide_is_opened(tmp_path: Path) -> None:
    shape = shapely.geometry.mapping(shapely.box(0, 0, 9, 9))
    one = {"properties": {"classification": {"name": "Tumor"}}, "geometry": shape}
    (tmp_path / "a.geojson").write_text(json.dumps({"features": [one]}))
    options = ["-o", tmp_path, "--task", "t", "--domain", "d", "--tumor-class", "Tumour"]
    with pytest.raises(GeoJSONError, match="outlines no Tumour, but has objects of class Tumor: pass"):
        invoke(patches, tmp_path / "a.svs", tmp_path / "a.geojson", *options)


def test_a_region_class_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text('{"features": []}')
    options = ["-o", tmp_path, "--task", "t", "--domain", "d", "--region-class", "Region*"]
    with pytest.raises(GeoJSONError, match=r"no polygon of class Region\* \(its classes: no object\)"):
        invoke(patches, tmp_path / "a.svs", tmp_path / "a.geojson", *options)


def test_a_real_slide_with_annotations_becomes_patches(shared: Path, tmp_path: Path) -> None:
    slide = next((shared / "slides").rglob("CMU-1-Small-Region.svs"))
    shape = shapely.geometry.mapping(shapely.box(300, 300, 1200, 1200))
    kind = {"classification": {"name": "Tumor", "color": [200, 0, 0]}}
    whole = {"features": [{"type": "Feature", "properties": kind, "geometry": shape}]}
    (tmp_path / "a.geojson").write_text(json.dumps(whole))
    told = invoke(
        patches,
        slide,
        tmp_path / "a.geojson",
        "-o",
        tmp_path / "data",
        "--task",
        "t",
        "--domain",
        "d",
        "--size",
        512,
    )
    assert told.startswith("wrote ")
    assert len(list((tmp_path / "data" / "t" / "d" / "mask").iterdir())) > 4


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    options = ["--data", str(data(tmp_path / "data")), "--task", "t1", "--folds", "2", "--train-folds", "1"]
    options += [
        "--epochs",
        "1",
        "--crop",
        "32",
        "--batch",
        "2",
        "--image-mpp",
        "0.73",
        "--device",
        "cpu",
        "--fp32",
    ]
    found = []
    for name, how in (
        ("one", []),
        ("two", ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]),
    ):
        command = [sys.executable, "-m", *how, "wsiseg", "train", *options, "-o", str(tmp_path / name)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
        found.append(load_file(tmp_path / name / "fold-1.safetensors"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], atol=5e-3, rtol=0.05)
