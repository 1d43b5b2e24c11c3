"""The commands that look at bundles: which there are, what one is, whether it is sound."""
# ruff: noqa: PLC0415  # torch is loaded only when a command runs

import json
from pathlib import Path
from typing import Any

import click

from wsiseg.bundle import BundleSpec, bundle_dirs, find_bundle, load_spec, verify_files
from wsiseg.errors import BundleError

__all__ = ["models"]


@click.group()
def models() -> None:
    """List, show and verify model bundles.

    Example: wsiseg models verify adeno-union
    """


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per bundle.")
def list_bundles(*, as_json: bool) -> None:
    """Name every bundle that can be given to --model, with its size, scores and licence.

    Scores are Dice on held-out images, on domains left out of training, and the tumour found on tissue
    without any (the worst source); none are shown for a bundle that was not judged with these weights.

    Example: wsiseg models list
    """
    names = {path.parent.name for root in bundle_dirs() for path in root.glob("*/bundle.json")}
    for name in sorted(names):
        found = _facts(find_bundle(name))
        if as_json:
            click.echo(json.dumps(found))
            continue
        size = f"{found['folds']} folds, {found['mb']:.0f} MB, {found['mpp']:g} um/px"
        click.echo(f"{name}: {found['network']}, {size}")
        click.echo(f"  {_scores(found)}")
        click.echo(f"  {found['licence']}")


def _facts(folder: Path) -> dict[str, Any]:
    """What is told of a bundle in a list."""
    from wsiseg.train.judgement import headline, read_judgement

    spec = load_spec(folder)
    return {
        "name": spec.name,
        "network": f"{spec.architecture} {spec.encoder}",
        "folds": len(spec.folds),
        "mb": sum(path.stat().st_size for f in spec.folds if (path := folder / f.file).is_file()) / 1e6,
        "mpp": spec.mpp,
        "licence": spec.licence,
        "trained_on": spec.trained_on,
        "scores": headline(read_judgement(folder, spec)),
    }


def _scores(found: dict[str, Any]) -> str:
    scores = found["scores"]
    if not scores:
        return "not judged: see its card"
    parts = [f"Dice {scores['dice_mean']:.3f} held out ({scores['n']} images)"]
    if "left_out" in scores:
        parts.append(f"{scores['left_out']:.3f} on left-out domains")
    if "false" in scores:
        parts.append(f"{scores['false']:.1%} of tumour-free tissue called tumour")
    return ", ".join(parts)


@models.command()
@click.argument("bundle")
@click.option("--json", "as_json", is_flag=True, help="Print bundle.json instead of the card.")
def show(bundle: str, *, as_json: bool) -> None:
    """Print a bundle's card: data, licences, scores, limits.

    Example: wsiseg models show adeno-union
    """
    folder = find_bundle(bundle)
    spec = load_spec(folder)
    card = folder / "README.md"
    if as_json or not card.is_file():
        click.echo(json.dumps(spec.model_dump(), indent=1))
        return
    click.echo(card.read_text(encoding="utf-8"))


@models.command()
@click.argument("bundle")
@click.option("--device", default="cpu", show_default=True, help="Where to try a forward pass.")
def verify(bundle: str, device: str) -> None:
    """Check a bundle: the format, every hash, every tensor's name and shape, and a forward pass.

    Example: wsiseg models verify adeno-union
    """
    folder = find_bundle(bundle)
    spec = load_spec(folder)
    verify_files(folder, spec)
    _try(spec, bundle, device)
    click.echo(f"{spec.name} is sound: {len(spec.folds)} folds, weights {spec.weights_key[:12]}")


def _try(spec: BundleSpec, bundle: str, device: str) -> None:
    """Predict a patch of noise; the folds must give probabilities.

    Raises:
        BundleError: they do not.
    """
    import numpy as np

    from wsiseg.ensemble import load_ensemble

    rgb_BYX3 = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
    prob_FBYX = load_ensemble(find_bundle(bundle), device=device)(rgb_BYX3)
    for fold, prob_BYX in zip(spec.folds, prob_FBYX, strict=True):
        if not (prob_BYX.min() >= 0 and prob_BYX.max() <= 1):  # false for what is no number, too
            msg = f"{fold.file} of {spec.name} gives values that are no probabilities; train that fold again"
            raise BundleError(msg)
