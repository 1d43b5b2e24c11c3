"""The commands that look at bundles: which there are, what one is, whether it is sound."""
# ruff: noqa: PLC0415  # torch is loaded only when a command runs

import json

import click

from wsiseg.bundle import BundleSpec, bundle_dirs, find_bundle, load_spec, verify_files
from wsiseg.errors import BundleError

__all__ = ["models"]


@click.group()
def models() -> None:
    """List, show and verify model bundles.

    Example: wsiseg models verify adeno-mitb0
    """


@models.command("list")
def list_bundles() -> None:
    """Name every bundle that can be given to --model, with its encoder and folds.

    Example: wsiseg models list
    """
    names = {path.parent.name for root in bundle_dirs() for path in root.glob("*/bundle.json")}
    for name in sorted(names):
        spec = load_spec(find_bundle(name))
        click.echo(f"{name}: {spec.architecture} {spec.encoder}, {len(spec.folds)} folds, {spec.mpp:g} um/px")


@models.command()
@click.argument("bundle")
@click.option("--json", "as_json", is_flag=True, help="Print bundle.json instead of the card.")
def show(bundle: str, *, as_json: bool) -> None:
    """Print a bundle's card: data, licences, scores, limits.

    Example: wsiseg models show adeno-mitb0
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

    Example: wsiseg models verify adeno-mitb0
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

    from wsiseg.model import load_ensemble

    rgb_BYX3 = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
    prob_FBYX = load_ensemble(find_bundle(bundle), device=device)(rgb_BYX3)
    for fold, prob_BYX in zip(spec.folds, prob_FBYX, strict=True):
        if not (prob_BYX.min() >= 0 and prob_BYX.max() <= 1):  # false for what is no number, too
            msg = f"{fold.file} of {spec.name} gives values that are no probabilities; train that fold again"
            raise BundleError(msg)
