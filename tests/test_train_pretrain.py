"""Encoders taught without labels: they learn, go on where they stopped, and are told apart."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from wsiseg.bundle import BundleSpec
from wsiseg.cli_pretrain import pretrain as command
from wsiseg.errors import BundleError, DataError, OutputError, UsageError
from wsiseg.model import build_network, save_fold
from wsiseg.train.cases import Case, read_cases
from wsiseg.train.folds import Fold
from wsiseg.train.machine import Machine
from wsiseg.train.pretrain import Pretraining, pretrain
from wsiseg.train.recipe import Recipe
from wsiseg.train.records import write_run
from wsiseg.train.starts import starting_weights

CPU = Machine(torch.device("cpu"), half=False)
TINY = Recipe(crop=64, batch=2, epochs=3, steps=3, warmup=0.1, learning_rate=2e-3, mpp=0.5)
LOOK: Any = {"mean": BundleSpec.model_construct().mean, "std": BundleSpec.model_construct().std}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of two images."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for domain in ("colon", "lung"):
        for i in range(2):
            for kind in ("image", "mask"):
                path = folder / "t1" / domain / kind / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                coarse = rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)
                picture = Image.fromarray(coarse).resize((96, 96))
                (picture.convert("1") if kind == "mask" else picture).save(path)
    return folder


@pytest.fixture(scope="module")
def cases(root: Path) -> tuple[Case, ...]:
    return read_cases(root, image_mpp=0.732421875)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNetV2 with random weights, as a file."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_fold(build_network("mobilenet_v2", **LOOK), path)
    return path


def lesson(name: Any, out: Path, teacher: Path, recipe: Recipe = TINY) -> Pretraining:
    return Pretraining(name, recipe, out, teacher_weights=str(teacher))


class Stopped(Exception):  # noqa: N818  # stands for a kill
    """The power went off."""


@pytest.mark.parametrize("name", ["masked", "distil"])
def test_an_encoder_learns_and_a_stopped_one_ends_with_equal_weights(
    name: str, tmp_path: Path, cases: tuple[Case, ...], teacher: Path
) -> None:
    losses: list[float] = []
    whole = pretrain(
        lesson(name, tmp_path / "whole.safetensors", teacher), cases, CPU, lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < losses[0]
    told: list[int] = []

    def stop(epoch: int, _: float) -> None:
        told.append(epoch)
        if told == [1, 2]:
            raise Stopped

    parts = lesson(name, tmp_path / "parts.safetensors", teacher)
    with pytest.raises(Stopped):
        pretrain(parts, cases, CPU, stop)
    pretrain(parts, cases, CPU, stop)
    assert told == [1, 2, 2, 3]
    one, two = load_file(whole), load_file(parts.out)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.safetensors", "whole.safetensors"]


def test_a_taught_encoder_is_where_a_network_starts(
    tmp_path: Path, cases: tuple[Case, ...], teacher: Path
) -> None:
    short = TINY.model_copy(update={"epochs": 1, "steps": 1})
    out = pretrain(lesson("masked", tmp_path / "e.safetensors", teacher, short), cases, CPU, lambda *_: None)
    network: Any = build_network("mit_b0", **LOOK, encoder_weights=str(out))
    for key, tensor in load_file(out).items():
        assert torch.equal(network.body.encoder.state_dict()[key], tensor)


def test_a_finished_encoder_is_left_alone_and_another_is_not_written_over(
    tmp_path: Path, cases: tuple[Case, ...], teacher: Path
) -> None:
    short = TINY.model_copy(update={"epochs": 1, "steps": 1})
    what = lesson("masked", tmp_path / "e.safetensors", teacher, short)
    pretrain(what, cases, CPU, lambda *_: None)
    pretrain(what, cases, CPU, lambda *_: pytest.fail("was taught again"))
    for other in (replace(what, lesson="distil"), replace(what, recipe=TINY)):
        with pytest.raises(OutputError, match="made in another way"):
            pretrain(other, cases, CPU, lambda *_: None)
    with pytest.raises(OutputError, match="made in another way"):
        pretrain(what, cases[:1], CPU, lambda *_: None)


def test_a_checkpoint_of_another_pretraining_is_refused(
    tmp_path: Path, cases: tuple[Case, ...], teacher: Path
) -> None:
    def stop(*_: object) -> None:
        if (tmp_path / "e.safetensors.last.pt").exists():
            raise Stopped

    what = lesson("masked", tmp_path / "e.safetensors", teacher)
    with pytest.raises(Stopped):
        pretrain(what, cases, CPU, stop)
    with pytest.raises(OutputError, match="of another pretraining"):
        pretrain(replace(what, lesson="distil"), cases, CPU, stop)
    (tmp_path / "e.safetensors.last.pt").write_bytes(b"none")
    with pytest.raises(OutputError, match="no checkpoint of a pretraining"):
        pretrain(what, cases, CPU, stop)


def test_distilling_needs_a_teacher(tmp_path: Path, cases: tuple[Case, ...]) -> None:
    with pytest.raises(UsageError, match="--teacher-weights"):
        pretrain(
            Pretraining("distil", TINY, tmp_path / "e.safetensors"), cases, CPU, lambda *_: pytest.fail("ran")
        )


def test_the_command_leaves_a_domain_out_and_a_fold_judged_by_another_is_warned_of(
    tmp_path: Path, root: Path, cases: tuple[Case, ...], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "lung.safetensors"
    options = ["--lesson", "masked", "--data", root, "-o", out, "--image-mpp", 0.732421875, "--device", "cpu"]
    small = ["--crop", 32, "--batch", 2, "--epochs", 1, "--steps", 1, "--without", "lung"]
    found = CliRunner().invoke(command, [str(part) for part in (*options, *small)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    colon, lung = (tuple(c for c in cases if c.domain == domain) for domain in ("colon", "lung"))
    named = str(tmp_path / "{fold}.safetensors")
    with caplog.at_level(logging.WARNING):
        (start,) = starting_weights(None, [Fold("lung", colon, lung)], named)
    assert (start.encoder, start.seen, caplog.records) == (str(out), frozenset(), [])
    with caplog.at_level(logging.WARNING):
        starting_weights(None, [Fold("colon", lung, colon)], str(out))
    assert "seen 2 of fold colon's validation images, without their labels" in caplog.text
    with pytest.raises(BundleError, match="cannot be read"):
        starting_weights(None, [Fold("colon", lung, colon)], named)


def test_an_encoder_that_saw_a_validation_label_is_refused(tmp_path: Path, cases: tuple[Case, ...]) -> None:
    seen = {"trained": {"1": [list(case.group) for case in cases[:1]], "2": []}}
    write_run(tmp_path / "mine", seen)
    folder = tmp_path / "mine" / "run" / "fold-1"
    folder.mkdir()
    network = build_network("mit_b0", **LOOK)
    fold = Fold("1", cases[1:], cases[:1])
    for path in (tmp_path / "mine" / "fold-1.safetensors", folder / "best.safetensors"):
        save_fold(network, path)
        with pytest.raises(DataError, match=r"trained on 1 of fold 1's validation patients"):
            starting_weights(None, [fold], str(path))
    save_fold(network, tmp_path / "mine" / "fold-2.safetensors")
    (start,) = starting_weights(None, [fold], str(tmp_path / "mine" / "fold-2.safetensors"))
    assert start.encoder is not None
