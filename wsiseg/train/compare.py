"""The paper's Table 1 from finished runs: rows are tasks, columns strategies, on the same images."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.bundle import load_spec
from wsiseg.errors import DataError
from wsiseg.train.metrics import Score, Summary, by_domain, paired, summary
from wsiseg.train.records import read_run, read_scores
from wsiseg.train.strategies import STRATEGIES

__all__ = ["Run", "as_csv", "as_markdown", "read_runs"]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished training and the scores of its validation images.

    ``recipe`` are its fields as recorded, ``limit`` the cases of each domain it was cut down to,
    ``image_mpp`` the microns per pixel of images of which no manifest says it.
    """

    folder: Path
    strategy: str
    task: str
    scores: Sequence[Score]
    recipe: Mapping[str, object]
    limit: int | None
    leave_domain_out: bool
    image_mpp: float


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these bundle folders, in the order of the paper's columns.

    Raises:
        DataError: a folder holds no finished run or a damaged one, or two are of one strategy and task.
    """
    runs: dict[tuple[str, str], Run] = {}
    for folder in folders:
        run = _read(folder)
        place = (run.task, run.strategy)
        if place in runs:
            msg = f"{folder} and {runs[place].folder} are both {place[1]} on {place[0]}: compare one of them"
            raise DataError(msg)
        runs[place] = run
    order = list(STRATEGIES)
    return sorted(runs.values(), key=lambda run: (run.task, order.index(run.strategy)))


def _read(folder: Path) -> Run:
    record = read_run(folder)
    if record is None or not (folder / "bundle.json").is_file():
        msg = f"{folder} holds no finished training: train it first, or leave it out"
        raise DataError(msg)
    try:
        strategy, recipe = STRATEGIES[record["strategy"]].name, dict(record["recipe"])
        folds = {str(name): set(keys) for name, keys in record["folds"].items()}
        image_mpp = float(record.get("image_mpp") or load_spec(folder).mpp)
        rest: dict[str, Any] = {name: record[name] for name in ("task", "limit", "leave_domain_out")}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"{folder}/run/run.json is damaged ({error!r}): remove it, and train again with --overwrite"
        raise DataError(msg) from error
    scores = read_scores(folder, list(folds))
    for name, keys in folds.items():
        missing = sorted(keys - {score.key for score in scores if score.fold == name})
        if missing:
            msg = (
                f"{folder}/run/fold-{name}/scores.csv lacks {len(missing)} of {len(keys)} images, such as "
                f"{missing[0]}: remove it, and train again with --resume"
            )
            raise DataError(msg)
    return Run(folder=folder, strategy=strategy, scores=scores, recipe=recipe, image_mpp=image_mpp, **rest)


def as_markdown(runs: Sequence[Run]) -> str:
    """Table 1, the paired differences, the domains, and what was run."""
    tasks = sorted({run.task for run in runs})
    names = list(STRATEGIES)
    titles = [STRATEGIES[name].title for name in names]
    at = {(run.task, run.strategy): summary(run.scores) for run in runs}
    text = "# Dice by strategy\n\n"
    text += "| | " + " | ".join(titles) + " |\n|---|" + "---|" * len(names) + "\n"
    for task in tasks:
        best = max(at[task, name].dice_mean for name in names if (task, name) in at)
        cells = [_cell(at.get((task, name)), best) for name in names]
        text += f"| {_row_name(task)} | " + " | ".join(cells) + " |\n"
    text += (
        "\nMean ± standard deviation of Dice over the validation images of all folds, and the 95 % bootstrap "
        "interval of the mean, in percent; whole images, threshold 0.5. Empty truth with empty prediction "
        "counts 1, either one empty alone 0. Intervals draw whole patients (an image of an unknown patient "
        "stands alone, which makes them too narrow).\n"
    )
    return "\n".join([text, _differences(runs), _domains(runs), _recipes(runs)])


def as_csv(runs: Sequence[Run]) -> str:
    """Every summary as rows: task, strategy, domain (``all`` for the whole task) and the numbers."""
    fields = ("n", "dice_mean", "dice_std", "dice_low", "dice_high", "jaccard_mean", "cosas_mean")
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["task", "strategy", "domain", *fields])
    for run in runs:
        for domain, found in {"all": summary(run.scores), **by_domain(run.scores)}.items():
            numbers = [getattr(found, field) for field in fields]
            rows.writerow([run.task, run.strategy, domain, *(round(number, 6) for number in numbers)])
    return text.getvalue()


def _row_name(task: str) -> str:
    """A task as the paper calls it, where it is one of those.

    >>> _row_name("task2"), _row_name("colon")
    ('T2 (task2)', 'colon')
    """
    number = re.fullmatch(r"t(?:ask)?([12])", task)
    return f"T{number[1]} ({task})" if number else task


def _cell(found: Summary | None, best: float | None = None) -> str:
    if found is None:
        return "not run"
    mean = f"{100 * found.dice_mean:.2f} ± {100 * found.dice_std:.2f}"
    mark = "**" if found.dice_mean == best else ""
    return f"{mark}{mean}{mark} ({100 * found.dice_low:.1f} – {100 * found.dice_high:.1f}; n = {found.n})"


def _differences(runs: Sequence[Run]) -> str:
    text = "## Against conventional training, on the same images\n\n"
    text += "| task | strategy | images | difference of Dice | 95 % interval |\n|---|---|---|---|---|\n"
    first = {run.task: run for run in runs if run.strategy == "standard"}
    for run in runs:
        if run.strategy == "standard" or run.task not in first:
            continue
        n, mean, low, high = paired(run.scores, first[run.task].scores)
        numbers = f"{100 * mean:+.2f} | {100 * low:+.2f} … {100 * high:+.2f}" if n else "none shared | "
        text += f"| {run.task} | {STRATEGIES[run.strategy].title} | {n} | {numbers} |\n"
    return text


def _domains(runs: Sequence[Run]) -> str:
    text = "## By domain\n\n"
    text += "| task | domain | strategy | Dice | Jaccard | COSAS score |\n|---|---|---|---|---|---|\n"
    for run in runs:
        for domain, found in by_domain(run.scores).items():
            numbers = f"{_cell(found)} | {100 * found.jaccard_mean:.2f} | {100 * found.cosas_mean:.2f}"
            text += f"| {run.task} | {domain} | {STRATEGIES[run.strategy].title} | {numbers} |\n"
    return text


def _recipes(runs: Sequence[Run]) -> str:
    """What was run; where recipes differ, which run has which value."""
    text = "## What was run\n\n"
    facts = [
        {**run.recipe, "cases a domain": run.limit or "all", "leave domain out": run.leave_domain_out}
        for run in runs
    ]
    for name in facts[0]:
        values = [str(one.get(name)) for one in facts]
        if len(set(values)) == 1:
            text += f"- {name.replace('_', ' ')}: {values[0]}\n"
        else:
            each = (f"{run.folder.name}: {value}" for run, value in zip(runs, values, strict=True))
            text += f"- **{name.replace('_', ' ')} differs**: {', '.join(each)}\n"
    return text
