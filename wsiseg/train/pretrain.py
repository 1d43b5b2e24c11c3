"""Teaching an encoder on images without their labels, before masks teach it.

The result is a safetensors file of the encoder for ``--encoder-weights``. Its metadata says
how it was made and whose images it saw. Crops, colours and the course of the learning rate
are the recipe's, as in training; the end of an epoch is where a stopped one goes on.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.errors import DataError, OutputError, UsageError
from wsiseg.model import build_network
from wsiseg.train.augment import shift_colour
from wsiseg.train.cases import Case
from wsiseg.train.data import Batch, Sample, epoch_batches, load_samples, plan_epoch
from wsiseg.train.distil import Distilled
from wsiseg.train.loop import rate_at
from wsiseg.train.machine import Machine
from wsiseg.train.masked import Masked
from wsiseg.train.recipe import Recipe
from wsiseg.train.starts import read_about

__all__ = ["Lesson", "Pretraining", "pretrain"]

Lesson = Literal["masked", "distil"]
Watch = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class Pretraining:
    """What an encoder is taught, by what recipe, and where it goes (a safetensors file).

    ``teacher`` is the encoder to learn from, ``teacher_weights`` imagenet or its file; only distilling
    needs them.
    """

    lesson: Lesson
    recipe: Recipe
    out: Path
    teacher: str = "mobilenet_v2"
    teacher_weights: str | None = None

    @property
    def spec(self) -> BundleSpec:
        """How the network will see: normalisation, resolution, kernel."""
        file = FoldFile(file="encoder.safetensors", sha256="0" * 64)
        recipe = self.recipe
        return BundleSpec(
            name="encoder", encoder=recipe.encoder, mpp=recipe.mpp, folds=(file,), licence="", trained_on=""
        )


def pretrain(what: Pretraining, cases: Sequence[Case], machine: Machine, watch: Watch) -> Path:
    """Teach an encoder and write its file; one that is finished is left alone.

    ``watch`` is told each epoch's number and mean loss.

    Raises:
        OutputError: the file, or its checkpoint, is of another pretraining.
        UsageError: there is no teacher to distil. BundleError: its weights do not fit.
        DataError: the loss became infinite or no number; names the batch's images.
    """
    about = _about(what, cases)
    if what.out.exists():
        if read_about(what.out) == about:
            return what.out
        msg = f"{what.out} was made in another way: delete it, or choose another -o"
        raise OutputError(msg)
    torch.manual_seed(what.recipe.seed)
    lesson = _lesson(what).to(machine.device)
    samples = load_samples(cases, mpp=what.spec.canvas_mpp, kernel=what.spec.resample)
    what.out.parent.mkdir(parents=True, exist_ok=True)
    _teach(lesson, samples, what, about, (machine, watch))
    state = {k: v.contiguous().cpu() for k, v in lesson.encoder.state_dict().items()}  # type: ignore[union-attr]
    partial = what.out.with_name(what.out.name + ".partial")
    save_file(state, partial, metadata={"wsiseg": json.dumps(about)})
    partial.replace(what.out)
    _checkpoint(what).unlink()
    return what.out


def _about(what: Pretraining, cases: Sequence[Case]) -> dict[str, object]:
    teacher = what.teacher if what.lesson == "distil" else None
    seen = sorted({case.group for case in cases})
    recipe = what.recipe.model_dump()
    return {
        "lesson": what.lesson,
        "teacher": teacher,
        "recipe": recipe,
        "seen": [list(group) for group in seen],
    }


def _lesson(what: Pretraining) -> nn.Module:
    spec, start = what.spec, what.recipe.encoder_weights
    look = {"mean": spec.mean, "std": spec.std}
    network = build_network(spec.encoder, **look, encoder_weights=None if start == "none" else start)
    if what.lesson == "masked":
        return Masked(network)
    if what.teacher_weights is None:
        msg = f"distilling needs the {what.teacher} to learn from: pass --teacher-weights imagenet or FILE"
        raise UsageError(msg)
    return Distilled(network, build_network(what.teacher, **look, encoder_weights=what.teacher_weights))


def _teach(
    lesson: nn.Module,
    samples: Sequence[Sample],
    what: Pretraining,
    about: dict[str, object],
    told: tuple[Machine, Watch],
) -> None:
    recipe, (machine, watch) = what.recipe, told
    optimizer = torch.optim.AdamW(
        lesson.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = len(plan_epoch(samples, recipe, np.random.default_rng())) // recipe.batch
    for epoch in range(_resume(lesson, optimizer, what, about), recipe.epochs):
        torch.manual_seed(int(np.random.SeedSequence((recipe.seed, epoch)).generate_state(1)[0]))
        lesson.train()
        losses = []
        batches = epoch_batches(
            samples, recipe, (recipe.seed, epoch), share=(0, 1), kernel=what.spec.resample
        )
        for step, batch in enumerate(batches, epoch * steps):
            for group in optimizer.param_groups:
                group["lr"] = rate_at((step + 1) / steps, recipe)
            losses.append(_learn(lesson, batch, machine))
            if recipe.clip:
                nn.utils.clip_grad_norm_(lesson.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
        watch(epoch + 1, float(np.mean(losses)))
        state = {"lesson": lesson.state_dict(), "optimizer": optimizer.state_dict()}
        partial = _checkpoint(what).with_name(_checkpoint(what).name + ".partial")
        torch.save({**state, "epoch": epoch + 1, "about": about}, partial)
        partial.replace(_checkpoint(what))


def _learn(lesson: nn.Module, batch: Batch, machine: Machine) -> float:
    """Add the gradient of one batch; give its loss."""
    rgb = shift_colour(batch.rgb_B3YX.to(machine.device), batch.colour)
    with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.half):
        loss = lesson(rgb.contiguous(memory_format=torch.channels_last))
    if not torch.isfinite(loss):
        msg = f"the loss became {loss.item()} with these images: {', '.join(batch.keys)}; "
        raise DataError(msg + "look at them, or lower --learning-rate")
    loss.backward()
    return float(loss.item())


def _checkpoint(what: Pretraining) -> Path:
    return what.out.with_name(what.out.name + ".last.pt")


def _resume(
    lesson: nn.Module, optimizer: torch.optim.Optimizer, what: Pretraining, about: dict[str, object]
) -> int:
    path = _checkpoint(what)
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["about"] != about:
            msg = f"{path} is of another pretraining: delete it, or choose another -o"
            raise OutputError(msg)
        lesson.load_state_dict(state["lesson"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        msg = f"{path} is no checkpoint of a pretraining ({str(error).splitlines()[0]}): delete it"
        raise OutputError(msg) from error
    return int(state["epoch"])
