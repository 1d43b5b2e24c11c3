"""The ensemble: a bundle's folds on one device, uint8 patches in, probabilities or their summary out."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsiseg.bundle import BundleSpec, load_spec, verify_files
from wsiseg.device import arithmetic, cast_once, choose_device, half_precision, is_want_of_memory
from wsiseg.errors import DeviceError
from wsiseg.fold_stats import fold_stats
from wsiseg.machine import cores
from wsiseg.model import Network, build_network, load_fold
from wsiseg.one_launch import InCudaGraphs, OneLaunch
from wsiseg.spread import NO_NUMBERS
from wsiseg.transfer import Transfers

__all__ = ["Predictor", "TorchPredictor", "load_ensemble", "only_to_predict"]

log = logging.getLogger(__name__)

BLOCKS_THERE = 2
"""Blocks whose patches are in a GPU's memory: one in work, the next; more would only take its memory."""


class Predictor(Protocol):
    """Something that gives each fold's tumour probability; the pipeline knows no more of it."""

    def __call__(self, rgb_BYX3: npt.NDArray[np.uint8], /) -> npt.NDArray[np.float32]:
        """Probabilities (F, B, Y, X) in 0 … 1 for RGB patches (B, Y, X, 3)."""


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
        self._transfers = Transfers(device)
        self._on_device = threading.BoundedSemaphore(BLOCKS_THERE)

    @property
    def numerics(self) -> str:
        """The arithmetic in words, such as ``"cpu bfloat16"``: other arithmetic, other bits."""
        return arithmetic(self.device, half=self.half)

    def __call__(self, rgb_BYX3: npt.NDArray[np.uint8], /) -> npt.NDArray[np.float32]:
        """Probabilities (F, B, Y, X) float32 for uint8 RGB patches (B, Y, X, 3).

        Raises:
            DeviceError: not even one patch fits into the device's memory.
        """
        if self.device.type == "cpu":
            return self._on_cores(rgb_BYX3)
        answers = self._in_batches(_tensor(rgb_BYX3), lambda rgb: self._forward(rgb, self.networks).cpu())
        return np.concatenate(answers, axis=1)

    @property
    def sums_up(self) -> bool:
        """Whether ``stats`` is the better thing to ask for: where the network is far from the memory."""
        return self.device.type == "cuda"

    def stats(
        self, rgb_BYX3: npt.NDArray[np.uint8], turn: AbstractContextManager[object] | None = None
    ) -> npt.NDArray[np.uint8]:
        """The folds' mean and disagreement (2, B, Y, X) uint8, as ``fold_stats`` makes them on the device.

        The device is taken for ``turn`` while it computes, not while patches go there and answers come back:
        those of one other thread are there before its own turn comes.

        Raises:
            DeviceError: not even one patch fits into its memory, or the network gives no numbers.
        """
        with self._on_device:
            given_BYX3 = self._transfers.up(rgb_BYX3)
            with turn or nullcontext():
                answers = self._in_batches(given_BYX3, self._summed_up)
            del given_BYX3
        return np.concatenate([self._transfers.down(stats_CBYX) for stats_CBYX in answers], axis=1)

    def _all_folds(self, rgb_BYX3: Tensor) -> tuple[Tensor, Tensor]:
        return fold_stats(self._forward(rgb_BYX3, self.networks))

    def _summed_up(self, rgb_BYX3: Tensor) -> Tensor:
        stats_CBYX, broken = self._launch(self._all_folds, rgb_BYX3)
        own_CBYX = stats_CBYX.clone()  # the next replay overwrites it
        if bool(broken):  # waits for all of it
            raise DeviceError(NO_NUMBERS)
        return own_CBYX

    def _in_batches(self, rgb_BYX3: Tensor, ask: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The answers to the patches, batch by batch."""
        answers: list[Tensor] = []
        start = 0
        while start < len(rgb_BYX3):
            some = rgb_BYX3[start : start + self.batch]
            try:
                answers.append(ask(some))
                start += len(some)
                continue
            except RuntimeError as error:
                if not is_want_of_memory(error):
                    raise
                log.debug("out of memory", exc_info=True)
            self._halve(len(some))  # after the error, which holds what was computed so far
        return answers

    def _on_cores(self, rgb_BYX3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Each fold's answer to each patch, one core for each."""
        prob_FBYX = np.empty((len(self.networks), *rgb_BYX3.shape[:3]), np.float32)

        def filled(place: tuple[int, int]) -> None:
            fold, patch = place
            prob_FBYX[fold, patch] = self.one(fold, rgb_BYX3[patch])

        with ThreadPoolExecutor(self.at_once, thread_name_prefix="wsiseg-forward") as pool:
            list(pool.map(filled, np.ndindex(*prob_FBYX.shape[:2])))
        return prob_FBYX

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
