"""A bundle judged on labelled images: the folds' mean, each fold alone, or only held-out folds."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from wsiseg.bundle import BundleSpec, find_bundle, load_spec
from wsiseg.errors import DataError, UsageError
from wsiseg.model import Predictor, load_ensemble
from wsiseg.train.cases import Case, limited, read_cases, tasks_of
from wsiseg.train.data import load_samples
from wsiseg.train.loop import judge
from wsiseg.train.metrics import Score, by_domain, summary
from wsiseg.train.records import read_run

__all__ = ["Mode", "as_json", "evaluate", "labelled"]

Mode = Literal["ensemble", "folds", "held-out"]


def labelled(
    bundle: str | Path, data: Path, *, task: str | None, image_mpp: float | None, limit: int | None
) -> tuple[Path, BundleSpec, tuple[Case, ...]]:
    """A bundle's folder and spec, and the cases of a data folder (of one task, or all).

    Raises:
        BundleError, DataError: see what they say. UsageError: the data has no such task.
    """
    folder = find_bundle(bundle)
    spec = load_spec(folder)
    cases = limited(read_cases(data, image_mpp=image_mpp or spec.mpp), limit)
    chosen = tuple(case for case in cases if task in {None, case.task})
    if not chosen:
        msg = f"{data} has no task {task!r}; it has {', '.join(tasks_of(cases))}"
        raise UsageError(msg)
    return folder, spec, chosen


def evaluate(
    folder: Path, cases: Sequence[Case], *, mode: Mode = "ensemble", device: str = "auto", fp32: bool = False
) -> list[Score]:
    """Score every case: by the folds' mean, by each fold, or by the folds that never saw its patient.

    Raises:
        DataError: held-out is asked of a bundle without the record of its training, or no case is.
    """
    spec = load_spec(folder)
    predictor = load_ensemble(folder, device=device, fp32=fp32)
    samples = load_samples(cases, mpp=spec.canvas_mpp, kernel=spec.resample)
    if mode == "ensemble":
        return list(judge(predictor, samples, fold="ensemble", threshold=spec.threshold))
    names = [fold.file.removeprefix("fold-").removesuffix(".safetensors") for fold in spec.folds]
    seen = _seen(folder, names) if mode == "held-out" else {name: set[tuple[str, str]]() for name in names}
    found: list[Score] = []
    for number, name in enumerate(names):
        unseen = [sample for sample in samples if sample.case.group not in seen[name]]
        found.extend(judge(_only(predictor, number), unseen, fold=name, threshold=spec.threshold))
    if not found:
        msg = f"every fold of {folder} was trained on every one of these cases: nothing is held out"
        raise DataError(msg)
    return found


def as_json(scores: Sequence[Score], bundle: str, mode: Mode) -> dict[str, Any]:
    """The numbers of an evaluation, of all images and under ``domains``."""
    domains = {domain: asdict(found) for domain, found in by_domain(scores).items()}
    return {"bundle": bundle, "mode": mode, **asdict(summary(scores)), "domains": domains}


def _seen(folder: Path, names: Sequence[str]) -> dict[str, set[tuple[str, str]]]:
    record = read_run(folder)
    if record is None or not set(names) <= set(record["trained"]):
        msg = f"{folder} has no record of what its folds were trained on (run/run.json): use --by ensemble"
        raise DataError(msg)
    return {name: {(str(d), str(p)) for d, p in record["trained"][name]} for name in names}


def _only(predictor: Predictor, fold: int) -> Predictor:
    return lambda rgb_BYX3, /: predictor(rgb_BYX3)[fold : fold + 1]
