"""Table 1 from finished runs: what it says is what the runs scored."""

import csv
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsiseg.bundle import BundleSpec, FoldFile, load_spec
from wsiseg.errors import DataError
from wsiseg.model import build_network, save_fold
from wsiseg.train import pictures
from wsiseg.train.cases import read_cases
from wsiseg.train.compare import Run, as_csv, as_markdown, read_runs
from wsiseg.train.metrics import Score
from wsiseg.train.pictures import draw_folds, draw_worst, write_worst
from wsiseg.train.records import run_folder, write_run, write_scores

IMAGES = [f"t1/d/image/{i}.png" for i in range(4)]


def run(root: Path, strategy: str, task: str, dice: list[float], *, epochs: int = 3) -> Path:
    """A finished run of two folds whose images score these Dice, in whole percent."""
    folder = root / f"{strategy}-{task}"
    scores = [
        Score(
            f"{task}/d/image/{i}.png",
            task,
            "d",
            str(i % 2 + 1),
            round(100 * d),
            100 - round(100 * d),
            100 - round(100 * d),
        )
        for i, d in enumerate(dice)
    ]
    record: dict[str, object] = {
        "task": task,
        "strategy": strategy,
        "recipe": {"encoder": "mit_b0", "epochs": epochs},
        "limit": None,
        "leave_domain_out": False,
        "folds": {fold: [s.key for s in scores if s.fold == fold] for fold in ("1", "2")},
    }
    write_run(folder, record)
    for fold in ("1", "2"):
        write_scores(
            run_folder(folder) / f"fold-{fold}" / "scores.csv", [s for s in scores if s.fold == fold]
        )
    unknown = tuple(FoldFile(file=f"fold-{k}.safetensors", sha256="0" * 64) for k in (1, 2))
    spec = BundleSpec(name="x", encoder="mit_b0", folds=unknown, licence="", trained_on="")
    (folder / "bundle.json").write_text(spec.model_dump_json())
    return folder


def test_the_table_has_the_papers_rows_and_columns(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, "union", "t1", [0.9, 0.9]),
        run(tmp_path, "standard", "t2", [0.5, 0.5]),
        run(tmp_path, "standard", "t1", [0.6, 0.8]),
    ]
    lines = as_markdown(read_runs(runs)).splitlines()
    assert "| | Conventional | Crossed Pre-Training | Dataset Union |" in lines
    (one,) = (line for line in lines if line.startswith("| T1 (t1)"))
    (two,) = (line for line in lines if line.startswith("| T2 (t2)"))
    assert "| 70.00 ± 14.14 (60.0 – 80.0; n = 2) | not run | **90.00 ± 0.00**" in one
    assert two.endswith("| not run |")


def test_a_row_has_the_tasks_own_name_whatever_else_is_compared(tmp_path: Path) -> None:
    for task, name in (("task2", "T2 (task2)"), ("t2", "T2 (t2)"), ("colon", "colon"), ("stage1", "stage1")):
        text = as_markdown(read_runs([run(tmp_path, "standard", task, [0.5, 0.5])]))
        assert f"\n| {name} | **50.00" in text


def test_strategies_are_compared_on_the_same_images(tmp_path: Path) -> None:
    folders = [run(tmp_path, "standard", "t1", [0.6, 0.8]), run(tmp_path, "cross-task", "t1", [0.8, 0.8])]
    text = as_markdown(read_runs(folders))
    assert "| t1 | Crossed Pre-Training | 2 | +10.00 | +0.00 … +20.00 |" in text


def test_recipes_that_differ_are_said_to(tmp_path: Path) -> None:
    folders = [
        run(tmp_path, "standard", "t1", [0.6, 0.6]),
        run(tmp_path, "union", "t1", [0.7, 0.7], epochs=9),
    ]
    text = as_markdown(read_runs(folders))
    assert "**epochs differs**: standard-t1: 3, union-t1: 9" in text
    assert "- encoder: mit_b0\n" in text


def test_the_csv_has_every_number_of_the_table(tmp_path: Path) -> None:
    rows = list(csv.DictReader(as_csv(read_runs([run(tmp_path, "union", "t1", [0.6, 0.8])])).splitlines()))
    assert [(r["domain"], r["n"], float(r["dice_mean"])) for r in rows] == [
        ("all", "2", 0.7),
        ("d", "2", 0.7),
    ]


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    folder = run(tmp_path, "union", "t1", [0.6])
    (folder / "bundle.json").unlink()
    for bad in (folder, tmp_path / "nothing"):
        with pytest.raises(DataError, match="holds no finished training"):
            read_runs([bad])


def test_two_runs_of_one_cell_are_refused(tmp_path: Path) -> None:
    folders = [run(tmp_path / name, "union", "t1", [0.6, 0.6]) for name in "ab"]
    with pytest.raises(DataError, match="are both union on t1"):
        read_runs(folders)


