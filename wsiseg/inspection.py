"""What a slide is and what segmenting it would take, without reading a full-resolution pixel."""

import json
import logging
import os
import time
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from wsiseg.bundle import BundleSpec, find_bundle, load_spec
from wsiseg.errors import OutputError
from wsiseg.machine import cores, visible_gpus
from wsiseg.manifest import Canvas, Model, SlideFacts, describe, write_whole
from wsiseg.one_slide import EnsembleRecipe, SlideRecipe
from wsiseg.options import MapOptions
from wsiseg.plan import Plan, make_plan
from wsiseg.tissue import find_slide_tissue, has_overview

__all__ = ["Inspection", "inspect_slide", "remember_rate"]

log = logging.getLogger(__name__)


class Inspection(BaseModel):
    """The facts and the forecast of one slide.

    ``patches`` and ``blocks`` are those with tissue, or all of them where the slide has no
    overview to find tissue on (``tissue_mm2`` is then None). ``seconds`` is that of the
    network, from one patch run on this device now or at an earlier inspection.
    """

    model_config = ConfigDict(frozen=True)

    slide: SlideFacts
    model: Model
    canvas: Canvas
    qupath_origin: tuple[int, int]
    tissue_mm2: float | None
    patches: int
    patches_in_all: int
    blocks: int
    blocks_in_all: int
    memory_bytes: int
    disk_bytes: int
    seconds: float

    def as_text(self) -> str:
        """The same for a reader, one fact a line."""
        slide, canvas = self.slide, self.canvas
        levels = ", ".join(f"{d:g}" for d in slide.downsamples)
        known = self.tissue_mm2 is not None
        some = f"{self.patches} of {self.patches_in_all}" if known else f"at most {self.patches}"
        tissue = f"{self.tissue_mm2:.2f} mm²" if known else "unknown before the run: no overview level"
        rows = {
            "reader": f"{slide.reader}, format {slide.vendor}",
            "size": f"{slide.width} × {slide.height} px, downsamples {levels}",
            "resolution": f"{slide.mpp:g} µm/px, from {slide.mpp_source}",
            "QuPath origin": f"level-0 px {self.qupath_origin[0]}, {self.qupath_origin[1]}",
            "tissue": tissue,
            "canvas": f"{canvas.width} × {canvas.height} px of {canvas.mpp:.4g} µm",
            "model": f"{self.model.name} ({self.model.encoder}, {len(self.model.weights)} folds)",
            "work": f"{some} patches in {self.blocks} of {self.blocks_in_all} blocks",
            "memory": f"about {self.memory_bytes / 2**30:.1f} GiB",
            "disk": f"at most about {self.disk_bytes / 2**20:.1f} MiB",
            "time": f"about {_duration(self.seconds)} on this device",
        }
        return "\n".join([slide.name, *(f"  {name:14} {text}" for name, text in rows.items())])


def inspect_slide(path: Path, options: MapOptions) -> Inspection:
    """Look at a slide and plan its segmentation.

    Raises:
        WsisegError: what segmenting it would be refused for.
    """
    folder = find_bundle(options.model)
    spec = load_spec(folder)
    spec = spec.model_copy(update={"folds": spec.folds[: options.folds]})
    recipe = SlideRecipe(path, options.slide_mpp, "--slide-mpp", options.reader, spec)
    with recipe() as slide:
        plan = make_plan(slide.info, spec, per_block=options.block, tissue=options.tissue)
        look = options.tissue == "auto" and has_overview(slide.info)
        tissue = find_slide_tissue(slide) if look else None
    wanted = [
        sum(tissue is None or tissue.covers(plan.scale.to_l0(patch.core)) for patch in block.patches)
        for block in plan.grid
    ]
    facts, model, canvas = describe(plan)
    patches = sum(wanted)
    return Inspection(
        slide=facts,
        model=model,
        canvas=canvas,
        qupath_origin=facts.bounds[:2],
        tissue_mm2=None if tissue is None else tissue.area_mm2,
        patches=patches,
        patches_in_all=plan.grid.patches,
        blocks=sum(map(bool, wanted)),
        blocks_in_all=len(plan.grid),
        memory_bytes=plan.peak_bytes(options.threads, _passes(options, plan)),
        disk_bytes=plan.disk_bytes(patches),
        seconds=patches * len(spec.folds) * _rate(folder, spec, options, plan) / _passes(options, plan),
    )


def _passes(options: MapOptions, plan: Plan) -> int:
    """Forward passes side by side: one on a GPU, whose memory is its own, or one for each core."""
    on_gpu = options.device.startswith("cuda") or (options.device == "auto" and visible_gpus())
    return 1 if on_gpu else min(cores(), plan.grid.per_block**2 * len(plan.spec.folds))


def _duration(seconds: float) -> str:
    """Seconds in the unit a person would say them in.

    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 - two hours


def _rates_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wsiseg" / "rates.json"


def _rates() -> dict[str, float]:
    try:
        found = json.loads(_rates_file().read_text())
    except (OSError, ValueError):  # a forecast is measured anew, nothing else depends on the file
        return {}
    return {str(k): float(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _key(encoder: str, options: MapOptions) -> str:
    return f"{encoder} {options.device}{' fp32' if options.fp32 else ''}"


def remember_rate(encoder: str, options: MapOptions, seconds: float) -> None:
    """Keep the seconds that one patch and fold took, for the next forecast on this machine.

    Raises:
        OutputError: the cache cannot be written.
    """
    write_whole(_rates_file(), json.dumps({**_rates(), _key(encoder, options): seconds}, indent=1).encode())


def _rate(folder: Path, spec: BundleSpec, options: MapOptions, plan: Plan) -> float:
    """Seconds per patch and fold: remembered, or measured on one patch of noise."""
    known = _rates().get(_key(spec.encoder, options))
    if known is not None:
        return known
    predict = EnsembleRecipe(folder, options.device, options.batch, options.fp32, 1)()
    side = plan.grid.patch
    noise_BYX3 = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    predict(noise_BYX3)
    start = time.perf_counter()
    predict(noise_BYX3)
    taken = time.perf_counter() - start
    try:
        remember_rate(spec.encoder, options, taken)
    except OutputError as error:
        log.info("the rate is not remembered: %s", error)
    return taken
