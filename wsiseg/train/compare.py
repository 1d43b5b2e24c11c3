"""The paper's Table 1 from finished runs: rows are tasks, columns strategies, on the same images."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsiseg.errors import DataError
from wsiseg.train.metrics import Score, Summary, by_domain, paired, summary
from wsiseg.train.records import read_run, read_scores
from wsiseg.train.strategies import STRATEGIES

__all__ = ["Run", "as_csv", "as_markdown", "read_runs"]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished training and the scores of its validation images.

    ``recipe`` are its fields as recorded, ``limit`` the cases of each domain it was cut down to.
    """

    folder: Path
    strategy: str
    task: str
    scores: Sequence[Score]
    recipe: Mapping[str, object]
    limit: int | None
    leave_domain_out: bool


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these bundle folders, in the order of the paper's columns.

    Raises:
        DataError: a folder holds no finished run, or two are of one strategy and task.
    """
    runs: dict[tuple[str, str], Run] = {}
    for folder in folders:
        record = read_run(folder)
        if record is None or not (folder / "bundle.json").is_file():
            msg = f"{folder} holds no finished training: train it first, or leave it out"
            raise DataError(msg)
        place = (record["task"], record["strategy"])
        if place in runs:
            msg = f"{folder} and {runs[place].folder} are both {place[1]} on {place[0]}: compare one of them"
            raise DataError(msg)
        scores = read_scores(folder, list(record["folds"]))
        runs[place] = Run(
            folder,
            place[1],
            place[0],
            scores,
            record["recipe"],
            record["limit"],
            record["leave_domain_out"],
        )
    order = list(STRATEGIES)
    return sorted(runs.values(), key=lambda run: (run.task, order.index(run.strategy)))


def as_markdown(runs: Sequence[Run]) -> str:
    """Table 1, the paired differences, the domains, and what was run."""
    tasks = sorted({run.task for run in runs})
    names = list(STRATEGIES)
    titles = [STRATEGIES[name].title for name in names]
    at = {(run.task, run.strategy): summary(run.scores) for run in runs}
    text = "# Dice by strategy\n\n"
    text += "| | " + " | ".join(titles) + " |\n|---|" + "---|" * len(names) + "\n"
    for number, task in enumerate(tasks, 1):
        best = max(at[task, name].dice_mean for name in names if (task, name) in at)
        cells = [_cell(at.get((task, name)), best) for name in names]
        text += f"| T{number} ({task}) | " + " | ".join(cells) + " |\n"
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
