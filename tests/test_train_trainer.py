"""From a folder of images to a bundle: every strategy, on images made here."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from wsiseg.bundle import load_spec, verify_files
from wsiseg.ensemble import load_ensemble
from wsiseg.errors import DataError, OutputError, UsageError
from wsiseg.model import build_network
from wsiseg.train.evaluate import Question, as_json, evaluate, labelled, unseen_by
from wsiseg.train.experiment import Experiment, plan_folds, plan_table
from wsiseg.train.machine import Machine
from wsiseg.train.recipe import Recipe
from wsiseg.train.records import read_run, read_scores
from wsiseg.train.starts import starting_weights
from wsiseg.train.strategies import STRATEGIES
from wsiseg.train.trainer import Existing, level, run_experiment

CPU = Machine(torch.device("cpu"), half=False)
TINY = Recipe(mpp=0.5, crop=32, batch=4, epochs=1, folds=2, encoder="mit_b0")


class Silence:
    """Counts epochs and says nothing."""

    epochs = 0

    def __init__(self, folder: Path, epochs: int) -> None:
        self.folder = folder
        self.expected = epochs

    def step(self, images: int, loss: float, done: float) -> None:
        assert 0 < done <= 1
        assert images > 0
        assert np.isfinite(loss)

    def epoch(self, record: dict[str, Any]) -> None:
        assert record["epoch"] <= self.expected
        Silence.epochs += 1


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Silence.epochs = 0
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of two domains, three images each."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for task in ("organs", "scanners"):
        for domain in ("a", "b"):
            for kind in ("image", "mask"):
                (root / task / domain / kind).mkdir(parents=True)
            for i in range(3):
                mask_YX = np.zeros((48, 56), np.uint8)
                mask_YX[:, : 28 if i else 0] = 255
                rgb_YX3 = np.where(mask_YX[..., None] > 0, 90, 210) + rng.integers(0, 40, (48, 56, 3))
                Image.fromarray(rgb_YX3.astype(np.uint8)).save(root / task / domain / "image" / f"{i}.png")
                Image.fromarray(mask_YX).save(root / task / domain / "mask" / f"{i}.png")
    return root


def experiment(data: Path, out: Path, strategy: str = "standard", **more: Any) -> Experiment:
    return Experiment(data, "organs", STRATEGIES[strategy], TINY, out, image_mpp=0.732421875, **more)


def train(what: Experiment, existing: Existing = "refuse") -> Path:
    return run_experiment(what, CPU, existing=existing, watch=Silence)


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(experiment(data, tmp_path_factory.mktemp("out") / "mine"))


def test_a_trained_bundle_is_whole_and_predicts(bundle: Path) -> None:
    spec = load_spec(bundle)
    verify_files(bundle, spec)
    assert (spec.name, len(spec.folds)) == ("mine", 2)
    prob_FBYX = load_ensemble(bundle, device="cpu")(np.full((1, 64, 64, 3), 200, np.uint8))
    assert prob_FBYX.shape == (2, 1, 64, 64)
    assert all(t.dtype != torch.float32 for t in load_file(bundle / spec.folds[0].file).values())


def test_every_case_of_the_task_is_scored_once_by_weights_that_never_saw_it(bundle: Path, data: Path) -> None:
    scores = read_scores(bundle)
    assert sorted(s.key for s in scores) == sorted(
        p.relative_to(data).as_posix() for p in data.glob("organs/*/image/*")
    )
    record = read_run(bundle)
    assert record is not None
    for s in scores:
        assert ["a" if "/a/" in s.key else "b", s.key] not in record["trained"][s.fold]


def test_the_card_tells_the_scores_that_were_recorded(bundle: Path) -> None:
    card = (bundle / "README.md").read_text()
    mean = np.mean([s.dice for s in read_scores(bundle)])
    assert f"| **organs** | 6 | {mean:.3f} ±" in card
    for word in ("not a medical device", "NVIDIA", "research use only", "licence", "unknown"):
        assert word.lower() in card.lower()


def test_scores_are_those_of_the_weights_as_saved(bundle: Path, data: Path) -> None:
    folder, _, cases = labelled(bundle, data, task="organs", image_mpp=0.732421875, limit=None)
    again = evaluate(folder, cases, Question("held-out"), device="cpu", fp32=True)
    found = sorted((one.score for one in again), key=lambda s: s.key)
    assert found == sorted(read_scores(bundle), key=lambda s: s.key)


def test_an_evaluation_has_the_numbers_that_were_promised(bundle: Path, data: Path) -> None:
    folder, _, cases = labelled(bundle, data, task=None, image_mpp=0.732421875, limit=None)
    found = as_json(evaluate(folder, cases, device="cpu"), "mine", "ensemble")
    assert found["n"] == 12
    for part in (found, found["domains"]["a"]):
        assert {"dice_mean", "dice_std", "jaccard_mean", "n"} <= set(part)
    apart = as_json(evaluate(folder, cases, Question("folds"), device="cpu"), "mine", "folds")
    assert apart["n"] == 24
    assert {name: part["n"] for name, part in apart["folds"].items()} == {"1": 12, "2": 12}
    assert 0 <= found["ece"] <= 1
    assert json.dumps(found)


def test_what_each_fold_learnt_from_goes_with_the_weights(bundle: Path, data: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(bundle, alone, ignore=shutil.ignore_patterns("run"))
    folder, _, cases = labelled(alone, data, task="organs", image_mpp=0.732421875, limit=None)
    judged = evaluate(folder, cases, Question("held-out"), device="cpu", fp32=True)
    kept = {(s.key, s.fold, s.dice) for s in read_scores(bundle)}
    assert {(one.score.key, one.score.fold, one.score.dice) for one in judged} == kept
    (alone / "learnt.json").unlink()
    with pytest.raises(DataError, match=r"no record .*learnt\.json"):
        evaluate(folder, cases, Question("held-out"), device="cpu")
    (alone / "learnt.json").write_text('{"folds": ["1"]}')
    with pytest.raises(DataError, match="is damaged"):
        evaluate(folder, cases, Question("held-out"), device="cpu")


def test_other_patients_are_unseen_by_every_fold(bundle: Path, data: Path) -> None:
    folder, spec, cases = labelled(bundle, data, task=None, image_mpp=0.732421875, limit=None)
    unseen = unseen_by(folder, spec, cases)
    assert {len(unseen[case.key]) for case in cases if case.task == "organs"} == {1}
    assert {len(unseen[case.key]) for case in cases if case.task == "scanners"} == {2}


def test_a_shift_is_judged_on_the_same_images_and_its_drop_is_told(bundle: Path, data: Path) -> None:
    folder, _, cases = labelled(bundle, data, task="organs", image_mpp=0.732421875, limit=None)
    plain = evaluate(folder, cases, device="cpu")
    found = as_json(plain, "mine", "ensemble", shifts={"none": plain})
    assert found["shifts"]["none"]["drop"] == 0
    dark = evaluate(folder, cases, Question(shift="brightness"), device="cpu")
    found = as_json(plain, "mine", "ensemble", shifts={"brightness": dark})["shifts"]["brightness"]
    assert [a.score.key for a in dark] == [a.score.key for a in plain]
    means = [np.mean([one.score.dice for one in judged]) for judged in (plain, dark)]
    assert found["drop"] == pytest.approx(means[0] - means[1])


def test_a_finished_training_is_not_trained_again(data: Path, bundle: Path) -> None:
    with pytest.raises(OutputError, match="--resume to go on"):
        train(experiment(data, bundle))
    before = (bundle / "bundle.json").read_bytes()
    assert train(experiment(data, bundle), "resume") == bundle
    assert Silence.epochs == 0
    assert (bundle / "bundle.json").read_bytes() == before


def test_another_recipe_is_not_resumed(data: Path, bundle: Path) -> None:
    other = replace(experiment(data, bundle), recipe=TINY.model_copy(update={"learning_rate": 1e-5}))
    with pytest.raises(OutputError, match="its recipe differ"):
        train(other, "resume")


def test_cross_task_trains_the_other_task_first_and_starts_from_it(data: Path, tmp_path: Path) -> None:
    out = train(experiment(data, tmp_path / "crossed", "cross-task"))
    source = out / "run" / "source-scanners"
    assert {s.task for s in read_scores(source)} == {"scanners"}
    assert Silence.epochs == 4
    record = read_run(out)
    assert record is not None
    assert record["init_from"] == load_spec(source).weights_key
    assert any("scanners" in key for _, key in record["trained"]["1"])


def test_union_learns_from_both_tasks_and_is_judged_by_its_own(data: Path, tmp_path: Path) -> None:
    both = experiment(data, tmp_path / "both", "union")
    _, folds = plan_folds(both)
    _, alone = plan_folds(experiment(data, tmp_path / "alone"))
    assert [fold.valid for fold in folds] == [fold.valid for fold in alone]
    assert {c.task for fold in folds for c in fold.train} == {"organs", "scanners"}
    other = plan_folds(replace(both, task="scanners"))[1]
    assert [fold.train for fold in folds] == [fold.train for fold in other]


def test_weights_that_saw_a_validation_case_are_refused(data: Path, bundle: Path, tmp_path: Path) -> None:
    other_folds = TINY.model_copy(update={"seed": 3})
    swapped = replace(experiment(data, tmp_path / "x", init_from=bundle), recipe=other_folds)
    with pytest.raises(DataError, match="was trained on"):
        train(swapped)


def test_weights_of_the_same_folds_may_be_started_from(data: Path, bundle: Path, tmp_path: Path) -> None:
    out = train(experiment(data, tmp_path / "more", init_from=bundle, train_folds=1))
    assert len(load_spec(out).folds) == 1


def test_a_blend_lies_between_the_weights_it_began_with_and_the_trained(
    data: Path, bundle: Path, tmp_path: Path
) -> None:
    begun = experiment(data, tmp_path / "whole", init_from=bundle)
    whole = train(begun)
    half = train(replace(begun, out=tmp_path / "half", recipe=TINY.model_copy(update={"blend": 0.25})))
    for number in (1, 2):
        file = f"fold-{number}.safetensors"
        before, after, found = (load_file(folder / file) for folder in (bundle, whole, half))
        assert any(not torch.equal(before[name], after[name]) for name in before)
        for name, tensor in found.items():
            if tensor.is_floating_point():
                wanted = 0.75 * before[name].float() + 0.25 * after[name].float()
                torch.testing.assert_close(tensor.float(), wanted, atol=1e-4, rtol=2e-3)


def test_nothing_but_a_start_can_be_blended_with(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--blend"):
        train(replace(experiment(data, tmp_path / "x"), recipe=TINY.model_copy(update={"blend": 0.5})))


def test_a_domain_can_be_left_out(data: Path, tmp_path: Path) -> None:
    _, folds = plan_folds(experiment(data, tmp_path / "x", "union", leave_domain_out=True))
    assert [fold.name for fold in folds] == ["a", "b"]
    for fold in folds:
        assert {c.domain for c in fold.valid} == {fold.name}
        assert all(c.domain != fold.name for c in fold.train if c.task == "organs")
        assert any(c.task == "scanners" for c in fold.train)


def test_a_task_that_is_not_there_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no task 'stains'; it has organs, scanners"):
        plan_folds(replace(experiment(data, tmp_path / "x"), task="stains"))


def test_the_plan_is_told_before_training(data: Path, tmp_path: Path) -> None:
    table = plan_table(experiment(data, tmp_path / "x"))
    assert "organs     a                         3      1   unknown" in table
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_no_bundle_name_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be a bundle"):
        train(experiment(data, tmp_path / "my bundle"))


def test_a_new_network_knows_nothing_and_still_learns_everywhere() -> None:
    network = build_network("mit_b0", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    level(network)
    rgb = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    logits = network(rgb)
    assert not logits.any()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # the head moves first, then what lies before it
        loss = functional.binary_cross_entropy_with_logits(network(rgb), torch.ones(2, 64, 64))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert all(
        p.grad is not None and p.grad.any() for p in network.body.get_submodule("decoder").parameters()
    )


def test_a_batch_that_the_processes_cannot_share_is_refused(data: Path, tmp_path: Path) -> None:
    three = Machine(torch.device("cpu"), half=False, rank=0, ranks=3)
    with pytest.raises(UsageError, match="cannot be shared out to 3 processes: pass --batch 3"):
        run_experiment(experiment(data, tmp_path / "x"), three, watch=Silence)


def test_of_several_other_tasks_the_source_must_be_named(data: Path, tmp_path: Path) -> None:
    more = tmp_path / "data"
    shutil.copytree(data, more)
    shutil.copytree(data / "scanners", more / "labs")
    with pytest.raises(UsageError, match="--source-task, one of: labs, scanners"):
        train(experiment(more, tmp_path / "x", "cross-task"))


def changed_data(data: Path, folder: Path) -> Path:
    shutil.copytree(data, folder)
    return folder


def test_other_images_or_another_resolution_are_not_resumed(data: Path, tmp_path: Path) -> None:
    own = changed_data(data, tmp_path / "data")
    out = train(experiment(own, tmp_path / "x"))
    mask = own / "organs" / "a" / "mask" / "1.png"
    before = mask.read_bytes()
    Image.fromarray(np.full((48, 56), 255, np.uint8)).save(mask)
    with pytest.raises(OutputError, match="its images differ"):
        train(experiment(own, out), "resume")
    mask.write_bytes(before)
    with pytest.raises(OutputError, match="its images differ"):
        train(replace(experiment(own, out), image_mpp=1.0), "resume")
    train(experiment(own, out), "resume")
    assert Silence.epochs == 2


def test_further_folds_may_follow_the_first(data: Path, tmp_path: Path) -> None:
    out = train(experiment(data, tmp_path / "x", train_folds=1))
    first = (out / "fold-1.safetensors").read_bytes()
    train(experiment(data, out), "resume")
    assert len(load_spec(out).folds) == Silence.epochs == 2
    assert (out / "fold-1.safetensors").read_bytes() == first


def test_a_folder_that_is_taken_is_refused_before_anything_is_trained(
    data: Path, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="holds a training already"):
        train(experiment(data, bundle, "cross-task"))
    published = tmp_path / "published"
    shutil.copytree(bundle, published, ignore=shutil.ignore_patterns("run"))
    with pytest.raises(OutputError, match="not trained here"):
        train(experiment(data, published, "cross-task"), "resume")
    assert Silence.epochs == 0
    assert not (bundle / "run" / "source-scanners").exists()


def test_to_begin_anew_leaves_nothing_of_what_was_there(data: Path, bundle: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(bundle, old, ignore=shutil.ignore_patterns("run"))
    for name in ("fold-7.safetensors", "judgement.json", "worst.png"):
        (old / name).write_text("of another")
    (old / "notes.txt").write_text("mine")
    train(experiment(data, old, train_folds=1), "overwrite")
    left = {path.name for path in old.iterdir()}
    assert left == {"README.md", "bundle.json", "fold-1.safetensors", "learnt.json", "notes.txt", "run"}


@pytest.mark.parametrize(
    ("strategy", "more", "said"),
    [
        ("standard", {"source_task": "scanners"}, "--source-task is for --strategy cross-task"),
        ("cross-task", {"source_task": "scanners", "init_from": Path("x")}, "leave one of them out"),
        ("standard", {"image_mpp": 0.0}, "no number of microns"),
        ("standard", {"image_mpp": float("nan")}, "no number of microns"),
    ],
)
def test_options_that_say_nothing_are_refused(
    data: Path, tmp_path: Path, strategy: str, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        plan_folds(replace(experiment(data, tmp_path / "x", strategy), **more))


@pytest.mark.parametrize(
    ("strategy", "said"), [("union", "needs a second task"), ("cross-task", "starts from another task")]
)
def test_one_task_is_no_two(data: Path, tmp_path: Path, strategy: str, said: str) -> None:
    shutil.copytree(data / "organs", tmp_path / "data" / "organs")
    with pytest.raises(UsageError, match=said):
        train(experiment(tmp_path / "data", tmp_path / "x", strategy))


def test_an_odd_start_is_said(
    data: Path, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coarse = TINY.model_copy(update={"mpp": 1.0, "encoder_weights": "imagenet"})
    train(replace(experiment(data, tmp_path / "x", "cross-task", init_from=bundle), recipe=coarse))
    assert "was trained at 0.5 µm, and this training is at 1" in caplog.text
    assert "has learnt from organs already" in caplog.text
    assert "--encoder-weights changes nothing" in caplog.text


def test_tasks_and_domains_of_any_name_become_files(data: Path, tmp_path: Path) -> None:
    own = tmp_path / "data"
    shutil.copytree(data / "organs" / "a", own / "organs" / "organ one")
    shutil.copytree(data / "organs" / "b", own / "organs" / "organ/../two".replace("/", "|"))
    shutil.copytree(data / "scanners", own / "t 2")
    out = train(experiment(own, tmp_path / "x", leave_domain_out=True))
    assert load_spec(out).fold_names == ("organ-one", "organ-..-two")
    train(experiment(own, tmp_path / "y", "cross-task"))
    assert (tmp_path / "y" / "run" / "source-t-2" / "bundle.json").is_file()


def test_where_a_domain_is_left_out_the_start_has_left_it_out_too(data: Path, tmp_path: Path) -> None:
    own = tmp_path / "data"
    shutil.copytree(data / "scanners", own / "scanners")
    for old, new in (("a", "c"), ("b", "b")):
        shutil.copytree(data / "organs" / old, own / "organs" / new)
    source = train(replace(experiment(own, tmp_path / "x", leave_domain_out=True), task="scanners"))
    assert load_spec(source).fold_names == ("a", "b")
    _, folds = plan_folds(experiment(own, tmp_path / "y", leave_domain_out=True))
    starts = starting_weights(source, folds, "none")
    assert [fold.name for fold in folds] == ["b", "c"]
    assert starts[0].weights == source / "fold-b.safetensors"
