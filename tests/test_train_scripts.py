"""The scripts that train: their options are the command's, their tables tell what was scored."""

import csv
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image

from wsiseg.bundle import BundleSpec, load_spec
from wsiseg.cli_train import train
from wsiseg.model import build_network, save_fold
from wsiseg.train.cases import read_cases
from wsiseg.train.metrics import Score
from wsiseg.train.records import write_scores

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL = ["--folds", "2", "--crop", "32", "--batch", "2", "--epochs", "1", "--steps", "1", "--device", "cpu"]


def load(name: str) -> dict[str, Any]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        return runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name=name)
    finally:
        sys.path.remove(str(SCRIPTS))


def data(root: Path) -> Path:
    """Two tasks of a free and an unfree domain, two images each, with their manifest."""
    rng, rows = np.random.default_rng(0), []
    for task, domain, free in (("task1", "a", "yes"), ("task1", "b", "no"), ("task2", "c", "yes, so")):
        for i in range(2):
            for kind in ("image", "mask"):
                path = root / task / domain / kind / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                value = rng.integers(0, 255, (40, 40, 3)) if kind == "image" else np.full((40, 40), 255 * i)
                Image.fromarray(value.astype(np.uint8)).save(path)
            where = {kind: f"{task}/{domain}/{kind}/{i}.png" for kind in ("image", "mask")}
            about = {"patient_id": f"{domain}{i}", "mpp": 0.73, "redistributable": free}
            rows.append({"task": task, "domain": domain, **where, **about})
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def understood(options: list[str]) -> click.Context:
    return train.make_context("train", ["--data", "d", "--task", "t", "-o", "o", *options])


def test_every_trial_is_understood_by_the_command_and_changes_one_recipe(tmp_path: Path) -> None:
    trials = load("trials")
    assert len(trials["TRIALS"]) > 10
    for preset in ("BASE", "QUICK"):
        base = ["--strategy", "union", *trials[preset].split()]
        plan = trials["Plan"](tmp_path, tmp_path, "t", base, "t.safetensors", 1, 1)
        plain = understood(base).params
        for name in trials["TRIALS"]:
            options = plan.options(name)
            assert not any("{" in part and "{fold}" not in part for part in options)
            changed = understood([*base, *options]).params
            assert (changed == plain) == (name == "baseline"), name


def test_the_table_of_trials_tells_each_domain_and_the_paired_difference(tmp_path: Path) -> None:
    trials = load("trials")
    plan = trials["Plan"](tmp_path, tmp_path, "t", ["--epochs", "1", "--mpp", "1"], "x", 1, 1)
    for name, right in (("baseline", 60), ("bce+dice", 80)):
        folder = trials["folder"](plan, name)
        for domain in ("a", "b"):
            scores = [Score(f"{domain}{i}", "t", domain, domain, right, 100 - right, 0) for i in range(4)]
            (folder / "run" / f"fold-{domain}").mkdir(parents=True)
            write_scores(folder / "run" / f"fold-{domain}" / "scores.csv", scores)
        (folder / "bundle.json").write_text("{}")
    (folder / "slides").mkdir()
    slides = "slide,status,tumor_mm2,tissue_mm2\none,done,0.03,0.5\ntwo,failed,,\n"
    (folder / "slides" / "summary.csv").write_text(slides)
    text = trials["table"](plan, ["baseline", "bce+dice", "glass"])
    better = next(line for line in text.splitlines() if line.startswith("| bce+dice"))
    dice = "88.9 (88.9 – 88.9)"
    assert f"| {dice} | {dice} | 88.9 | +13.9 (13.9 – 13.9) | one 6.0 | not known |" in better
    assert "Not finished: glass." in text


def test_free_data_are_the_images_that_may_be_republished_as_one_task(tmp_path: Path) -> None:
    whole = data(tmp_path / "data")
    default = load("train_default")
    view = default["free_data"](whole, tmp_path / "view")
    cases = read_cases(default["free_data"](whole, view), image_mpp=1)
    assert {(case.task, case.domain) for case in cases} == {("free", "a"), ("free", "c")}
    assert {case.key for case in cases} < {case.key for case in read_cases(whole, image_mpp=1)}
    assert default["domains"](view, ["--task", "task1", "--task", "free"]) == ["a", "c"]


def test_nothing_but_a_bundle_is_replaced(tmp_path: Path) -> None:
    default = load("train_default")
    (tmp_path / "mine").mkdir()
    (tmp_path / "new" / "run").mkdir(parents=True)
    (tmp_path / "new" / "bundle.json").write_text("{}")
    with pytest.raises(SystemExit, match="is no bundle"):
        default["publish"](tmp_path / "new", tmp_path / "mine")
    for _ in range(2):
        default["publish"](tmp_path / "new", tmp_path / "old")
        assert [path.name for path in (tmp_path / "old").iterdir()] == ["bundle.json"]


@pytest.mark.slow
def test_table_1_comes_from_one_script_which_goes_on_where_it_was(tmp_path: Path) -> None:
    options = ["--data", data(tmp_path / "data"), "--out", tmp_path / "out", "--quick", *SMALL]
    told = run("table1", *options)
    rows = [line for line in told.splitlines() if line.startswith("| T")]
    assert len(rows) == 2
    assert not any("not run" in row for row in rows)
    for task in ("task1", "task2"):
        assert len(load_spec(tmp_path / "out" / f"union-{task}").folds) == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/fold-*.safetensors")}
    assert len(before) == 12
    assert "| T1" in run("table1", *options)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mitb0", "mobilenet"])
def test_a_default_bundle_comes_from_one_script(tmp_path: Path, kind: str) -> None:
    spec = BundleSpec.model_construct()
    torch.manual_seed(0)
    save_fold(build_network("mobilenet_v2", mean=spec.mean, std=spec.std), tmp_path / "teacher.safetensors")
    about = ["--imagenet", tmp_path / "teacher.safetensors", "--work", tmp_path / "work", "--quick"]
    out = tmp_path / "models" / "mine"
    out.parent.mkdir()
    options = ["--data", data(tmp_path / "data"), "--out", out, "--bundle", kind, *about, *SMALL]
    assert "mine is sound: 2 folds" in run("train_default", *options)
    card = (out / "README.md").read_text()
    assert ("distil from mobilenet_v2" in card) == (kind == "mitb0")
    assert ("| loss | bce+dice |" in card, "| mosaic | 0.35 |" in card) == 2 * (kind == "mitb0",)
    assert str(tmp_path) not in card
    assert not (out / "run").exists()
