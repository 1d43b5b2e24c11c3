"""What a slide is and what segmenting it would take, without reading a full-resolution pixel."""

import time

from pydantic import BaseModel, ConfigDict

from wsiseg.bundle import find_bundle, load_spec, with_folds
from wsiseg.drawn import drawn_tissue
from wsiseg.forecast import Device, blocks_in_flight, network_rate, read_rate, seconds_of
from wsiseg.location import Location
from wsiseg.manifest import Canvas, Model, SlideFacts, describe
from wsiseg.nodata import from_afar
from wsiseg.options import MapOptions
from wsiseg.plan import Plan, make_plan
from wsiseg.recipes import EnsembleRecipe, SlideRecipe
from wsiseg.tissue import find_slide_tissue, has_overview

__all__ = ["Inspection", "inspect_slide"]


class Inspection(BaseModel):
    """The facts and the forecast of one slide.

    ``patches`` and ``blocks`` are those with tissue, or all of them where the slide has no
    overview to find tissue on (``tissue_mm2`` is then None). ``seconds`` is for the whole slide,
    ``network_seconds`` what the network alone would take; see ``wsiseg.forecast``.
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
    network_seconds: float

    def as_text(self) -> str:
        """The same for a reader, one fact a line."""
        slide, canvas = self.slide, self.canvas
        levels = ", ".join(f"{d:g}" for d in slide.downsamples)
        known = self.tissue_mm2 is not None
        some = f"{self.patches} of {self.patches_in_all}" if known else f"at most {self.patches}"
        network = _duration(self.network_seconds)
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
            "time": f"about {_duration(self.seconds)} on this device, {network} of it the network's",
        }
        return "\n".join([slide.name, *(f"  {name:14} {text}" for name, text in rows.items())])


def inspect_slide(path: Location, options: MapOptions) -> Inspection:
    """Look at a slide and plan its segmentation.

    Raises:
        WsisegError: what segmenting it would be refused for.
    """
    folder = find_bundle(options.model)
    spec = with_folds(load_spec(folder), options.folds)
    sparing = options.skip_unreadable
    recipe = SlideRecipe(path, options.slide_mpp, "--slide-mpp", options.reader, spec, sparing=sparing)
    drawn = drawn_tissue(options.tissue, options.tissue_class, path)
    setting = options.tissue if drawn is None else drawn.setting
    with recipe() as slide:
        plan = make_plan(slide.info, spec, per_block=options.block, tissue=setting, sparing=sparing)
        read_s = read_rate(slide, plan)
        start = time.process_time()
        look = options.tissue == "auto" and has_overview(slide.info)
        tissue = find_slide_tissue(from_afar(slide, plan)) if look else None
        tissue = tissue if drawn is None else drawn.mask(slide.info)
        look_s = time.process_time() - start
    wanted = [
        sum(tissue is None or tissue.covers(plan.scale.to_l0(patch.core)) for patch in block.patches)
        for block in plan.grid
    ]
    facts, model, canvas = describe(plan)
    patches = sum(wanted)
    ensemble = EnsembleRecipe(folder, options.device, options.batch, options.fp32, 1, options.engine)
    network_s = network_rate(plan, options, ensemble) if patches else 0.0
    whole_s, network_alone_s = (
        seconds_of(patches, plan, options, network_s=network_s, read_s=one) for one in (read_s, None)
    )
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
        memory_bytes=plan.peak_bytes(blocks_in_flight(options), _passes(options, plan)),
        disk_bytes=plan.disk_bytes(patches),
        seconds=look_s + whole_s,
        network_seconds=network_alone_s,
    )


def _passes(options: MapOptions, plan: Plan) -> int:
    """Forward passes side by side: one on a GPU, whose memory is its own, or one for each core."""
    device = Device.of(options)
    return 1 if device.on_gpu else min(device.cores, plan.grid.per_block**2 * len(plan.spec.folds))


def _duration(seconds: float) -> str:
    """Seconds in the unit a person would say them in.

    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 - two hours
