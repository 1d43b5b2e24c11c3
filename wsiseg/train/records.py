"""What a training writes down, and reads back: ``BUNDLE/run/``.

``run.json`` (strategy, recipe, cases and folds, versions), and for each fold
``fold-<name>/{metrics.jsonl, scores.csv, last.pt, best.safetensors}``. A fold is finished
when it has its ``scores.csv``.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from wsiseg.errors import DataError, OutputError
from wsiseg.train.metrics import Score

__all__ = ["read_run", "read_scores", "run_folder", "write_run", "write_scores", "write_text"]

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
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} is damaged ({error}): train again with --overwrite"
        raise DataError(msg) from error
    return record


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write scores as CSV, with Dice and Jaccard beside the counts they come from."""
    lines = [",".join([*COLUMNS, "dice", "jaccard"])]
    lines += [",".join(map(str, (*astuple(s), f"{s.dice:.6f}", f"{s.jaccard:.6f}"))) for s in scores]
    write_text(path, "\n".join(lines) + "\n")


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
                found.extend(_score(row) for row in csv.DictReader(file))
        except (OSError, KeyError, TypeError, ValueError) as error:
            msg = f"{path} is damaged ({error!r}): train that fold again"
            raise DataError(msg) from error
    return found


def _score(row: dict[str, str]) -> Score:
    counts = (int(row[name]) for name in ("tp", "fp", "fn"))
    return Score(row["key"], row["task"], row["domain"], row["fold"], *counts)
