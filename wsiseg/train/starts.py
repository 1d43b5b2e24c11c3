"""Where each fold's weights begin, and that they have not seen what the fold is judged by."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from wsiseg.bundle import find_bundle, load_spec, verify_files
from wsiseg.errors import BundleError, DataError
from wsiseg.train.folds import Fold
from wsiseg.train.records import read_learnt

__all__ = ["Start", "read_about", "starting_weights"]

log = logging.getLogger(__name__)


Groups = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Start:
    """A fold's first weights, and the groups whose labels they have been trained on.

    ``weights`` is a whole network's file; where it is None, ``encoder`` is the encoder's alone
    (a file, ``imagenet``, or None: random).
    """

    weights: Path | None = None
    seen: Groups = frozenset()
    encoder: str | None = None


def starting_weights(init_from: Path | None, folds: Sequence[Fold], encoder_weights: str) -> list[Start]:
    """The weights each fold starts from: those of the bundle's fold of that name, else its folds in turn.

    Folds that leave a domain out bear its name, so that the weights have not seen that domain either.

    ``encoder_weights`` is the recipe's; its ``{fold}`` stands for the fold's name.

    Raises:
        DataError: weights have been trained on patients that the fold is judged by.
        BundleError: a file is damaged or no safetensors file.
    """
    if init_from is None:
        return [_encoder_start(encoder_weights.replace("{fold}", fold.name), fold) for fold in folds]
    source = find_bundle(init_from)
    spec = load_spec(source)
    verify_files(source, spec)
    if read_learnt(source) is None:
        log.warning("%s has no record of its training: check yourself that it saw no validation case", source)
    starts: list[Start] = []
    for number, fold in enumerate(folds):
        named = spec.fold_names.index(fold.name) if fold.name in spec.fold_names else number
        file = spec.folds[named % len(spec.folds)].file
        seen = _learnt(source, file.removeprefix("fold-").removesuffix(".safetensors"))
        _refuse_leak(source / file, fold, seen)
        starts.append(Start(source / file, seen))
    return starts


def read_about(path: Path) -> dict[str, Any]:
    """What ``wsiseg pretrain`` wrote into an encoder's file about its making; empty for other files.

    Raises:
        BundleError: it is no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get("wsiseg", "{}"))
    except (OSError, SafetensorError) as error:
        msg = f"{path} cannot be read as safetensors ({error}); nothing else is taken, least of all a pickle"
        raise BundleError(msg) from error
    return about


def _encoder_start(given: str, fold: Fold) -> Start:
    """The encoder of a file: from a pretraining, or of a network that was trained here."""
    if given in {"none", "imagenet"}:
        return Start(encoder=None if given == "none" else given)
    path = Path(given)
    unlabelled = {(str(dataset), str(patient)) for dataset, patient in read_about(path).get("seen", [])}
    looked_at = sum(case.group in unlabelled for case in fold.valid)
    if looked_at:
        log.warning(
            "%s has seen %d of fold %s's validation images, without their labels: its scores may be too good",
            path,
            looked_at,
            fold.name,
        )
    fold_folder = path.parent.name.startswith("fold-")  # BUNDLE/run/fold-1/best.safetensors
    bundle, name = (path.parent / "../..", path.parent.name) if fold_folder else (path.parent, path.stem)
    seen = _learnt(bundle, name.removeprefix("fold-"))
    _refuse_leak(path, fold, seen)
    return Start(seen=seen, encoder=given)


def _refuse_leak(path: Path, fold: Fold, seen: Groups) -> None:
    joined = set(map("/".join, seen))
    leaked = sorted(case.key for case in fold.valid if "/".join(case.group) in joined)
    if leaked:
        msg = (
            f"{path} was trained on {len(leaked)} of fold {fold.name}'s validation patients' "
            f"images (such as {leaked[0]}): start from weights of the same --seed and --folds"
        )
        raise DataError(msg)


def _learnt(bundle: Path, fold: str) -> Groups:
    pairs = (group.partition("/") for group in (read_learnt(bundle) or {}).get(fold, ()))
    return frozenset((dataset, patient) for dataset, _, patient in pairs)
