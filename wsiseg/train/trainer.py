"""One experiment from data to bundle: folds, networks, scores, card.

A finished fold is never trained again, and a half-trained one is taken up from its last epoch.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from wsiseg.bundle import find_bundle, load_spec
from wsiseg.ensemble import TorchPredictor
from wsiseg.errors import OutputError, UsageError
from wsiseg.model import Network, build_network, load_fold, save_fold
from wsiseg.train.cases import tasks_of
from wsiseg.train.data import Sample, load_samples
from wsiseg.train.experiment import Experiment, file_name, plan_folds
from wsiseg.train.folds import Fold
from wsiseg.train.loop import Job, Watch, judge, train_fold
from wsiseg.train.machine import Machine
from wsiseg.train.publish import publish, versions
from wsiseg.train.records import LEARNT, read_run, run_folder, write_run, write_scores
from wsiseg.train.starts import Start, starting_weights
from wsiseg.train.strategies import STRATEGIES

__all__ = ["blend", "level", "run_experiment"]

log = logging.getLogger(__name__)

Existing = Literal["refuse", "resume", "overwrite"]
SAME, PER_FOLD = ("task", "strategy", "recipe", "init_from", "images"), ("folds", "trained")
"""What must be equal of two records of one training; of the latter, fold by fold."""
OF_A_BUNDLE = ("bundle.json", LEARNT, "README.md", "judgement.json", "disagreement.png", "worst.png")
"""What lies beside a bundle's weights."""


def run_experiment(
    experiment: Experiment,
    machine: Machine,
    *,
    existing: Existing = "refuse",
    watch: Callable[[Path, int], Watch],
) -> Path:
    """Train every fold that is not finished and write the bundle; return its folder.

    ``watch`` makes someone to be told, for a fold's folder and its number of steps.

    Raises:
        OutputError: the folder holds a training of another kind, or one to be resumed.
        DataError, UsageError, BundleError: see what they say.
    """
    if experiment.recipe.batch % machine.ranks:
        msg = f"a batch of {experiment.recipe.batch} cannot be shared out to {machine.ranks} processes: "
        raise UsageError(msg + f"pass --batch {machine.ranks}, or a multiple of it")
    cases, folds = plan_folds(experiment)
    if not machine.rank:
        _refuse_place(experiment, existing)
    experiment = _with_source(experiment, tasks_of(cases), machine, existing=existing, watch=watch)
    starts = starting_weights(experiment.init_from, folds, experiment.recipe.encoder_weights)
    begun = list(zip(folds, starts, strict=True))
    _warn_of_start(experiment, begun)
    _begin(experiment, begun, machine, existing)
    wanted = {case.key: case for fold in folds for case in (*fold.train, *fold.valid)}
    loaded = load_samples(
        list(wanted.values()), mpp=experiment.spec.canvas_mpp, kernel=experiment.spec.resample
    )
    samples = {sample.case.key: sample for sample in loaded}
    files = []
    for number, (fold, start) in enumerate(begun):
        files.append(_one_fold(experiment, (number, fold, start), samples, machine=machine, watch=watch))
    if not machine.rank:
        publish(experiment, folds, files, machine)
    machine.wait()
    return experiment.out


def _one_fold(
    experiment: Experiment,
    which: tuple[int, Fold, Start],
    samples: dict[str, Sample],
    *,
    machine: Machine,
    watch: Callable[[Path, int], Watch],
) -> Path:
    number, fold, start = which
    recipe, spec = experiment.recipe, experiment.spec
    folder = run_folder(experiment.out) / f"fold-{fold.name}"
    weights = experiment.out / f"fold-{fold.name}.safetensors"
    if (folder / "scores.csv").is_file() and weights.is_file():
        log.info("fold %s is finished already", fold.name)
        return weights
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed * 1000 + number)
    network = _network(experiment, start)
    train, valid = ([samples[case.key] for case in half] for half in (fold.train, fold.valid))
    job = Job(fold.name, (recipe.seed, number), train, valid, folder, spec.resample)
    train_fold(network, job, recipe, machine=machine, watch=watch(folder, recipe.epochs))
    if not machine.rank:
        if recipe.keep == "best":
            load_fold(network, folder / "best.safetensors")
        if recipe.blend < 1:
            blend(network, _network(experiment, start), recipe.blend)
        save_fold(network, weights)
        load_fold(network, weights)
        predictor = TorchPredictor([network], machine.device, batch=1, fp32=not machine.half)
        write_scores(folder / "scores.csv", judge(predictor, valid, fold=fold.name))
    machine.wait()
    return weights


def _network(experiment: Experiment, start: Start) -> Network:
    spec = experiment.spec
    network = build_network(spec.encoder, mean=spec.mean, std=spec.std, encoder_weights=start.encoder)
    if start.weights:
        load_fold(network, start.weights)
    else:
        level(network)
    return network


def level(network: Network) -> None:
    """Let a new network begin at probability one half everywhere, whatever its features are.

    The decoder adds four positive maps, so that smp's first head gives logits of some ±3: a loss
    of 1.1 where knowing nothing costs 0.69, and a hundred steps spent on unlearning them.
    """
    for parameter in network.body.get_submodule("segmentation_head").parameters():
        nn.init.zeros_(parameter)


def blend(network: Network, began: Network, share: float) -> None:
    """Lay a network's weights, in place, on the line from where its training began: at ``share`` of the way.

    A short training on harder images gains there and forgets elsewhere; between the two weights most
    of the gain is kept and little forgotten (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903).
    """
    before = began.to(next(network.parameters()).device).state_dict()
    mixed = {
        name: torch.lerp(before[name], after, share) if after.is_floating_point() else after
        for name, after in network.state_dict().items()
    }
    network.load_state_dict(mixed)


