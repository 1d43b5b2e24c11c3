"""What is trained, on what, and where it goes; and the folds that follow from it. No torch here."""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.errors import UsageError
from wsiseg.train.cases import Case, limited, read_cases, tasks_of
from wsiseg.train.folds import Fold, folds_of, joined, leave_domain_out
from wsiseg.train.recipe import Recipe
from wsiseg.train.strategies import Strategy

__all__ = ["Experiment", "file_name", "plan_folds", "plan_table"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is trained, on what, and where it goes.

    Attributes:
        data, task, strategy, recipe: the paper's four.
        out: the bundle's folder; its name is the bundle's name.
        image_mpp: microns per pixel of images that no manifest tells of; None is the working mpp.
        limit: use only so many cases of each domain.
        leave_domain_out: one fold for each domain instead of K.
        train_folds: train only the first so many folds.
        init_from: a bundle from which each fold starts, fold by fold.
        source_task: the task that cross-task training starts from; None is the only other one.
        note: lines to add to the card's limits.
    """

    data: Path
    task: str
    strategy: Strategy
    recipe: Recipe
    out: Path
    image_mpp: float | None = None
    limit: int | None = None
    leave_domain_out: bool = False
    train_folds: int | None = None
    init_from: Path | None = None
    source_task: str | None = None
    note: str = ""

    @property
    def spec(self) -> BundleSpec:
        """How the bundle will want to be used; its folds, licence and data are not yet filled in.

        Raises:
            UsageError: the folder's name is no name for a bundle.
        """
        unknown = FoldFile(file="fold.safetensors", sha256="0" * 64)
        try:
            return BundleSpec(
                name=self.out.resolve().name,
                encoder=self.recipe.encoder,
                mpp=self.recipe.mpp,
                folds=(unknown,),
                licence="",
                trained_on="",
            )
        except ValidationError as error:
            msg = f"{self.out} cannot be a bundle: {error.errors()[0]['msg']} (letters, digits, _ . -)"
            raise UsageError(msg) from error


def plan_folds(experiment: Experiment) -> tuple[tuple[Case, ...], tuple[Fold, ...]]:
    """The cases of the whole data folder, and the folds to train on them.

    Raises:
        DataError: cases cannot be used or are too few. UsageError: the data has no such task.
    """
    _check(experiment)
    image_mpp = experiment.image_mpp or experiment.recipe.mpp
    cases = limited(read_cases(experiment.data, image_mpp=image_mpp), experiment.limit)
    assumed = sum(case.mpp_is == "assumed" for case in cases)
    if assumed:
        log.warning("%d images without a stated resolution are taken to be at %g µm/px", assumed, image_mpp)
    elif experiment.image_mpp:
        log.warning("--image-mpp changes nothing: the manifest tells the resolution of every image")
    tasks = tasks_of(cases)
    if experiment.task not in tasks:
        msg = f"{experiment.data} has no task {experiment.task!r}; it has {', '.join(tasks)}"
        raise UsageError(msg)
    chosen = _folds(experiment, cases, experiment.task)
    if experiment.strategy.all_tasks:
        others = [task for task in tasks if task != experiment.task]
        if not others:
            msg = f"a union needs a second task, and {experiment.data} has one: train by --strategy standard"
            raise UsageError(msg)
        dealt = [] if experiment.leave_domain_out else [_folds(experiment, cases, task) for task in others]
        chosen = joined(chosen, dealt or [case for case in cases if case.task in others])
    return cases, _with_file_names(chosen)[: experiment.train_folds]


def _check(experiment: Experiment) -> None:
    """Refuse options that do not go together, and a folder's name that no bundle may have."""
    strategy, recipe, mpp = experiment.strategy, experiment.recipe, experiment.image_mpp
    wrong = ""
    if mpp is not None and not 0 < mpp < math.inf:
        wrong = f"--image-mpp {mpp:g} is no number of microns per pixel: it lies above 0"
    elif recipe.blend < 1 and not (experiment.init_from or strategy.from_other):
        wrong = "--blend mixes the trained weights with those the training began from: pass --init-from too"
    elif experiment.source_task and not strategy.from_other:
        wrong = f"--source-task is for --strategy cross-task, and this is {strategy.name}: leave it out"
    elif experiment.source_task and experiment.init_from:
        wrong = "--init-from says what to start from, and so does --source-task: leave one of them out"
    if wrong:
        raise UsageError(wrong)
    if experiment.init_from and recipe.encoder_weights != "none":
        log.warning("--encoder-weights changes nothing: --init-from gives every weight")
    experiment.spec  # noqa: B018 - refuses a name


def file_name(name: str) -> str:
    """A task's or domain's name as it may stand in the name of a file.

    >>> file_name("organ one")
    'organ-one'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


def _with_file_names(folds: Sequence[Fold]) -> tuple[Fold, ...]:
    """The folds under names that may stand in the names of files, each its own."""
    names: list[str] = []
    for fold in folds:
        name = file_name(fold.name)
        names.append(f"{name}-{len(names) + 1}" if name in names else name)
    return tuple(replace(fold, name=name) for fold, name in zip(folds, names, strict=True))


def _folds(experiment: Experiment, cases: Sequence[Case], task: str) -> tuple[Fold, ...]:
    if experiment.leave_domain_out:
        return leave_domain_out(cases, task)
    return folds_of(cases, task, experiment.recipe.folds, seed=experiment.recipe.seed)


def plan_table(experiment: Experiment) -> str:
    """What a training would use, as text: cases by domain, and how the folds divide them.

    Raises:
        DataError, UsageError: as ``plan_folds``.
    """
    cases, folds = plan_folds(experiment)
    lines = [f"{'task':<10} {'domain':<20} {'cases':>6} {'empty':>6} {'patients':>9} {'mpp':>14}"]
    for task, domain in sorted({(case.task, case.domain) for case in cases}):
        own = [case for case in cases if (case.task, case.domain) == (task, domain)]
        known = len({case.group for case in own if case.patient})
        scale = f"{_span([case.mpp for case in own])} {own[0].mpp_is}"
        empty = sum(case.empty for case in own)
        lines.append(f"{task:<10} {domain:<20} {len(own):>6} {empty:>6} {known or 'unknown':>9} {scale:>14}")
    lines += ["", f"{'fold':<16} {'train':>6} {'valid':>6}   validation cases by domain (empty)"]
    for fold in folds:
        parts = []
        for domain in sorted({case.domain for case in fold.valid}):
            own = [case for case in fold.valid if case.domain == domain]
            parts.append(f"{domain} {len(own)} ({sum(case.empty for case in own)})")
        lines.append(f"{fold.name:<16} {len(fold.train):>6} {len(fold.valid):>6}   {', '.join(parts)}")
    return "\n".join(lines)


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"
