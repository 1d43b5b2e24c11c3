"""The end of an experiment: ``bundle.json`` and the card, written from what was trained."""

import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
import torch

import wsiseg
from wsiseg.bundle import BundleSpec, FoldFile, find_bundle, load_spec
from wsiseg.train.card import Story, licence_of, trained_on, write_card
from wsiseg.train.experiment import Experiment
from wsiseg.train.folds import Fold
from wsiseg.train.machine import Machine
from wsiseg.train.records import read_scores, write_text

__all__ = ["publish", "versions"]


def versions() -> dict[str, str]:
    """The releases that decide a training's numbers."""
    return {
        "wsiseg": wsiseg.__version__,
        "torch": torch.__version__,
        "segmentation-models-pytorch": str(smp.__version__),
        "python": platform.python_version(),
    }


def publish(experiment: Experiment, folds: Sequence[Fold], files: Sequence[Path], machine: Machine) -> None:
    """Write ``bundle.json`` and the card from what was trained."""
    source = experiment.init_from and load_spec(find_bundle(experiment.init_from))
    cases = list({case.key: case for fold in folds for case in fold.train}.values())
    spec = BundleSpec(
        **experiment.spec.model_dump(exclude={"folds", "licence", "trained_on"}),
        folds=tuple(
            FoldFile(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest()) for path in files
        ),
        licence=licence_of(experiment.recipe.encoder),
        trained_on=trained_on(cases)
        + (f"; before that, as {source.name}: {source.trained_on}" if source else ""),
    )
    start = f"{source.name} ({source.trained_on})" if source else experiment.recipe.encoder_weights
    facts = {
        "device": f"{machine.device.type}, {'bfloat16' if machine.half else 'float32'}",
        "processes": str(machine.ranks),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    scores = read_scores(experiment.out, [fold.name for fold in folds])
    story = Story(
        experiment.strategy.name,
        experiment.task,
        experiment.recipe,
        folds,
        scores,
        start,
        facts,
        experiment.note,
    )
    write_text(experiment.out / "README.md", write_card(spec, story))
    write_text(experiment.out / "bundle.json", spec.model_dump_json(indent=1) + "\n")
