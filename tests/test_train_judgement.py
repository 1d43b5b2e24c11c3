"""The judgement of a bundle: bound to its weights, told in its card, and made again by one command."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsiseg.bundle import BundleSpec, FoldFile, load_spec, verify_files
from wsiseg.errors import BundleError
from wsiseg.model import build_network, load_fold, save_fold
from wsiseg.slide_judgement import each_domain_on_slides, on_slides
from wsiseg.train.bench import Bench
from wsiseg.train.cases import read_cases
from wsiseg.train.evaluate import Question, evaluate
from wsiseg.train.judgement import (
    HEADING,
    differences,
    read_judgement,
    section,
    with_section,
    write_judgement,
)
from wsiseg.train.loop import predict
from wsiseg.train.operating import Point
from wsiseg.train.records import write_learnt, write_scores

JUDGE = Path(__file__).parents[1] / "scripts" / "judge.py"
SECOND_OPINION = JUDGE.with_name("second_opinion.py")
SHIPPED = sorted(path.parent for path in (Path(__file__).parents[1] / "models").glob("*/bundle.json"))
CARD = "# x\n\n## Validation\n\nv\n\n## Data\n\nd\n\n## Licence\n\nl\n"
TEXT = st.text("ab \n#|", max_size=20).map(lambda text: f"{HEADING}\n\n{text.replace('#', '')}\n")


@given(TEXT, TEXT)
def test_a_card_has_one_judgement_the_last_and_keeps_everything_else(first: str, second: str) -> None:
    card = with_section(with_section(CARD, first), second)
    assert card == with_section(CARD, second)
    assert card.count(HEADING) == 1
    assert card.replace(f"{second}\n", "") == CARD
    assert with_section("# bare\n", first).startswith("# bare\n\n## Judgement")


@pytest.mark.parametrize("bundle", SHIPPED, ids=lambda folder: folder.name)
def test_the_card_of_a_shipped_bundle_tells_its_judgement(bundle: Path) -> None:
    spec, card = load_spec(bundle), (bundle / "README.md").read_text(encoding="utf-8")
    record = read_judgement(bundle, spec)
    assert record is not None
    assert with_section(card, section(record)) == card
    point = record["slides"]["point"]
    assert point == {name: getattr(spec, name) for name in point}
    told = f"region {spec.min_area_um2:g} µm² (as much of it must reach {spec.sure:g}), smallest hole"
    assert (told in card) == (spec.sure > 0)


NUMBERS = st.recursive(
    st.floats(-5, 5) | st.booleans() | st.text(max_size=3) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(NUMBERS)
def test_a_record_does_not_differ_from_itself_and_every_change_is_told(record: Any) -> None:
    assert differences(record, record, within=0) == []
    assert len(differences({"x": record}, {"x": record, "y": 1}, within=0)) == 1
    assert differences({"x": 0.5}, {"x": 0.52}, within=0.01) == ["x: 0.5 was kept, 0.52 was found"]
    assert differences({"x": 0.5}, {"x": 0.505}, within=0.01) == []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One domain, eight images of eight patients, of which every other is empty; 0.73 µm per pixel."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind in ("image", "mask"):
        (root / "t1" / "colon_glas" / kind).mkdir(parents=True)
    rows = []
    for i in range(8):
        mask_YX = np.zeros((64, 72), np.uint8)
        mask_YX[8:40, 8:60] = 255 * (i % 2)
        rgb_YX3 = np.where(mask_YX[..., None] > 0, (110, 60, 140), (200, 130, 170))  # both are stained tissue
        rgb_YX3 += rng.integers(0, 40, (64, 72, 3))
        names = [f"t1/colon_glas/{kind}/{i}.png" for kind in ("image", "mask")]
        Image.fromarray(rgb_YX3.astype(np.uint8)).save(root / names[0])
        Image.fromarray(mask_YX).save(root / names[1])
        rows.append(["t1", "colon_glas", *names, 0.732421875, f"p{i}", "CC0 1.0"])
    with (root / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["task", "domain", "image", "mask", "mpp", "patient_id", "licence"], *rows]
        )
    return root


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of random weights, small patches; fold k has seen the patients of the other half."""
    folder = tmp_path_factory.mktemp("bundle") / "mine"
    folder.mkdir()
    folds = []
    for name in ("1", "2"):
        network = build_network("mit_b0", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        path = folder / f"fold-{name}.safetensors"
        folds.append(FoldFile(file=path.name, sha256=save_fold(network, path)))
    spec = BundleSpec(
        name="mine", encoder="mit_b0", patch_px=375, input_px=256, margin=64, folds=tuple(folds),
        licence="none", trained_on="nothing",
    )  # fmt: skip
    (folder / "bundle.json").write_text(spec.model_dump_json())
    (folder / "README.md").write_text(CARD)
    groups = [case.group for case in read_cases(data, image_mpp=0.5)]
    write_learnt(folder, {"1": groups[:4], "2": groups[4:]})
    return folder


def bench(bundle: Path, data: Path, work: Path) -> Bench:
    return Bench(bundle, load_spec(bundle), read_cases(data, image_mpp=0.5), work, "cpu")


def test_kept_answers_are_those_of_evaluate_and_are_asked_for_once(
    bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = bench(bundle, data, tmp_path)
    first = asked.answers(asked.cases)
    judged = evaluate(bundle, asked.cases, Question("held-out"), device="cpu")
    assert [a.score for a in first] == [one.score for one in judged]
    pooled = reduce(add, (one.reliability for one in judged))
    counted = reduce(add, (a.logits for a in first))
    assert counted.at(1).ece == pytest.approx(pooled.ece, abs=0.005)
    (cut,) = list((tmp_path / asked.spec.weights_key[:12] / "answer-plain").glob("*.npz"))[:1]
    cut.write_bytes(cut.read_bytes()[:100])  # killed while it was written
    calls: list[int] = []

    def noted(*given: Any) -> Any:
        calls.append(1)
        return predict(*given)

    monkeypatch.setattr("wsiseg.train.bench.predict", noted)
    again = bench(bundle, data, tmp_path)
    assert [a.score for a in again.answers(again.cases)] == [a.score for a in first]
    assert len(calls) == 1


def elsewhere(data: Path, folder: Path) -> Path:
    """The same images: four of other patients in another domain, four where and whose they were."""
    shutil.copytree(data / "t1" / "colon_glas", folder / "t1" / "colon_glas")
    rows = list(csv.reader((data / "manifest.csv").read_text().splitlines()))
    for row in rows[5:]:
        row[1], row[5] = "lung", f"of lung {row[5]}"
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def left_out_run(bundle: Path, data: Path, folder: Path) -> Path:
    """What stands for a training without a domain: the same weights, and scores of a fold of that name."""
    shutil.copytree(bundle, folder)
    (folder / "run" / "fold-colon_glas").mkdir(parents=True)
    judged = evaluate(bundle, read_cases(data, image_mpp=0.5), Question("held-out"), device="cpu")
    write_scores(folder / "run" / "fold-colon_glas" / "scores.csv", [one.score for one in judged])
    return folder


def test_one_command_judges_a_bundle_and_finds_its_figures_again(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    free = tmp_path / "free.tif"
    Image.fromarray(np.full((300, 300, 3), (220, 150, 190), np.uint8)).save(free)
    (tmp_path / "free.csv").write_text(f"path,name,mpp\n{free},pink,0.5\n")
    command = [sys.executable, str(JUDGE), str(bundle), "--data", str(data), "--device", "cpu"]
    command += ["--slides", str(tmp_path / "free.csv"), "--work", str(tmp_path / "work")]
    command += ["--left-out", str(left_out_run(bundle, data, tmp_path / "left"))]
    command += ["--unseen", str(elsewhere(data, tmp_path / "elsewhere"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spec = load_spec(bundle)
    verify_files(bundle, spec)
    record = read_judgement(bundle, spec)
    assert record is not None
    assert spec.temperature == record["calibration"]["temperature"]
    assert spec.threshold == record["slides"]["point"]["threshold"]
    assert record["held_out"]["n"] == 8
    assert set(record["left_out"]) == {"colon_glas", "lung"}
    mosaics = record["left_out"]["colon_glas"]["mosaics"]
    assert (record["left_out"]["colon_glas"]["n"], mosaics["tiles"]) == (8, 4)
    assert [record["left_out"]["lung"][name] for name in ("n", "patients", "networks")] == [4, 4, 2]
    benign = {"colon_glas (benign, mosaics)", "lung (benign, mosaics)"}
    assert set(record["slides"]["false"]) == {*benign, "pink"}
    for found in record["slides"]["false"].values():
        assert found["fraction"] == pytest.approx(found["fraction_on_grid"], abs=0.02)
        assert found["tissue_mm2"] > 0
    card = (bundle / "README.md").read_text()
    assert f"{record['held_out']['dice_mean']:.3f}" in card
    assert f"| lung | 4 | 4 | {record['left_out']['lung']['dice_mean']:.3f}" in card
    assert f"| {mosaics['dice']:.3f} (4) | {mosaics['false']:.2%} |" in card
    assert (bundle / "disagreement.png").is_file()
    assert (bundle / "worst.png").is_file()
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "every figure of mine was found again" in checked.stdout
    record["calibration"]["ece_before"] += 0.1
    write_judgement(bundle, record)
    (bundle / "bundle.json").write_text(spec.model_copy(update={"threshold": 0.123}).model_dump_json())
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "calibration.ece_before" in checked.stdout
    assert "threshold is 0.123" in checked.stdout
    fewer = command[:-4]  # nothing left out and nothing unseen this time
    checked = subprocess.run([*fewer, "--check"], capture_output=True, text=True, check=False)
    assert "not made again without --left-out or --unseen: the scores of colon_glas, lung" in checked.stdout
    assert "left_out" not in checked.stdout
    again = subprocess.run(fewer, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    narrower = read_judgement(bundle, spec)
    assert narrower is not None
    assert narrower["left_out"] == record["left_out"], "what was measured of these weights stays"


def test_domains_on_slides_are_judged_at_the_bundles_point(bundle: Path, data: Path, tmp_path: Path) -> None:
    eager, folds = shutil.copytree(bundle, tmp_path / "eager"), []
    for fold in load_spec(bundle).folds:
        network = build_network("mit_b0", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        named = dict(network.named_parameters())
        torch.nn.init.constant_(named["body.segmentation_head.0.bias"], 50.0)  # tumour wherever it looks
        folds.append(FoldFile(file=fold.file, sha256=save_fold(network, eager / fold.file)))
    spec = load_spec(bundle).model_copy(update={"folds": tuple(folds)})
    (eager / "bundle.json").write_text(spec.model_dump_json())
    asked = bench(eager, data, tmp_path)

    def at(point: Point) -> dict[str, Any]:
        (found,) = each_domain_on_slides(asked, asked.spec.model_copy(update=asdict(point)), 40).items()
        assert found[0] == "colon_glas"
        return found[1]

    plain = at(Point(0.5, 0.0, 0.0))
    assert (plain["tiles"], plain["dice"]) == (4, on_slides(asked, asked.spec, [], 40)["dice_plain"])
    assert plain["dice"] == pytest.approx(2 * 32 * 52 / (32 * 52 + 64 * 72), abs=0.02)
    assert plain["false"] > 0.9
    assert at(Point(0.5, 20_000.0, 0.0)) == {"tiles": 4, "dice": 0.0, "false": 0.0}


def test_a_judgement_of_other_weights_does_not_count(bundle: Path, tmp_path: Path) -> None:
    spec = load_spec(bundle)
    assert read_judgement(tmp_path, spec) is None
    write_judgement(tmp_path, {"weights": spec.weights_key})
    assert read_judgement(tmp_path, spec) == {"weights": spec.weights_key}
    write_judgement(tmp_path, {"weights": "0" * 64})
    assert read_judgement(tmp_path, spec) is None
    (tmp_path / "judgement.json").write_text(json.dumps([]))
    with pytest.raises(BundleError, match="is damaged"):
        read_judgement(tmp_path, spec)


def test_a_second_opinion_is_the_mean_of_the_two_that_have_not_seen_the_image(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    """Of equal networks it is what each says alone; a stranger that says yes, or no, everywhere is heard."""

    def asked(stranger: str, bias: float) -> list[str]:
        network = build_network("mit_b0", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        load_fold(network, bundle / "fold-1.safetensors")
        with torch.no_grad():
            network.body.get_parameter("segmentation_head.0.bias").add_(bias)
        run = tmp_path / stranger
        run.mkdir()
        digest = save_fold(network, run / "fold-colon_glas.safetensors")
        alone = spec.model_copy(
            update={"folds": (FoldFile(file="fold-colon_glas.safetensors", sha256=digest),)}
        )
        (run / "bundle.json").write_text(alone.model_dump_json())
        write_learnt(run, {"colon_glas": []})
        command = [sys.executable, str(SECOND_OPINION), str(one), "--left-out", str(run), "--data", str(data)]
        command += ["--work", str(tmp_path / f"{stranger}-work"), "--device", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 4
        return [cell.strip() for cell in done.stdout.splitlines()[2].split("|")[1:-1]]

    spec = load_spec(bundle)
    one = shutil.copytree(bundle, tmp_path / "one")
    for number in (1, 2):
        shutil.copyfile(bundle / "fold-1.safetensors", one / f"fold-{number}.safetensors")
    equal = tuple(fold.model_copy(update={"sha256": spec.folds[0].sha256}) for fold in spec.folds)
    point = {"threshold": 0.4, "min_area_um2": 0.0, "min_hole_um2": 0.0, "sure": 0.0}
    spec = spec.model_copy(update={"folds": equal, **point})
    (one / "bundle.json").write_text(spec.model_dump_json())
    mine = bench(one, data, tmp_path / "alone")
    found = each_domain_on_slides(mine, spec, 40)["colon_glas"]
    name, tiles, _, at_point, false = asked("twin", 0.0)
    assert (name, int(tiles), at_point) == ("colon_glas", 4, f"{found['dice']:.3f}")
    assert false == f"{found['false']:.2%}"
    assert float(asked("yes", 99.0)[-1].rstrip("%")) > 90
    assert asked("no", -99.0)[2] == "0.000"
