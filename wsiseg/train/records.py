"""What a training writes down, and reads back: ``BUNDLE/run/``, and ``BUNDLE/learnt.json``.

``run/run.json`` (strategy, recipe, cases and folds, versions), and for each fold
``run/fold-<name>/{metrics.jsonl, scores.csv, last.pt, best.safetensors}``. A fold is finished
when it has its ``scores.csv``. ``learnt.json`` goes wherever the weights go: it says which
folds have learnt from which patient, so that anybody can judge them on cases they never saw.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from wsiseg.errors import DataError, OutputError
from wsiseg.train.metrics import Score

__all__ = [
    "LEARNT",
    "read_learnt",
    "read_run",
    "read_scores",
    "run_folder",
    "write_learnt",
    "write_run",
    "write_scores",
    "write_text",
]

LEARNT = "learnt.json"

COLUMNS = [field.name for field in fields(Score)]


def run_folder(bundle: Path) -> Path:
    """Where a bundle's training keeps its records."""
    return bundle / "run"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: the disk does not take it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        msg = f"{path} cannot be written ({error.strerror}): choose another folder or free some space"
        raise OutputError(msg) from error


def write_run(bundle: Path, record: dict[str, Any]) -> None:
    """Write ``run.json``."""
    write_text(run_folder(bundle) / "run.json", json.dumps(record, indent=1) + "\n")


def read_run(bundle: Path) -> dict[str, Any] | None:
    """The record of a bundle's training; None where there is none.

    Raises:
        DataError: it is damaged.
    """
    path = run_folder(bundle) / "run.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} is damaged ({error}): remove it, and train again with --overwrite"
        raise DataError(msg) from error
    if not isinstance(record, dict) or not record:
        msg = f"{path} records no training: remove it, and train again with --overwrite"
        raise DataError(msg)
    return record


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write scores as CSV, with Dice and Jaccard beside the counts they come from."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*COLUMNS, "dice", "jaccard"])
    rows.writerows((*astuple(s), f"{s.dice:.6f}", f"{s.jaccard:.6f}") for s in scores)
    write_text(path, text.getvalue())


def write_learnt(bundle: Path, trained: Mapping[str, Iterable[Sequence[str]]]) -> None:
    """Write ``learnt.json`` from the groups (data set, patient or image) that each fold has seen."""
    folds: dict[str, list[str]] = {}
    for fold in sorted(trained):
        for group in trained[fold]:
            folds.setdefault("/".join(group), []).append(fold)
    lines = ",\n".join(f"  {json.dumps(group)}: {json.dumps(folds[group])}" for group in sorted(folds))
    text = f'{{\n "folds": {json.dumps(sorted(trained))},\n "learnt": {{\n{lines}\n }}\n}}\n'
    write_text(bundle / LEARNT, text)


def read_learnt(bundle: Path) -> dict[str, frozenset[str]] | None:
    """The groups, as ``Score.group`` names them, that each fold's weights have seen.

    From ``learnt.json``, or else from the record of the training; None where there is neither.

    Raises:
        DataError: the file is damaged.
    """
    path = bundle / LEARNT
    if not path.is_file():
        trained = (read_run(bundle) or {}).get("trained")
        try:
            return trained and {fold: frozenset(map("/".join, groups)) for fold, groups in trained.items()}
        except (TypeError, AttributeError) as error:
            msg = f"{run_folder(bundle) / 'run.json'} is damaged ({error!r}): train again with --overwrite"
            raise DataError(msg) from error
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(group, fold) for group, folds in record["learnt"].items() for fold in folds]
        return {name: frozenset(g for g, fold in pairs if fold == name) for name in record["folds"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} is damaged ({error!r}): fetch the bundle again"
        raise DataError(msg) from error


def read_scores(bundle: Path, folds: Sequence[str] | None = None) -> list[Score]:
    """The validation scores of a bundle's finished folds, or of the folds named.

    Raises:
        DataError: there are none, or a file is damaged.
    """
    folder = run_folder(bundle)
    paths = (
        sorted(folder.glob("fold-*/scores.csv"))
        if folds is None
        else [folder / f"fold-{name}" / "scores.csv" for name in folds]
    )
    if not paths:
        msg = f"{bundle} holds no scores: it was not trained here (run/ is missing) or no fold is finished"
        raise DataError(msg)
    found: list[Score] = []
    for path in paths:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                own = [_score(row) for row in csv.DictReader(file)]
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            msg = f"{path} is damaged ({error!r}): remove it, and train again with --resume"
            raise DataError(msg) from error
        if not own:
            msg = f"{path} holds no score: remove it, and train again with --resume"
            raise DataError(msg)
        found += own
    return found


def _score(row: dict[str, str]) -> Score:
    tp, fp, fn = (int(row[name]) for name in ("tp", "fp", "fn"))
    return Score(row["key"], row["task"], row["domain"], row["fold"], tp, fp, fn, row.get("group", ""))
