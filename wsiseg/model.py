"""Networks: built by smp, kept as safetensors.

The network carries its own normalisation, so a caller hands over plain uint8 RGB. Mix
Transformer attention goes through ``scaled_dot_product_attention``: the same weights and
the same numbers (to fp32 rounding) in a fraction of the memory traffic.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segmentation_models_pytorch.encoders.mix_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional

from wsiseg.bundle import PICKLES
from wsiseg.errors import BundleError

__all__ = ["Network", "build_network", "load_fold", "save_fold"]


class _Attention(Attention):  # type: ignore[misc]  # smp is untyped
    """smp's efficient self-attention (SegFormer, section 3.1), its products through SDPA."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        batch, tokens, channels = x.shape
        source = x
        if self.sr_ratio > 1:
            grid = x.transpose(1, 2).reshape(batch, channels, height, width)
            source = self.norm(self.sr(grid).flatten(2).transpose(1, 2))
        query = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.kv(source).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=self.scale
        )
        return cast(
            "Tensor", self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(batch, tokens, channels)))
        )


class Network(nn.Module):
    """An smp network with its normalisation inside.

    Takes RGB (B, 3, Y, X) in 0 … 255, uint8 or float; gives tumour logits (B, Y, X) float32.
    """

    def __init__(self, body: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.body = body
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        """Logits (B, Y, X) of RGB (B, 3, Y, X) in 0 … 255."""
        normal = ((rgb - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return cast("Tensor", self.body(normal)[:, 0].float())


def build_network(
    encoder: str,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    encoder_weights: str | None = None,
) -> Network:
    """A Feature Pyramid Network over any smp encoder, with one output class.

    ``encoder_weights`` is None (random; at inference always, for smp would ask its hub),
    ``"imagenet"`` (fetched by smp), or the path of a safetensors file: an encoder's state
    dict, or a whole network saved by ``save_fold``, of which the encoder is taken.

    Raises:
        BundleError: smp has no such encoder, or the weights do not fit it.
    """
    theirs = encoder.startswith("tu-") or "imagenet"  # timm's encoders want True
    fetched = theirs if encoder_weights == "imagenet" else None
    try:
        body = smp.FPN(encoder, encoder_weights=fetched, classes=1)
    except (KeyError, ValueError, RuntimeError) as error:  # timm's, where no such weights were ever made
        msg = (
            f"no encoder {encoder!r} with weights {encoder_weights!r} in segmentation-models-pytorch: {error}"
        )
        raise BundleError(msg) from error
    except OSError as error:
        msg = f"the ImageNet weights of {encoder} cannot be fetched: go online once, or give a file or none"
        raise BundleError(msg) from error
    if encoder_weights not in {None, "imagenet"}:
        path = Path(str(encoder_weights))
        tensors = _read_tensors(path)
        prefix = "encoder."
        whole = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        _load(body.encoder, whole or tensors, path)
    for module in body.modules():
        if type(module) is Attention:
            module.__class__ = _Attention
    return Network(body, mean, std).to(memory_format=torch.channels_last)


def save_fold(network: Network, path: Path) -> str:
    """Write a network's weights as fp16 safetensors, whole or not at all; return the sha256 (hex)."""
    state = network.body.state_dict()
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in state.items()}
    partial = path.with_name(path.name + ".partial")
    save_file(half, partial)
    partial.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_fold(network: Network, path: Path) -> None:
    """Fill a network with the weights that ``save_fold`` wrote.

    Raises:
        BundleError: the file is no safetensors file, or its tensors do not fit.
    """
    _load(network.body, _read_tensors(path), path)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix in PICKLES:
        msg = f"{path} looks like a pickle, which can run any code; convert it to .safetensors first"
        raise BundleError(msg)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        msg = f"{path} cannot be read as safetensors: {error}"
        raise BundleError(msg) from error


def _load(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        msg = f"the weights in {path} are of another network: {str(error).splitlines()[1].strip()}"
        raise BundleError(msg) from error
