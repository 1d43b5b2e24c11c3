"""One slide from its file to its folder: plan, tissue, blocks, outlines, record."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from wsiseg.bundle import BundleSpec
from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import PlanError, WsisegError
from wsiseg.export import Outlining, export_polygons
from wsiseg.ledger import Ledger
from wsiseg.manifest import Counts, Result, SlideManifest, describe, versions
from wsiseg.options import MapOptions
from wsiseg.overview import MAX_PX
from wsiseg.pipeline import BlockResult, BlockTask, Predict, Recipe, Work, plan_work, segment
from wsiseg.place import LEDGER, MANIFEST, MAP, Place
from wsiseg.plan import Plan, make_plan
from wsiseg.polygons import join, threshold_u8
from wsiseg.readers import open_slide
from wsiseg.readers.pyramid import PyramidSlide
from wsiseg.tissue import TissueMask, find_slide_tissue, overview
from wsiseg.workers import Mapper

__all__ = ["EnsembleRecipe", "Job", "Progress", "SlideRecipe"]


@dataclass(frozen=True, slots=True)
class SlideRecipe:
    """How a worker opens a slide; equal for every block of one slide."""

    path: Path
    mpp: float | None
    mpp_source: str
    reader: str
    spec: BundleSpec
    fingerprint: str | None = None

    def __call__(self) -> PyramidSlide:
        """Open the slide.

        Raises:
            SlideError: it cannot be opened, or its resolution is unknown.
        """
        return open_slide(
            self.path,
            mpp=self.mpp,
            mpp_source=self.mpp_source,
            reader=self.reader,
            kernel=self.spec.resample,
            known_fingerprint=self.fingerprint,
        )


@dataclass(frozen=True, slots=True)
class EnsembleRecipe:
    """How a worker loads the folds of a bundle."""

    folder: Path
    device: str
    batch: int
    fp32: bool
    folds: int | None

    def __call__(self) -> Predict:
        """Load the weights; torch is loaded here and nowhere before.

        Raises:
            BundleError, DeviceError: see ``wsiseg.model.load_ensemble``.
        """
        from wsiseg.model import load_ensemble  # noqa: PLC0415 - only where a network is run

        return load_ensemble(
            self.folder, device=self.device, batch=self.batch, fp32=self.fp32, folds=self.folds
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one slide is: blocks done of all with tissue, after so many seconds.

    ``megapixels`` are those of the canvas that were predicted; ``read_s`` and ``network_s``
    are what it took, ``read_s`` per reading thread.
    """

    done: int
    blocks: int
    seconds: float
    megapixels: float = 0.0
    read_s: float = 0.0
    network_s: float = 0.0

    @property
    def bottleneck(self) -> str:
        """What the other waits for."""
        return "reading" if self.read_s > self.network_s else "the network"


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with a slide; the same for every slide of a batch."""

    spec: BundleSpec
    ensemble: Recipe[Predict]
    numerics: str
    map_options: MapOptions
    outlining: Outlining
    overwrite: bool
    mapper: Mapper
    stop: threading.Event = field(default_factory=threading.Event)

    def plan(self, opened: PyramidSlide) -> Plan:
        """The plan for an open slide; see ``make_plan`` for what it refuses."""
        options = self.map_options
        return make_plan(
            opened.info, self.spec, per_block=options.block, numerics=self.numerics, tissue=options.tissue
        )

    def segment(
        self, recipe: SlideRecipe, folder: Path, on_progress: Callable[[Progress], None]
    ) -> tuple[SlideManifest, bool]:
        """Make the folder of a slide; the second value says whether it was made already.

        Raises:
            WsisegError: the slide cannot be segmented or its result not written; says why.
        """
        with recipe() as opened:
            plan = self.plan(opened)
            recipe = replace(recipe, fingerprint=opened.info.fingerprint)
            with Place(folder).claimed() as place:
                if not self.overwrite and place.finished(plan, self.outlining.key):
                    return SlideManifest.read(folder / MANIFEST), True
                work = _InWork(self, plan, recipe, place.begin(plan.settings, anew=self.overwrite))
                manifest = work.do(opened, on_progress)
                place.publish()
        return manifest, False


@dataclass(frozen=True, slots=True)
class _InWork:
    """A slide being worked on in its hidden folder."""

    job: Job
    plan: Plan
    recipe: SlideRecipe
    folder: Path

    def do(self, opened: PyramidSlide, on_progress: Callable[[Progress], None]) -> SlideManifest:
        clock = _Clock()
        plan, outlining = self.plan, self.job.outlining
        tissue = None if plan.tissue == "none" else find_slide_tissue(opened)
        clock.lap("tissue")
        canvas = self._canvas(tissue)
        task = BlockTask(
            plan,
            canvas,
            self.recipe,
            self.job.ensemble,
            threshold_u8(outlining.threshold),
            self.job.map_options.read_timeout,
        )
        with Ledger(self.folder / LEDGER, plan.settings) as ledger:
            work = list(plan_work(plan, tissue, ledger))
            self._room(work)
            blocks = segment(task, work, mapper=self.job.mapper, ledger=ledger)
            results = list(self._followed(blocks, len(work), on_progress))
        canvas.sweep()
        clock.lap("blocks")
        regions = join((result.regions for result in results), plan.grid.chunk)
        manifest = self._manifest(results, tissue)
        thumbnail = overview(opened, MAX_PX)
        manifest = export_polygons(regions, manifest, outlining, self.folder, thumbnail_YX3=thumbnail)
        clock.lap("export")
        seconds = {**clock.laps, **_summed(results), "total": clock.total}
        manifest = manifest.model_copy(update={"seconds": {k: round(v, 3) for k, v in seconds.items()}})
        manifest.write(self.folder / MANIFEST)
        return manifest

    def _followed(
        self, blocks: Iterator[BlockResult], total: int, on_progress: Callable[[Progress], None]
    ) -> Iterator[BlockResult]:
        """The blocks as they come, told of, until the batch is stopped."""
        start, megapixels, read_s, network_s = time.perf_counter(), 0.0, 0.0, 0.0
        on_progress(Progress(0, total, 0.0))
        for done, block in enumerate(blocks, 1):
            if not block.resumed:
                megapixels += block.done.patches * self.plan.grid.core**2 / 1e6
            read_s += block.seconds.get("read", 0.0) / self.job.map_options.threads
            network_s += block.seconds.get("network", 0.0)
            seconds = time.perf_counter() - start
            on_progress(Progress(done, total, seconds, megapixels, read_s, network_s))
            yield block
            if self.job.stop.is_set() and done < total:
                msg = "stopped before it was done; run the same command again to go on"
                raise WsisegError(msg)

    def _room(self, work: list[Work]) -> None:
        """Refuse to begin what the disk cannot hold."""
        wanted = self.plan.disk_bytes(sum(len(item.patches) for item in work if item.done is None))
        free = shutil.disk_usage(self.folder).free
        if wanted > free:
            name, free_mib, wanted_mib = self.plan.slide.name, free / 2**20, wanted / 2**20
            msg = (
                f"{self.folder.parent} has {free_mib:.0f} MiB free, the map of {name} may take "
                f"{wanted_mib:.0f}: make room, or choose another folder with -o"
            )
            raise PlanError(msg)

    def _canvas(self, tissue: TissueMask | None) -> ProbabilityMap:
        """The map to write into: the interrupted run's, where there is one."""
        path, plan = self.folder / MAP, self.plan
        if (self.folder / LEDGER).exists():
            return ProbabilityMap(path, plan.grid)
        about = {"slide": plan.slide.name, "model": plan.spec.name, "key": plan.key, "mpp": plan.mpp}
        canvas = ProbabilityMap.create(path, plan.grid, scale=plan.scale, mpp=plan.slide.mpp, about=about)
        if tissue is not None:
            canvas.write_tissue(tissue.mask_YX, scale=tissue.scale, mpp=plan.slide.mpp)
        return canvas

    def _manifest(self, results: list[BlockResult], tissue: TissueMask | None) -> SlideManifest:
        """The slide's record, but for what the export adds."""
        slide, model, canvas = describe(self.plan)
        counts = Counts(
            blocks=len(results),
            patches=sum(result.done.patches for result in results),
            resumed_blocks=sum(result.resumed for result in results),
            polygons=0,
            vertices=0,
        )
        return SlideManifest(
            key=self.plan.key,
            polygon_key="",
            settings=self.plan.settings,
            slide=slide,
            model=model,
            canvas=canvas,
            map_options=asdict(self.job.map_options),
            polygon_options={},
            counts=counts,
            result=Result(tissue_mm2=None if tissue is None else tissue.area_mm2),
            seconds={},
            device=self.job.numerics,
            versions=versions(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _summed(results: list[BlockResult]) -> dict[str, float]:
    """The stages' seconds, added up over blocks; stages of several blocks run side by side."""
    total: dict[str, float] = {}
    for result in results:
        for stage, taken in result.seconds.items():
            total[stage] = total.get(stage, 0.0) + taken
    return total


class _Clock:
    """Wall time of one stage after another."""

    def __init__(self) -> None:
        self._start = self._mark = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage], self._mark = now - self._mark, now

    @property
    def total(self) -> float:
        return time.perf_counter() - self._start
