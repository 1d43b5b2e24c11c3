"""Where each fold's weights begin, and that they have not seen what the fold is judged by."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.bundle import find_bundle, load_spec, verify_files
from wsiseg.errors import DataError
from wsiseg.train.folds import Fold
from wsiseg.train.records import read_run

__all__ = ["Start", "starting_weights"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """A fold's first weights (None: the encoder's own), and the groups they have been trained on."""

    weights: Path | None = None
    seen: frozenset[tuple[str, str]] = frozenset()


def starting_weights(init_from: Path | None, folds: Sequence[Fold]) -> list[Start]:
    """The weights each fold starts from; a bundle with fewer folds is gone through in turn.

    Raises:
        DataError: weights have been trained on patients that the fold is judged by.
    """
    if init_from is None:
        return [Start()] * len(folds)
    source = find_bundle(init_from)
    spec = load_spec(source)
    verify_files(source, spec)
    record = read_run(source)
    if record is None:
        log.warning("%s has no record of its training: check yourself that it saw no validation case", source)
    starts: list[Start] = []
    for number, fold in enumerate(folds):
        file = spec.folds[number % len(spec.folds)].file
        seen = _seen(record, file.removeprefix("fold-").removesuffix(".safetensors"))
        leaked = sorted(case.key for case in fold.valid if case.group in seen)
        if leaked:
            msg = (
                f"{source / file} was trained on {len(leaked)} of fold {fold.name}'s validation patients' "
                f"images (such as {leaked[0]}): start from weights of the same --seed and --folds"
            )
            raise DataError(msg)
        starts.append(Start(source / file, seen))
    return starts


def _seen(record: dict[str, Any] | None, fold: str) -> frozenset[tuple[str, str]]:
    found = (record or {}).get("trained", {}).get(fold, [])
    return frozenset((str(dataset), str(patient)) for dataset, patient in found)