def test_a_damaged_score_file_is_named(tmp_path: Path) -> None:
    folder = run(tmp_path, "union", "t1", [0.6])
    for text, told in (("key,task\nx\n", "is damaged"), ("key,task\n", "holds no score"), ("x", "holds no")):
        (run_folder(folder) / "fold-1" / "scores.csv").write_text(text)
        with pytest.raises(DataError, match=rf"fold-1/scores\.csv {told}.*remove it"):
            read_runs([folder])


def test_scores_that_were_cut_short_are_noticed(tmp_path: Path) -> None:
    folder = run(tmp_path, "union", "t1", [0.6, 0.7, 0.8, 0.9])
    path = run_folder(folder) / "fold-1" / "scores.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        DataError, match=r"scores\.csv lacks 1 of 2 images, such as t1/d/image/2\.png: remove"
    ):
        read_runs([folder])


@pytest.mark.parametrize("text", ["{}", "[]", "3", "null", '{"task": "t1", "strategy": "no"}'])
def test_a_record_that_is_none_says_what_to_do(tmp_path: Path, text: str) -> None:
    folder = run(tmp_path, "union", "t1", [0.6, 0.6])
    (run_folder(folder) / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json .*remove it, and train again with --overwrite"):
        read_runs([folder])


def test_a_folds_dot_is_as_high_as_its_dice(tmp_path: Path) -> None:
    blue = []
    for dice in ([0.2, 0.2], [0.8, 0.8]):
        picture = np.asarray(draw_folds(read_runs([run(tmp_path / str(dice), "union", "t1", dice)])))
        blue.append(np.argwhere((picture == (31, 119, 180)).all(axis=2))[:, 0].mean())
    assert blue[0] - blue[1] == pytest.approx(0.6 * 320, abs=3)


def with_images(root: Path) -> Run:
    """A run of four images below ``root``, without a manifest, whose networks answer 0.6 everywhere."""
    for kind, value in (("image", 120), ("mask", 255)):
        (root / "t1" / "d" / kind).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((40, 40), value, np.uint8)).save(root / "t1" / "d" / kind / f"{i}.png")
    (found,) = read_runs([run(root, "standard", "t1", [0.9, 0.2, 0.4, 0.8])])
    network = build_network("mit_b0", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    *_, weight, bias = network.parameters()
    with torch.no_grad():
        weight.zero_()
        bias.fill_(float(np.log(0.6 / 0.4)))
    for fold in ("1", "2"):
        save_fold(network, found.folder / f"fold-{fold}.safetensors")
    return found


def test_the_worst_cases_come_first_and_show_truth(tmp_path: Path) -> None:
    found = with_images(tmp_path)
    cases = read_cases(tmp_path, image_mpp=0.732421875)
    page = draw_worst(found, cases, 2, device="cpu")
    assert page.height == 2 * (280 + 32) + 8
    assert page.getpixel((16 + 280 + 8 + 4, 40)) == (60, 135, 90)  # half green over grey: the truth


def test_the_prediction_is_drawn_as_it_was_scored_whatever_a_bundle_advises(tmp_path: Path) -> None:
    found = with_images(tmp_path)
    spec = load_spec(found.folder).model_copy(update={"threshold": 0.9})
    (found.folder / "bundle.json").write_text(spec.model_dump_json())
    page = draw_worst(found, read_cases(tmp_path, image_mpp=0.732421875), 1, device="cpu")
    assert page.getpixel((16 + 2 * (280 + 8) + 4, 40)) == (160, 60, 60)  # 0.6 is over one half: red over grey


def test_worst_cases_are_read_at_the_resolution_of_their_run(tmp_path: Path) -> None:
    found = with_images(tmp_path)
    assert found.image_mpp == 0.5
    seen: list[float] = []

    def read(_: Path, *, image_mpp: float) -> tuple[()]:
        seen.append(image_mpp)
        return ()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pictures, "read_cases", read)
        for mpp in (None, 0.3):
            write_worst(tmp_path, [found, replace(found, image_mpp=0.7)], tmp_path, 1, image_mpp=mpp)
    assert seen == [0.5, 0.7, 0.3]


def test_a_page_of_no_case_is_not_written_but_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = with_images(tmp_path / "own")
    (tmp_path / "own" / "t1").rename(tmp_path / "own" / "t2")
    with caplog.at_level(logging.WARNING):
        write_worst(tmp_path, [found], tmp_path / "own", 2, device="cpu")
    assert "has none of its images, such as t1/d/image/0.png" in caplog.text
    assert not list(tmp_path.glob("*.png"))


def test_runs_in_folders_of_one_name_have_a_page_each(tmp_path: Path) -> None:
    found = with_images(tmp_path)
    write_worst(tmp_path, [found, replace(found, strategy="union")], tmp_path, 1, device="cpu")
    names = {path.name for path in tmp_path.glob("worst-*.png")}
    name, task = found.folder.name, found.task
    assert names == {f"worst-{name}-{found.strategy}-{task}.png", f"worst-{name}-union-{task}.png"}
