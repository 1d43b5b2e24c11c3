"""The training loop of one fold, and how it is stopped and taken up again.

Every random number of an epoch comes from a seed made of (seed, fold, epoch), so the end of
an epoch is a clean place to go on from: a checkpoint holds weights, optimizer and the epoch.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from wsiseg.ensemble import Predictor, TorchPredictor
from wsiseg.errors import DataError, OutputError, UsageError
from wsiseg.model import Network, save_fold
from wsiseg.resample import Kernel
from wsiseg.train.augment import shift_colour
from wsiseg.train.data import Batch, Sample, epoch_batches, plan_epoch
from wsiseg.train.machine import Machine
from wsiseg.train.metrics import Score, score
from wsiseg.train.recipe import Recipe

__all__ = ["Job", "Watch", "judge", "predict", "rate_at", "train_fold"]

STRIDE = 32
"""The encoders halve five times: an image is padded to a multiple of this."""


class Watch(Protocol):
    """Someone who is told how a training goes."""

    def step(self, images: int, loss: float, done: float) -> None:
        """One step is done, with so many crops; ``done`` is the part of the whole training (0 … 1)."""

    def epoch(self, record: dict[str, Any]) -> None:
        """One epoch is done and validated."""


@dataclass(frozen=True, slots=True)
class Job:
    """One fold to train: its name, its seed (all its own), its samples and its working folder."""

    name: str
    seed: tuple[int, ...]
    train: Sequence[Sample]
    valid: Sequence[Sample]
    folder: Path
    kernel: Kernel


def train_fold(network: Network, job: Job, recipe: Recipe, *, machine: Machine, watch: Watch) -> None:
    """Train a network in place, from its checkpoint if there is one; write checkpoints as it goes.

    Raises:
        DataError: the loss became infinite or no number; names the batch's images.
        OutputError: the checkpoint is of another training.
    """
    network.to(machine.device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    first, best = _resume(network, optimizer, job)
    learner = DistributedDataParallel(network) if machine.ranks > 1 else network
    steps = len(plan_epoch(job.train, recipe, np.random.default_rng())) // recipe.batch
    for epoch in range(first, recipe.epochs):
        seed, begun, losses = (*job.seed, epoch), time.perf_counter(), []
        torch.manual_seed(int(np.random.SeedSequence((*seed, machine.rank)).generate_state(1)[0]))
        network.train()
        batches = epoch_batches(job.train, recipe, seed, share=machine.share, kernel=job.kernel)
        for step, batch in enumerate(batches, epoch * steps):
            for group in optimizer.param_groups:
                group["lr"] = rate_at((step + 1) / steps, recipe)
            losses.append(_learn(learner, batch, recipe, machine))
            if recipe.clip:
                nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
            done = (step + 1) / (steps * recipe.epochs)
            watch.step(len(batch.keys) * machine.ranks, losses[-1], done)
        if not all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
            _no_numbers("weights became no numbers", batch)
        spent = time.perf_counter() - begun
        dice = float(np.mean([s.dice for s in machine.gathered(_validate(network, job, machine))]))
        loss = float(np.mean(machine.gathered(losses)))
        if not machine.rank:
            rate = steps * recipe.batch / spent
            record = {"fold": job.name, "epoch": epoch + 1, "loss": loss, "dice": dice}
            watch.epoch({**record, "images_per_s": rate, "seconds": time.perf_counter() - begun})
            if dice > best:
                save_fold(network, job.folder / "best.safetensors")
            best = max(best, dice)
            _save(network, optimizer, job, (epoch + 1, best))


def rate_at(epoch: float, recipe: Recipe) -> float:
    """The learning rate ``epoch`` epochs (a fraction) into the training.

    In each cycle it falls from the peak to zero along half a cosine; at first it rises linearly.

    >>> rate_at(10, Recipe(epochs=30, cycles=3, warmup=0, learning_rate=1)) < 1e-9
    True
    """
    length = recipe.epochs / recipe.cycles
    gone = epoch / length
    part = gone - (math.ceil(gone) - 1)  # in (0, 1]: the end of a cycle belongs to it
    rising = min(1.0, epoch / recipe.warmup) if recipe.warmup else 1.0
    return recipe.learning_rate * rising * (1 + math.cos(math.pi * part)) / 2


def judge(
    predictor: Predictor, samples: Sequence[Sample], *, fold: str, threshold: float = 0.5
) -> Iterator[Score]:
    """Score whole images, at canvas resolution; several folds' probabilities are averaged."""
    for sample in samples:
        prob_YX = predict(predictor, sample.rgb_YX3).mean(axis=0)
        tp, fp, fn = score(prob_YX >= threshold, sample.mask_YX > 0)
        case = sample.case
        yield Score(case.key, case.task, case.domain, fold, tp, fp, fn, "/".join(case.group))


