"""How long a slide will take: from what patches took on this device, and reading took on this slide.

The first forecast for a device, network and precision runs patches of noise for some seconds and keeps
what they took in ``$XDG_CACHE_HOME/wsiseg/rates.json`` (``~/.cache``); later ones look it up. On a
CPU processor time is measured and not the clock, so that a busy machine is forecast as an idle one; but
cores that share their caches with other work are slower by it, so what a busy one took is not kept.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from wsiseg.errors import OutputError, SlideReadError
from wsiseg.geometry import L0, Box
from wsiseg.machine import cores, gpu_name, processor_name, takes_openvino, visible_gpus
from wsiseg.manifest import write_whole
from wsiseg.options import MapOptions
from wsiseg.pipeline import Predict, predicted, timed
from wsiseg.plan import Plan
from wsiseg.resample import resize
from wsiseg.shrink import shrinks
from wsiseg.slide import Slide
from wsiseg.tissue import OVERVIEW_DOWNSAMPLE

__all__ = ["Device", "blocks_in_flight", "network_rate", "read_rate", "seconds_of"]

log = logging.getLogger(__name__)

REST_S, REST_OF_FOLD_S = 0.015, 0.0015
"""Processor time of all but reading and the network, per canvas Mpx, and a fold's share (measured)."""
READ_S = 0.008
"""Processor time of reading and resampling a Mpx of a level, where the slide does not show it (measured)."""
SHRUNK = 0.25
"""What ``shrink`` takes of the time of Pillow, by which a slide is seen from afar (decision 13)."""
BUSY = 1.3
"""A pass has a core to itself; where it takes so many times its processor's time, others want that core."""
SIDE_PX = 1500
"""Pixels of a coarse level, along an axis, that are read to see how fast that goes."""
IN_FLIGHT, MOST_IN_FLIGHT = 3, 8
"""Blocks in flight: on a CPU, which reads and computes in turn, and at most on a GPU, which would wait."""
TWICE = 1.05
"""So much more than the cores of patches is read: the slide's rim, and what no neighbour had kept."""


@dataclass(frozen=True, slots=True)
class Device:
    """What will compute: the name of a GPU or of the processor, and the cores that may be used."""

    name: str
    on_gpu: bool
    cores: int

    @classmethod
    def of(cls, options: MapOptions) -> "Device":
        """The device that options mean, told without loading torch."""
        kind = options.device
        if kind == "auto":
            on_cuda = visible_gpus() and not version("torch").endswith("+cpu")
            kind = "cuda" if on_cuda else "mps" if sys.platform == "darwin" else "cpu"
        name = gpu_name(kind) if kind.startswith("cuda") else processor_name()
        return cls(name if kind != "mps" else f"{name} GPU", kind != "cpu", cores())


