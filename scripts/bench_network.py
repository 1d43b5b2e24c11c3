"""Measure the network: beside plain smp in float32, alone, and with slides read and written around it.

    python scripts/bench_network.py                                     # mit_b0, one fold, this CPU
    python scripts/bench_network.py --engine openvino                   # likewise, with the extra openvino
    python scripts/bench_network.py --device cuda --encoder mit_b0 --encoder mit_b2 --folds 1 --folds 5
    python scripts/bench_network.py --device cuda --slide slide.svs
    python scripts/bench_network.py --stand-in 20 --stand-in 40 --slide slide.svs

Weights are random: what is computed does not depend on them. Per encoder and number of folds: patches a
second of the network alone, TFLOP/s beside what one large matrix product reaches on the device, and how
many times faster than the same network as smp has it, in float32, in the same run. With ``--slide``
also patches a second of a whole run over that slide, and what share of the network's own rate that is.
On a CPU processor time is compared, of one core for each forward pass, so a busy machine harms little.
``--stand-in`` measures the same share with a device that takes so many ms for a patch and nothing of the
processor, as a GPU does: whether this machine's cores would keep one of that speed busy.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from segmentation_models_pytorch.encoders.mix_transformer import Attention
from torch.utils.flop_counter import FlopCounterMode

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.device import choose_device
from wsiseg.ensemble import TorchPredictor, only_to_predict
from wsiseg.model import Network, build_network
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.pipeline import predicted, timed
from wsiseg.run import Batch, SlideInput
from wsiseg.vino import on_engine

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WHOLE_SLIDE_PATCHES = round(0.3 * 100_000 * 80_000 / (768 * 1500 / 1024) ** 2)
"""Patches of a slide of 100,000 x 80,000 px at 0.5 um of which 30 % are tissue, its rims left out."""
COARSE = 32
MATRIX = {"cuda": 8192, "cpu": 2048, "mps": 4096}


@dataclass(frozen=True, eq=False)
class Ready:
    """A recipe that hands out a predictor."""

    predictor: "TorchPredictor | StandIn"

    def __call__(self) -> Any:
        """The predictor."""
        return self.predictor


@dataclass(frozen=True, eq=False)
class StandIn:
    """A device that takes so long for a patch, and nothing of the processor; tumour is what is dark."""

    ms_per_patch: float
    sums_up: ClassVar[bool] = True

    def stats(
        self, rgb_BYX3: npt.NDArray[np.uint8], turn: AbstractContextManager[object]
    ) -> npt.NDArray[np.uint8]:
        """Wait for as long as it would take."""
        with turn:
            time.sleep(self.ms_per_patch / 1000 * len(rgb_BYX3))
        dark_BYX = 255 - rgb_BYX3[:, ::COARSE, ::COARSE, 1]
        mean_BYX = dark_BYX.repeat(COARSE, axis=1).repeat(COARSE, axis=2)
        return np.stack([mean_BYX, np.zeros_like(mean_BYX)])


def plain(network: Network) -> Network:
    """The same network as smp has it: attention written out, memory not channels-last."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, Attention):
            module.__class__ = Attention
    return network.to(memory_format=torch.contiguous_format)


def seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The shortest of some rounds, after one to warm up; on a CPU its processor time."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    taken = []
    for _ in range(rounds + 1):
        _finish(device)
        start = clock()
        work()
        _finish(device)
        taken.append(clock() - start)
    return min(taken[1:])


def own_seconds(predictor: TorchPredictor, rgb_BYX3: npt.NDArray[np.uint8], rounds: int) -> float:
    """The same for patches; on a GPU only while they compute, for their way there and back is beside that."""
    if predictor.device.type == "cpu":
        return seconds(lambda: predictor(rgb_BYX3), predictor.device, rounds)
    taken: list[float] = []
    for _ in range(rounds + 1):
        own: dict[str, float] = {}
        predicted(predictor, rgb_BYX3, timed(own, "network"))
        taken.append(own["network"])
    return min(taken[1:])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """What one large product of square matrices reaches."""
    side = MATRIX[device.type]
    one = torch.randn(side, side, device=device, dtype=dtype)
    return float(2 * side**3 / seconds(lambda: one @ one, device, 3) / 1e12)