def _with_source(
    experiment: Experiment,
    tasks: tuple[str, ...],
    machine: Machine,
    *,
    existing: Existing,
    watch: Callable[[Path, int], Watch],
) -> Experiment:
    """The experiment with the bundle it starts from; a source that is asked for is trained first."""
    if not experiment.strategy.from_other or experiment.init_from:
        return experiment
    others = [task for task in tasks if task != experiment.task]
    source = experiment.source_task or (others[0] if len(others) == 1 else None)
    if not others:
        msg = f"cross-task training starts from another task, and {experiment.data} has one: pass --init-from"
        raise UsageError(msg)
    if source not in others:
        msg = f"cross-task training of {experiment.task} needs --source-task, one of: {', '.join(others)}"
        raise UsageError(msg)
    first = replace(
        experiment,
        task=source,
        strategy=STRATEGIES["standard"],
        out=run_folder(experiment.out) / f"source-{file_name(source)}",
        source_task=None,
    )
    kept: Existing = "overwrite" if existing == "overwrite" else "resume"
    return replace(experiment, init_from=run_experiment(first, machine, existing=kept, watch=watch))


def _warn_of_start(experiment: Experiment, folds: Sequence[tuple[Fold, Start]]) -> None:
    """Say what is odd about the bundle that a training starts from, and is allowed."""
    if experiment.init_from is None:
        return
    name, mpp = experiment.init_from, load_spec(find_bundle(experiment.init_from)).mpp
    if mpp != experiment.recipe.mpp:
        log.warning("%s was trained at %g µm, and this training is at %g", name, mpp, experiment.recipe.mpp)
    known = any(case.task == experiment.task and case.group in s.seen for f, s in folds for case in f.train)
    if experiment.strategy.from_other and known:
        log.warning("%s has learnt from %s already: this is no cross-task training", name, experiment.task)


def _refuse_place(experiment: Experiment, existing: Existing) -> None:
    """Refuse a folder that is taken, before anything is trained."""
    out, found = experiment.out, read_run(experiment.out)
    if found and existing == "refuse":
        msg = f"{out} holds a training already: pass --resume to go on, --overwrite to begin anew"
        raise OutputError(msg)
    if not found and (out / "bundle.json").exists() and existing != "overwrite":
        msg = f"{out} holds a bundle that was not trained here: choose another -o"
        raise OutputError(msg)


def _begin(
    experiment: Experiment, folds: Sequence[tuple[Fold, Start]], machine: Machine, existing: Existing
) -> None:
    """Make the folder ready and write the record, or check that it is of this training."""
    if machine.rank:
        machine.wait()
        return
    out = experiment.out
    if existing == "overwrite":
        _clear(out)
    record = json.loads(json.dumps(_record(experiment, folds, machine)))
    found = read_run(out)
    if found:
        _check_same(out, found, record)
    write_run(out, record)
    machine.wait()


def _check_same(out: Path, found: dict[str, Any], record: dict[str, Any]) -> None:
    """Refuse to go on with another training; folds may be added, those that are there must be the same."""
    changed = [name for name in SAME if found.get(name) != record[name]]
    for name in PER_FOLD:
        was = found.get(name)
        if not isinstance(was, dict) or was != {fold: record[name].get(fold) for fold in was}:
            changed.append(name)
    if changed:
        told = ", ".join(changed)
        msg = f"{out} holds another training (its {told} differ): pass --overwrite, or another -o"
        raise OutputError(msg)
    if found.get("arithmetic") != record["arithmetic"]:
        log.warning("%s was begun in other arithmetic (%s)", out, found.get("arithmetic"))


def _clear(out: Path) -> None:
    """Remove a training and the bundle that came of it, what was judged of it included."""
    if read_run(out) is None and not (out / "bundle.json").exists():
        return
    found = [*out.glob("fold-*.safetensors"), *run_folder(out).glob("fold-*"), run_folder(out) / "run.json"]
    found += [out / name for name in OF_A_BUNDLE]
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _record(experiment: Experiment, folds: Sequence[tuple[Fold, Start]], machine: Machine) -> dict[str, Any]:
    """What decides a training; ``trained`` are the groups each fold's weights have seen, start included."""
    return {
        "format": 1,
        "task": experiment.task,
        "strategy": experiment.strategy.name,
        "leave_domain_out": experiment.leave_domain_out,
        "data": str(experiment.data),
        "images": _digest(folds),
        "arithmetic": machine.arithmetic,
        "image_mpp": experiment.image_mpp,
        "limit": experiment.limit,
        "init_from": experiment.init_from and load_spec(find_bundle(experiment.init_from)).weights_key,
        "recipe": experiment.recipe.model_dump(),
        "folds": {fold.name: [case.key for case in fold.valid] for fold, _ in folds},
        "trained": {
            fold.name: sorted({case.group for case in fold.train} | start.seen) for fold, start in folds
        },
        "versions": versions(),
    }


def _digest(folds: Sequence[tuple[Fold, Start]]) -> str:
    """A sha256 (hex) of all that is learnt from and judged by: keys, resolutions, images and masks."""
    digest = hashlib.sha256()
    cases = {case.key: case for fold, _ in folds for case in (*fold.train, *fold.valid)}
    for key, case in sorted(cases.items()):
        digest.update(f"{key} {case.mpp!r}".encode())
        for path in (case.image, case.mask):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