def blocks_in_flight(options: MapOptions, processes: int = 1) -> int:
    """How many blocks each of so many processes of this machine has in work: what was chosen, or will do."""
    if options.threads is not None:
        return options.threads
    device = Device.of(options)
    return max(IN_FLIGHT, min(device.cores // processes, MOST_IN_FLIGHT)) if device.on_gpu else IN_FLIGHT


def seconds_of(
    patches: int, plan: Plan, options: MapOptions, *, network_s: float, read_s: float | None
) -> float:
    """Seconds for so many patches, given those of a patch and fold and those of reading a level's Mpx.

    A GPU works while the processor reads and writes, so the slower of the two counts; on a CPU they
    share the cores. With no ``read_s`` it is the network's time alone.
    """
    device, factor, level = Device.of(options), plan.scale.factor, _level(plan)
    canvas_mpx = patches * plan.grid.core**2 / 1e6
    rest_s = REST_S + REST_OF_FOLD_S * (1 if device.on_gpu else len(plan.spec.folds))  # it sums them up
    core_s = 0.0 if read_s is None else canvas_mpx * (read_s * TWICE * (factor / level) ** 2 + rest_s)
    beside = core_s / min(device.cores, blocks_in_flight(options))
    network = patches * len(plan.spec.folds) * network_s
    if device.on_gpu:
        return max(network, beside)
    at_once = min(device.cores, plan.grid.per_block**2 * len(plan.spec.folds))
    return network / at_once + beside


def _level(plan: Plan) -> float:
    """The downsample of the level that patches are read from."""
    return max(d for d in plan.slide.downsamples if d <= max(plan.scale.factor, 1) * 1.01)


def read_rate(slide: Slide, plan: Plan) -> float:
    """Processor time of reading and resampling a Mpx of a level, seen on one that is no full resolution."""
    info, bounds = slide.info, slide.info.bounds
    coarse = [downsample for downsample in info.downsamples if downsample >= OVERVIEW_DOWNSAMPLE]
    if not coarse:
        return READ_S
    step = min(coarse)
    w, h = (min(side, round(SIDE_PX * step)) for side in (bounds.w, bounds.h))
    box: Box[L0] = Box(bounds.x + (bounds.w - w) // 2, bounds.y + (bounds.h - h) // 2, w, h)
    shrink = step * max(1.0, plan.scale.factor / max(1, math.floor(plan.scale.factor)))
    size = max(1, round(h / shrink)), max(1, round(w / shrink))
    start = time.thread_time()
    try:
        slide.read(box, size)
    except SlideReadError:  # the run will say so, or spare it
        return READ_S
    taken = time.thread_time() - start
    factor, kernel = plan.scale.factor, plan.spec.resample
    if _level(plan) == 1 and kernel == "bilinear" and shrinks(factor, factor):  # as PyramidSlide chooses
        blank_YX3, start = np.zeros((round(h / step), round(w / step), 3), np.uint8), time.thread_time()
        resize(blank_YX3, size, kernel=kernel)
        taken = max(taken - (1 - SHRUNK) * (time.thread_time() - start), SHRUNK * taken)
    return taken / (box.area / step**2 / 1e6)


def network_rate(plan: Plan, options: MapOptions, load: Callable[[], Predict]) -> float:
    """Seconds per patch and fold, remembered, or measured on noise and then remembered.

    Of the clock on a GPU, of one core on a CPU. ``load`` loads one fold of the network.
    """
    device, side = Device.of(options), plan.grid.patch
    precision = "float32" if options.fp32 else "its best precision"
    precision += ", openvino" if takes_openvino(options.engine, on_cpu=not device.on_gpu) else ""
    batch = (
        f", computing batches of {options.batch}, blocks of {plan.grid.per_block}"
        if device.on_gpu
        else f", {device.cores} cores"
    )
    key = f"{device.name}{batch}: {plan.spec.encoder}, {side} px, {precision}, torch {version('torch')}"
    known = _remembered()
    if key in known:
        return known[key]
    predict = load()
    count = min(options.batch, plan.grid.per_block**2) if device.on_gpu else device.cores
    noise_BYX3 = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    predicted(predict, noise_BYX3[:1] if not device.on_gpu else noise_BYX3, nullcontext())
    seconds: dict[str, float] = {}
    start_cpu = time.process_time()
    predicted(predict, noise_BYX3, timed(seconds, "network"))
    wall, cpu = seconds["network"], time.process_time() - start_cpu
    taken = (wall if device.on_gpu else cpu) / count
    if not device.on_gpu and wall * count > BUSY * cpu:
        log.warning("other work is running: the forecast is rough, and is measured again the next time")
        return taken
    try:
        write_whole(_file(), json.dumps({**_remembered(), key: taken}, indent=1).encode())
    except OutputError as error:  # it is measured again the next time
        log.info("the rate is not remembered: %s", error)
    return taken


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsiseg" / "rates.json"


def _remembered() -> dict[str, float]:
    """What is kept; of a damaged file nothing, for it is measured anew and nothing else depends on it."""
    try:
        found = json.loads(_file().read_text("utf-8"))
        return {str(key): float(value) for key, value in found.items() if 0 < float(value) < math.inf}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
