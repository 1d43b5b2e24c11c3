"""A bundle judged on labelled images: the folds' mean, each fold alone, or only held-out folds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsiseg.bundle import BundleSpec, find_bundle, load_spec
from wsiseg.ensemble import TorchPredictor, load_ensemble
from wsiseg.errors import DataError, UsageError
from wsiseg.train.calibration import Reliability, reliability
from wsiseg.train.cases import Case, limited, read_cases, tasks_of
from wsiseg.train.data import Sample, load_samples
from wsiseg.train.loop import predict
from wsiseg.train.metrics import Score, by_domain, named_apart, paired, score, summary
from wsiseg.train.records import read_learnt
from wsiseg.train.shift import shifted

__all__ = [
    "Judged",
    "Mode",
    "Question",
    "as_json",
    "evaluate",
    "labelled",
    "numbers",
    "samples_of",
    "some_folds",
    "unseen_by",
]

Mode = Literal["ensemble", "folds", "held-out"]
AT_ONCE = 16
"""Images in memory at a time."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One image's score and the reliability of its probabilities."""

    score: Score
    reliability: Reliability


def labelled(
    bundle: str | Path, data: Path, *, task: str | None, image_mpp: float | None, limit: int | None
) -> tuple[Path, BundleSpec, tuple[Case, ...]]:
    """A bundle's folder and spec, and the cases of a data folder (of one task, or all).

    Raises:
        BundleError, DataError: see what they say. UsageError: the data has no such task.
    """
    folder = find_bundle(bundle)
    spec = load_spec(folder)
    cases = limited(read_cases(data, image_mpp=spec.mpp if image_mpp is None else image_mpp), limit)
    chosen = tuple(case for case in cases if task in {None, case.task})
    if not chosen:
        msg = f"{data} has no task {task!r}; it has {', '.join(tasks_of(cases))}"
        raise UsageError(msg)
    return folder, spec, chosen


@dataclass(frozen=True, slots=True)
class Question:
    """How a bundle is judged.

    Attributes:
        mode: by the folds' mean, by each fold, or by the folds that never saw an image's patient.
        shift: a change of scanner (see ``wsiseg.train.shift``) made to every image first.
        threshold: where Dice is taken: 0.5 as in the paper, not what the bundle advises for slides.

    Raises:
        UsageError: the threshold is no probability between 0 and 1.
    """

    mode: Mode = "ensemble"
    shift: str | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            msg = f"--threshold {self.threshold:g} calls all or nothing tumour: take one between 0 and 1"
            raise UsageError(msg)


def evaluate(
    folder: Path,
    cases: Sequence[Case],
    question: Question = Question(),
    *,
    device: str = "auto",
    fp32: bool = False,
) -> list[Judged]:
    """Judge every case; in order of the cases, and where folds are judged, of the folds.

    Raises:
        DataError: held-out is asked of a bundle without the record of its training, or no case is.
    """
    mode, shift, threshold = question.mode, question.shift, question.threshold
    spec = load_spec(folder)
    predictor = load_ensemble(folder, device=device, fp32=fp32)
    names = spec.fold_names
    judges: Mapping[str, Sequence[str]] = {case.key: names for case in cases}
    if mode == "held-out":
        judges = unseen_by(folder, spec, cases)
    if not any(judges.values()):
        msg = f"every fold of {folder} was trained on every one of these cases: nothing is held out"
        raise DataError(msg)
    found: list[Judged] = []
    for sample in samples_of([case for case in cases if judges[case.key]], spec):
        rgb_YX3 = shifted(sample.rgb_YX3, shift, sample.case.key) if shift else sample.rgb_YX3
        if mode == "ensemble":
            prob_YX = predict(predictor, rgb_YX3).mean(axis=0)
            found.append(_judged(prob_YX, sample, "ensemble", threshold))
            continue
        for fold in judges[sample.case.key]:
            prob_YX = predict(some_folds(predictor, [names.index(fold)]), rgb_YX3)[0]
            found.append(_judged(prob_YX, sample, fold, threshold))
    return found


def samples_of(cases: Sequence[Case], spec: BundleSpec) -> Iterator[Sample]:
    """The cases as a bundle's networks see them, some at a time."""
    for start in range(0, len(cases), AT_ONCE):
        yield from load_samples(cases[start : start + AT_ONCE], mpp=spec.canvas_mpp, kernel=spec.resample)


def unseen_by(folder: Path, spec: BundleSpec, cases: Sequence[Case]) -> dict[str, tuple[str, ...]]:
    """The folds, by each case's key, whose weights have never seen its patient.

    Raises:
        DataError: the bundle has no record of what its folds were trained on.
    """
    learnt = read_learnt(folder)
    if learnt is None or not set(spec.fold_names) <= set(learnt):
        msg = f"{folder} has no record of what its folds were trained on (learnt.json): use --by ensemble"
        raise DataError(msg)
    return {
        case.key: tuple(name for name in spec.fold_names if "/".join(case.group) not in learnt[name])
        for case in cases
    }


def some_folds(
    predictor: TorchPredictor, numbers: Sequence[int], *, temperature: float | None = None
) -> TorchPredictor:
    """The same predictor with some of its networks, and another temperature where one is given."""
    return TorchPredictor(
        [predictor.networks[number] for number in numbers],
        predictor.device,
        batch=predictor.batch,
        fp32=not predictor.half,
        temperature=predictor.temperature if temperature is None else temperature,
    )


def as_json(
    judged: Sequence[Judged],
    bundle: str,
    mode: Mode,
    *,
    shifts: Mapping[str, Sequence[Judged]] | None = None,
) -> dict[str, Any]:
    """The numbers of an evaluation: of all images, under ``domains``, ``folds`` and ``shifts``."""
    scores = [one.score for one in judged]
    found: dict[str, Any] = {"bundle": bundle, "mode": mode, **_numbers(judged)}
    found["domains"] = {d: _numbers([o for o in judged if o.score.domain == d]) for d in by_domain(scores)}
    folds = sorted({s.fold for s in scores})
    found["folds"] = {f: _numbers([o for o in judged if o.score.fold == f]) for f in folds}
    found["shifts"] = {}
    for name, changed in (shifts or {}).items():
        after = [one.score for one in changed]
        _, drop, low, high = paired(named_apart(scores), named_apart(after))
        drops = {"drop": drop, "drop_low": low, "drop_high": high}
        found["shifts"][name] = {**_numbers(changed), **drops}
    return found


def _numbers(judged: Sequence[Judged]) -> dict[str, float]:
    return numbers([one.score for one in judged], reduce(add, (one.reliability for one in judged)))


def numbers(scores: Sequence[Score], pixels: Reliability) -> dict[str, float]:
    """The figures of some answers: their summary and the calibration error of their pixels."""
    return {**asdict(summary(scores)), "ece": pixels.ece}


def _judged(prob_YX: npt.NDArray[np.float32], sample: Sample, fold: str, threshold: float) -> Judged:
    case, truth_YX = sample.case, sample.mask_YX > 0
    counts = score(prob_YX >= threshold, truth_YX)
    group = "/".join(case.group)
    return Judged(
        Score(case.key, case.task, case.domain, fold, *counts, group=group), reliability(prob_YX, truth_YX)
    )