def gflop(network: Network, side: int) -> float:
    """Multiplications and additions of one patch, counted."""
    meta = plain(network).to("meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        meta(torch.empty((1, 3, side, side), device="meta"))
    return float(counter.get_total_flops() / 1e9)


def measure(encoder: str, folds: int, given: argparse.Namespace) -> dict[str, Any]:
    """The rates of one encoder with so many folds."""
    torch.manual_seed(0)
    device = choose_device(given.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    networks = [build_network(encoder, mean=MEAN, std=STD) for _ in range(folds)]
    bare, work = plain(networks[0]).to(device).eval(), gflop(networks[0], given.side)
    on_torch = only_to_predict(TorchPredictor(networks, device, batch=given.batch, fp32=given.fp32))
    predictor = on_engine(on_torch, given.engine)
    count = predictor.at_once if device.type == "cpu" else given.batch
    noise_BYX3 = np.random.default_rng(0).integers(0, 256, (count, given.side, given.side, 3), np.uint8)
    there = torch.from_numpy(noise_BYX3 if device.type != "cpu" else noise_BYX3[:1]).to(device)

    def as_smp_has_it() -> None:
        with torch.inference_mode():
            torch.sigmoid(bare(there.permute(0, 3, 1, 2)))

    ours_s = own_seconds(predictor, noise_BYX3, given.rounds) / count
    plain_s = seconds(as_smp_has_it, device, given.rounds) / (1 if device.type == "cpu" else count)
    at_once = predictor.at_once
    dtype = torch.bfloat16 if predictor.half else torch.float32
    rate = at_once / ours_s
    found: dict[str, Any] = {
        "encoder": encoder,
        "folds": folds,
        "numerics": predictor.numerics,
        "gflop_per_patch_and_fold": work,
        "ms_per_patch": 1000 * ours_s,
        "patches_per_s": rate,
        "plain_smp_fp32_ms_per_patch_and_fold": 1000 * plain_s,
        "times_faster_than_plain": folds * plain_s / ours_s,
        "tflops": at_once * folds * work / ours_s / 1000,
        "matrix_tflops": at_once * matrix_tflops(device, dtype),
        "slides_per_hour_network_only": 3600 * rate / WHOLE_SLIDE_PATCHES,
    }
    return found | (end_to_end(predictor, folds, given, rate) if given.slide else {})


def end_to_end(
    predictor: TorchPredictor | StandIn, folds: int, given: argparse.Namespace, alone: float
) -> dict[str, Any]:
    """Patches a second of a run over the slide, reading, writing and outlining included."""
    files = tuple(FoldFile(file=f"fold-{n}.safetensors", sha256=f"{n:064}") for n in range(folds))
    spec = BundleSpec(name="random", encoder="mit_b0", folds=files, licence="none", trained_on="nothing")
    options = MapOptions(
        device="cuda" if isinstance(predictor, StandIn) else given.device,
        batch=given.batch,
        block=given.block,
        threads=given.readers,
        slide_mpp=given.slide_mpp,
    )
    with tempfile.TemporaryDirectory() as out:
        batch = Batch(Path(out), options, PolygonOptions(), model=(spec, Ready(predictor)))
        (outcome,) = batch.run([SlideInput(given.slide, "slide", mpp=given.slide_mpp)], lambda *_: None)
    if outcome.manifest is None:
        raise SystemExit(outcome.reason)
    took, patches = outcome.manifest.seconds, outcome.manifest.counts.patches
    whole = patches / took["blocks"]
    return {
        "patches": patches,
        "end_to_end_patches_per_s": whole,
        "end_to_end_of_network_only": whole / alone,
        "device_idle": outcome.manifest.device_idle,
        "slides_per_hour": 3600 * whole / WHOLE_SLIDE_PATCHES,
        "seconds": took,
    }


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rates of each encoder with each number of folds."""
    for encoder in given.encoder or ["mit_b0"]:
        for folds in given.folds or [1]:
            yield measure(encoder, folds, given)


def stood_in(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what a run over the slide takes with devices that only take their time."""
    for ms in given.stand_in:
        yield {"stand_in_ms_per_patch": ms} | end_to_end(StandIn(ms), 1, given, 1000 / ms)


def main() -> None:
    """Read the options, measure each pair, print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--encoder", action="append", help="may be given several times; mit_b0 by default")
    parser.add_argument("--folds", action="append", type=int, help="likewise; 1 by default")
    parser.add_argument("--side", type=int, default=1024, help="pixels of a patch")
    parser.add_argument("--batch", type=int, default=8, help="patches a forward pass, on a GPU")
    parser.add_argument("--block", type=int, default=2)
    parser.add_argument("--readers", type=int, help="blocks in flight; as wsiseg chooses by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fp32", action="store_true", help="no bfloat16")
    parser.add_argument("--engine", choices=["auto", "torch", "openvino"], default="auto", help="on a CPU")
    parser.add_argument("--slide", type=Path, help="a slide to run over from end to end")
    parser.add_argument("--slide-mpp", type=float)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--stand-in", action="append", type=float, metavar="MS", help="may be given again")
    given = parser.parse_args()
    if given.stand_in and not given.slide:
        parser.error("--stand-in is for a run over a slide: give --slide")
    every = []
    for found in stood_in(given) if given.stand_in else measured(given):
        every.append(found)
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}, indent=1))
    if given.json:
        given.json.write_text(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
