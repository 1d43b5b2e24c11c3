"""The end of an experiment: a bundle's facts, written from what was trained."""

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
from wsiseg.train.recipe import Recipe
from wsiseg.train.records import read_run, read_scores, write_learnt, write_run, write_text
from wsiseg.train.starts import read_about

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
    """Write ``bundle.json``, the card and ``learnt.json`` from what was trained."""
    folder = experiment.init_from and find_bundle(experiment.init_from)
    source = folder and load_spec(folder)
    cases = list({case.key: case for fold in folds for case in fold.train}.values())
    learnt = trained_on(cases)
    if source and source.trained_on != learnt:
        learnt += f"; before that, as {source.name}: {source.trained_on}"
    spec = BundleSpec(
        **experiment.spec.model_dump(exclude={"folds", "licence", "trained_on"}),
        folds=tuple(
            FoldFile(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest()) for path in files
        ),
        licence=licence_of(experiment.recipe.encoder),
        trained_on=learnt,
    )
    record = read_run(experiment.out)
    assert record is not None, "a training begins with its record"
    start = _started(folder, source) if folder and source else _encoder_story(experiment.recipe, folds)
    facts = {
        "device": f"{machine.device.type}, {'bfloat16' if machine.half else 'float32'}",
        "processes": str(machine.ranks),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    scores = read_scores(experiment.out, [fold.name for fold in folds])
    story = Story(
        experiment.strategy.name,
        experiment.task,
        experiment.recipe.model_copy(
            update={"encoder_weights": Path(experiment.recipe.encoder_weights).name}
        ),
        folds,
        scores,
        start,
        facts,
        experiment.note,
    )
    write_text(experiment.out / "README.md", write_card(spec, story))
    write_run(experiment.out, {**record, "start": start})
    write_learnt(experiment.out, record["trained"])
    write_text(experiment.out / "bundle.json", spec.model_dump_json(indent=1) + "\n")


def _started(folder: Path, source: BundleSpec) -> str:
    """What a training began from, in words; of a bundle that was trained here, where that began too."""
    before = (read_run(folder) or {}).get("start")
    return f"{source.name} ({source.trained_on})" + (f", which started from {before}" if before else "")


def _encoder_story(recipe: Recipe, folds: Sequence[Fold]) -> str:
    """Where the encoder began, in words: no path of this machine goes into a card."""
    if recipe.encoder_weights in {"none", "imagenet"}:
        return {"none": "random weights", "imagenet": "ImageNet"}[recipe.encoder_weights]
    about = {fold: read_about(Path(recipe.encoder_weights.replace("{fold}", fold.name))) for fold in folds}
    first = about[folds[0]]
    if not first:
        return f"encoder weights {Path(recipe.encoder_weights).name}"
    how = f"{first['lesson']} from {first['teacher']}" if first["teacher"] else first["lesson"]
    seen = {fold: {tuple(group) for group in one.get("seen", [])} for fold, one in about.items()}
    where = ", ".join(sorted({dataset for groups in seen.values() for dataset, _ in groups}))
    met = any(case.group in seen[fold] for fold in folds for case in fold.valid)
    too = ", validation images among them" if met else ""
    return f"encoder pretrained without labels ({how}) on images of {where}{too}"
