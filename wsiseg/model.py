"""Networks: built by smp, kept as safetensors, run as an ensemble of folds.

The network carries its own normalisation, so a caller hands over plain uint8 RGB. Mix
Transformer attention goes through ``scaled_dot_product_attention``: the same weights and
the same numbers (to fp32 rounding) in a fraction of the memory traffic.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segmentation_models_pytorch.encoders.mix_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional

from wsiseg.bundle import PICKLES, BundleSpec, load_spec, verify_files
from wsiseg.device import arithmetic, cast_once, choose_device, half_precision, is_want_of_memory
from wsiseg.errors import BundleError, DeviceError
from wsiseg.fold_stats import fold_stats
from wsiseg.machine import cores
from wsiseg.one_launch import InCudaGraphs, OneLaunch
from wsiseg.spread import NO_NUMBERS

__all__ = [
    "Network",
    "Predictor",
    "TorchPredictor",
    "build_network",
    "load_ensemble",
    "only_to_predict",
    "save_fold",
]

log = logging.getLogger(__name__)


class Predictor(Protocol):
    """Something that gives each fold's tumour probability; the pipeline knows no more of it."""

    def __call__(self, rgb_BYX3: npt.NDArray[np.uint8], /) -> npt.NDArray[np.float32]:
        """Probabilities (F, B, Y, X) in 0 … 1 for RGB patches (B, Y, X, 3)."""


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
    fetched = "imagenet" if encoder_weights == "imagenet" else None
    try:
        body = smp.FPN(encoder, encoder_weights=fetched, classes=1)
    except (KeyError, ValueError) as error:
        msg = f"no encoder {encoder!r} with weights {fetched!r} in segmentation-models-pytorch: {error}"
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


