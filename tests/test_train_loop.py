"""The loop: resumed exactly, split exactly, stopped with a name."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from wsiseg.bundle import BundleSpec
from wsiseg.errors import DataError, OutputError
from wsiseg.model import Network, build_network
from wsiseg.train.cases import Case
from wsiseg.train.data import Sample, epoch_batches
from wsiseg.train.loop import Job, _learn, judge, rate_at, train_fold
from wsiseg.train.machine import Machine
from wsiseg.train.recipe import Recipe

FP32 = Machine(torch.device("cpu"), half=False)
TINY = Recipe(crop=64, batch=2, epochs=4, warmup=1, learning_rate=1e-3)


class Stopped(Exception):  # noqa: N818  # stands for a kill
    """The power went off."""


class Watcher:
    """Remembers epochs; stops everything after one of them."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.stop_after = stop_after
        self.steps = 0

    def step(self, images: int, loss: float, done: float) -> None:
        assert 0 < done <= 1
        self.steps += images
        assert math.isfinite(loss)
        if self.stop_after is not None and len(self.records) == self.stop_after:
            raise Stopped

    def epoch(self, record: dict[str, Any]) -> None:
        self.records.append(record)


def samples(count: int, *, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        mask_YX = np.zeros((64, 64), np.uint8)
        mask_YX[:, : int(rng.integers(16, 48))] = 255
        noise_YX3 = rng.integers(0, 60, (64, 64, 3))
        rgb_YX3 = (np.where(mask_YX[..., None] > 0, [120, 40, 120], [220, 160, 200]) - noise_YX3).clip(0)
        key = f"{seed}-{i}"
        found.append(
            Sample(
                Case(key, Path(key), Path(key), "t", "d", 0.5, "stated"), rgb_YX3.astype(np.uint8), mask_YX
            )
        )
    return found


def network(seed: int = 0) -> Network:
    spec = BundleSpec.model_construct()
    torch.manual_seed(seed)
    return build_network("mit_b0", mean=spec.mean, std=spec.std)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def job(folder: Path) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    return Job("1", (0, 0), samples(4), samples(1, seed=9), folder, "bilinear")


def test_an_interrupted_and_an_uninterrupted_training_end_with_equal_weights(tmp_path: Path) -> None:
    whole, first, second = network(), network(), network(seed=5)
    train_fold(whole, job(tmp_path / "whole"), TINY, machine=FP32, watch=Watcher())
    with pytest.raises(Stopped):
        train_fold(first, job(tmp_path / "parts"), TINY, machine=FP32, watch=Watcher(stop_after=2))
    rest = Watcher()
    train_fold(second, job(tmp_path / "parts"), TINY, machine=FP32, watch=rest)
    assert [r["epoch"] for r in rest.records] == [3, 4]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_a_training_learns_and_keeps_its_best_weights(tmp_path: Path) -> None:
    watch = Watcher()
    train_fold(network(), job(tmp_path), TINY, machine=FP32, watch=watch)
    assert watch.records[-1]["loss"] < watch.records[0]["loss"]
    assert watch.steps == 4 * 4
    assert load_file(tmp_path / "best.safetensors")


class Company(Machine):
    """A machine with another process beside it, whose losses are higher by one."""

    def gathered(self, items: list[Any]) -> list[Any]:
        return [*items, *(item + 1 for item in items if isinstance(item, float))]


def test_the_loss_that_is_told_is_the_mean_of_all_processes(tmp_path: Path) -> None:
    told = []
    for name, machine in (("alone", FP32), ("both", Company(torch.device("cpu"), half=False))):
        watch = Watcher()
        once = TINY.model_copy(update={"epochs": 1})
        train_fold(network(), job(tmp_path / name), once, machine=machine, watch=watch)
        told.append(watch.records[0]["loss"])
    assert told[1] == pytest.approx(told[0] + 0.5)


@pytest.mark.parametrize("loss", ["bce", "bce+dice"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(loss: Any) -> None:
    recipe = Recipe(crop=64, batch=4, loss=loss)
    (batch,) = epoch_batches(samples(4), recipe, (0, 0, 0), share=(0, 1), kernel="bilinear")
    batch.counted_BYX[0, :, :40] = 0  # parts that count differently
    gradients = []
    for parts in (1, 4):
        built = network().eval()  # no dropout: its draws depend on the split
        total = _learn(built, batch, recipe.model_copy(update={"accumulate": parts}), FP32)
        gradients.append((total, [p.grad for p in built.parameters() if p.grad is not None]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for one, four in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(one, four, rtol=1e-3, atol=1e-6)


def test_pixels_outside_the_image_teach_nothing() -> None:
    recipe = Recipe(crop=64, batch=2)
    (batch,) = epoch_batches(samples(2), recipe, (0, 0, 0), share=(0, 1), kernel="bilinear")
    batch.counted_BYX[:, 32:] = 0
    lying = replace(batch, tumour_BYX=batch.tumour_BYX.clone())
    lying.tumour_BYX[:, 32:] = 1 - lying.tumour_BYX[:, 32:]
    built = network().eval()
    assert _learn(built, batch, recipe, FP32) == _learn(built, lying, recipe, FP32)


def test_no_number_stops_the_training_and_names_the_images(tmp_path: Path) -> None:
    broken = network()
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(float("nan"))
    with pytest.raises(DataError, match=r"the loss became nan with these images: 0-\d, 0-\d"):
        train_fold(broken, job(tmp_path), TINY, machine=FP32, watch=Watcher())
    assert not (tmp_path / "last.pt").exists()


def test_weights_that_a_last_step_broke_stop_the_training(tmp_path: Path) -> None:
    one, broken = TINY.model_copy(update={"epochs": 1, "steps": 1}), network()
    next(iter(broken.parameters())).register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: gradient * float("nan")
    )
    with pytest.raises(DataError, match="the weights became no numbers with these images: 0-"):
        train_fold(broken, job(tmp_path), one, machine=FP32, watch=Watcher())
    assert not (tmp_path / "last.pt").exists()


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    work = job(tmp_path)
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(OutputError, match="no checkpoint of this training"):
        train_fold(network(), work, TINY, machine=FP32, watch=Watcher())


@given(st.integers(1, 4), st.integers(1, 5), st.floats(0, 2), st.floats(0.001, 1))
def test_the_rate_falls_to_zero_at_the_end_of_each_cycle(
    cycles: int, length: int, warmup: float, part: float
) -> None:
    recipe = Recipe(epochs=cycles * length, cycles=cycles, warmup=warmup, learning_rate=1)
    for cycle in range(1, cycles + 1):
        assert rate_at(cycle * length, recipe) == pytest.approx(0, abs=1e-9)
    assert 0 <= rate_at(part * recipe.epochs, recipe) <= 1


def test_whole_images_of_any_size_are_judged() -> None:
    def truth(rgb_BYX3: np.ndarray) -> np.ndarray:
        assert rgb_BYX3.shape[1] % 32 == rgb_BYX3.shape[2] % 32 == 0
        return (rgb_BYX3[None, ..., 0] < 128).astype(np.float32)

    (whole,) = samples(1)
    odd = replace(whole, rgb_YX3=whole.rgb_YX3[:37, :51], mask_YX=whole.mask_YX[:37, :51])
    (found,) = judge(truth, [odd], fold="1")
    assert found.dice == 1
    assert found.tp == (odd.mask_YX > 0).sum()