def predict(predictor: Predictor, rgb_YX3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Probabilities (F, Y, X) of a whole image, seen at once, with white added up to a whole stride."""
    height, width = rgb_YX3.shape[:2]
    pad = ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0))
    return predictor(np.pad(rgb_YX3, pad, constant_values=255)[None])[:, 0, :height, :width]


def _validate(network: Network, job: Job, machine: Machine) -> list[Score]:
    predictor = TorchPredictor([network], machine.device, batch=1, fp32=not machine.half)
    return list(judge(predictor, job.valid[machine.rank :: machine.ranks], fold=job.name))


def _learn(learner: nn.Module, batch: Batch, recipe: Recipe, machine: Machine) -> float:
    """Add the gradient of one batch, part by part; give its loss."""
    colours = batch.colour if recipe.colour_jitter or recipe.stain_jitter else None
    rgb = batch.rgb_B3YX.to(machine.device)
    with torch.no_grad():
        rgb = shift_colour(rgb, colours) if colours else rgb.float()
    tumour, counted = batch.tumour_BYX.to(machine.device), batch.counted_BYX.to(machine.device)
    pixels, total = counted.sum().clamp(min=1), 0.0
    parts = list(zip(*(t.chunk(recipe.accumulate) for t in (rgb, tumour, counted)), strict=True))
    for number, part in enumerate(parts, 1):
        alone = isinstance(learner, DistributedDataParallel) and number < len(parts)
        with learner.no_sync() if alone else nullcontext():  # type: ignore[operator]  # DDP's own
            with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.half):
                logits = _logits(learner, part[0])
            loss = _loss(logits, part[1], part[2], pixels=pixels, crops=len(rgb), dice=recipe.loss != "bce")
            if not torch.isfinite(loss):
                _no_numbers(f"loss became {loss.item()}", batch)
            loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _logits(learner: nn.Module, rgb: Tensor) -> Tensor:
    try:
        return cast("Tensor", learner(rgb))
    except ValueError as error:  # of a normalisation that has one number to normalise
        msg = f"{error}: take a larger --crop or --batch, or fewer parts (--accumulate)"
        raise UsageError(msg) from error


def _no_numbers(what: str, batch: Batch) -> NoReturn:
    msg = f"the {what} with these images: {', '.join(batch.keys)}; look at them, or lower --learning-rate"
    raise DataError(msg)


def _loss(
    logits: Tensor, tumour: Tensor, counted: Tensor, *, pixels: Tensor, crops: int, dice: bool
) -> Tensor:
    """This part's share of a batch's loss; the shares add up, however the batch is split."""
    each = functional.binary_cross_entropy_with_logits(logits, tumour, reduction="none")
    loss = (each * counted).sum() / pixels
    if dice:
        prob = torch.sigmoid(logits) * counted
        overlap = (prob * tumour).sum((1, 2))
        whole = prob.sum((1, 2)) + (tumour * counted).sum((1, 2))
        loss = loss + (1 - (2 * overlap + 1) / (whole + 1)).sum() / crops
    return loss


def _save(network: Network, optimizer: torch.optim.Optimizer, job: Job, at: tuple[int, float]) -> None:
    state = {
        "seed": job.seed,
        "epoch": at[0],
        "best": at[1],
        "network": network.body.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    partial = job.folder / "last.pt.partial"
    torch.save(state, partial)
    partial.replace(job.folder / "last.pt")


def _resume(network: Network, optimizer: torch.optim.Optimizer, job: Job) -> tuple[int, float]:
    path = job.folder / "last.pt"
    if not path.is_file():
        return 0, -1.0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        network.body.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, UnpicklingError) as error:
        why = str(error).splitlines()[0]
        msg = f"{path} is no checkpoint of this training ({why}); pass --overwrite to begin anew"
        raise OutputError(msg) from error
    return int(state["epoch"]), float(state["best"])