class TorchPredictor:
    """The folds of a bundle on one device: RGB patches in, one probability map per fold out.

    On a CPU each forward pass takes one patch, one fold and one core, and ``at_once`` of them
    run side by side: neither the batch nor the number of cores can then move a bit of the
    result (decision 0004). On a GPU a batch that does not fit is halved and stays halved, and what
    is asked of all folds together is one launch.
    """

    def __init__(
        self,
        networks: list[Network],
        device: torch.device,
        *,
        batch: int,
        fp32: bool,
        temperature: float = 1.0,
    ) -> None:
        self.networks = [network.to(device).eval() for network in networks]
        self.device = device
        self.batch = 1 if device.type == "cpu" else batch
        self.half = half_precision(device) and not fp32
        self.temperature = temperature
        self.at_once = cores() if device.type == "cpu" else 1
        self._launch = OneLaunch(device, InCudaGraphs())

    @property
    def numerics(self) -> str:
        """The arithmetic in words, such as ``"cpu bfloat16"``: other arithmetic, other bits."""
        return arithmetic(self.device, half=self.half)

    def __call__(self, rgb_BYX3: npt.NDArray[np.uint8], /) -> npt.NDArray[np.float32]:
        """Probabilities (F, B, Y, X) float32 for uint8 RGB patches (B, Y, X, 3).

        Raises:
            DeviceError: not even one patch fits into the device's memory.
        """
        prob_FBYX = np.empty((len(self.networks), *rgb_BYX3.shape[:3]), np.float32)
        if self.device.type == "cpu":
            self._on_cores(rgb_BYX3, prob_FBYX)
        else:
            self._in_batches(rgb_BYX3, prob_FBYX, lambda rgb: self._forward(rgb, self.networks))
        return prob_FBYX

    @property
    def sums_up(self) -> bool:
        """Whether ``stats`` is the better thing to ask for: where the network is far from the memory."""
        return self.device.type == "cuda"

    def stats(self, rgb_BYX3: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The folds' mean and disagreement (2, B, Y, X) uint8, as ``fold_stats`` makes them on the device.

        Raises:
            DeviceError: not even one patch fits into its memory, or the network gives no numbers.
        """
        stats_CBYX = np.empty((2, *rgb_BYX3.shape[:3]), np.uint8)
        self._in_batches(rgb_BYX3, stats_CBYX, self._summed_up)
        return stats_CBYX

    def _all_folds(self, rgb_BYX3: Tensor) -> tuple[Tensor, Tensor]:
        return fold_stats(self._forward(rgb_BYX3, self.networks))

    def _summed_up(self, rgb_BYX3: Tensor) -> Tensor:
        stats_CBYX, broken = self._launch(self._all_folds, rgb_BYX3)
        if bool(broken):
            raise DeviceError(NO_NUMBERS)
        return stats_CBYX

    def _in_batches(
        self, rgb_BYX3: npt.NDArray[np.uint8], into_CBYX: npt.NDArray[Any], ask: Callable[[Tensor], Tensor]
    ) -> None:
        """Fill in the answers to the patches, batch by batch."""
        start = 0
        while start < len(rgb_BYX3):
            some = slice(start, min(start + self.batch, len(rgb_BYX3)))
            try:
                into_CBYX[:, some] = ask(_tensor(rgb_BYX3[some])).cpu().numpy()
                start = some.stop
                continue
            except RuntimeError as error:
                if not is_want_of_memory(error):
                    raise
                log.debug("out of memory", exc_info=True)
            self._halve(some.stop - start)  # after the error, which holds what was computed so far

    def _on_cores(self, rgb_BYX3: npt.NDArray[np.uint8], prob_FBYX: npt.NDArray[np.float32]) -> None:
        """Fill in each fold's answer to each patch, one core for each."""

        def filled(place: tuple[int, int]) -> None:
            fold, patch = place
            prob_FBYX[fold, patch] = self.one(fold, rgb_BYX3[patch])

        with ThreadPoolExecutor(self.at_once, thread_name_prefix="wsiseg-forward") as pool:
            list(pool.map(filled, np.ndindex(*prob_FBYX.shape[:2])))

    def one(self, fold: int, rgb_YX3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """A fold's probabilities (Y, X) for one patch (Y, X, 3) uint8, on one core."""
        torch.set_num_threads(1)  # holds for the calling thread only
        return self._forward(_tensor(rgb_YX3[None]), [self.networks[fold]])[0, 0].numpy()

    def close(self) -> None:
        """Give back the memory of the device that is held for the next batch."""
        self._launch.close()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _halve(self, tried: int) -> None:
        """Take half of what was tried from now on: a block may hold fewer patches than a batch may."""
        if tried == 1:
            msg = f"one patch does not fit into the memory of {self.device}: free it, or use --device cpu"
            raise DeviceError(msg)
        self.batch = tried // 2
        log.warning("out of memory on %s: going on with batches of %d", self.device, self.batch)
        torch.cuda.empty_cache()

    def _forward(self, rgb_BYX3: Tensor, networks: list[Network]) -> Tensor:
        """Probabilities (F, B, Y, X), still on the device."""
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            rgb = rgb_BYX3.to(self.device).permute(0, 3, 1, 2)
            return torch.stack([torch.sigmoid(network(rgb) / self.temperature) for network in networks])


def _tensor(rgb_BYX3: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rgb_BYX3))


def load_ensemble(
    folder: Path, *, device: str = "auto", batch: int = 1, fp32: bool = False, folds: int | None = None
) -> TorchPredictor:
    """The predictor of a bundle; its weights' hashes are checked before they are used.

    Args:
        folder: the bundle's folder.
        device: see ``choose_device``.
        batch: patches per forward pass on a GPU.
        fp32: never use bfloat16.
        folds: use only the first so many folds.

    Raises:
        BundleError: the bundle is damaged. DeviceError: the device is not there.
    """
    spec = load_spec(folder)
    verify_files(folder, spec)
    networks = [_fold(spec, folder / fold.file) for fold in spec.folds[:folds]]
    chosen = choose_device(device)
    predictor = TorchPredictor(networks, chosen, batch=batch, fp32=fp32, temperature=spec.temperature)
    return only_to_predict(predictor)


def only_to_predict(predictor: TorchPredictor) -> TorchPredictor:
    """The same predictor, made ready on a GPU for networks that will not learn any more."""
    if predictor.device.type == "cuda" and predictor.half:
        for network in predictor.networks:
            cast_once(network)
    elif predictor.device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # convolutions would take it for float32
    return predictor


def _fold(spec: BundleSpec, path: Path) -> Network:
    network = build_network(spec.encoder, mean=spec.mean, std=spec.std)
    load_fold(network, path)
    return network
