"""One slide from its file to its folder: plan, tissue, blocks, outlines, record."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsiseg.bundle import BundleSpec
from wsiseg.canvas import ProbabilityMap
from wsiseg.drawn import Drawn, drawn_tissue
from wsiseg.errors import PlanError, WsisegError
from wsiseg.export import export_polygons
from wsiseg.geometry import L0, Box
from wsiseg.kept import Recipe
from wsiseg.ledger import Ledger
from wsiseg.look import Seen, View, look
from wsiseg.machine import hand_back_memory
from wsiseg.manifest import Counts, Result, SlideManifest, describe, versions
from wsiseg.nodata import regions
from wsiseg.options import MapOptions
from wsiseg.outlining import Outlining
from wsiseg.pipeline import BlockResult, BlockTask, Predict, Work, plan_work, segment
from wsiseg.place import LEDGER, MANIFEST, MAP, Place
from wsiseg.plan import FOUND_CORNERS, MOST_CORNERS, Plan, make_plan
from wsiseg.polygons import join
from wsiseg.recipes import SlideRecipe
from wsiseg.slide import SlideInfo
from wsiseg.tissue import TissueMask
from wsiseg.workers import Mapper

__all__ = ["Job", "Progress"]

log = logging.getLogger(__name__)


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
    """What to do with a slide; the same for every slide of a batch.

    ``in_flight`` is how many blocks a process has in work, of which all but one may be read.
    """

    spec: BundleSpec
    ensemble: Recipe[Predict]
    numerics: str
    map_options: MapOptions
    outlining: Outlining
    overwrite: bool
    mapper: Mapper
    in_flight: int = 1
    stop: threading.Event = field(default_factory=threading.Event)

    def plan(self, slide: SlideInfo, drawn: Drawn | None = None) -> Plan:
        """The plan for a slide; see ``make_plan`` for what it refuses."""
        options = self.map_options
        return make_plan(
            slide,
            self.spec,
            per_block=options.block,
            numerics=self.numerics,
            tissue=options.tissue if drawn is None else drawn.setting,
            sparing=options.skip_unreadable,
        )

    def segment(
        self, recipe: SlideRecipe, folder: Path, on_progress: Callable[[Progress], None]
    ) -> tuple[SlideManifest, bool]:
        """Make the folder of a slide; the second value says whether it was made already.

        Raises:
            WsisegError: the slide cannot be segmented or its result not written; says why.
        """
        drawn = drawn_tissue(self.map_options.tissue, self.map_options.tissue_class, recipe.path)
        with recipe() as opened:  # its pixels are the workers' business
            plan = self.plan(opened.info, drawn)
        recipe = replace(recipe, fingerprint=plan.slide.fingerprint)
        with Place(folder).claimed() as place:
            if not self.overwrite and place.finished(plan, self.outlining.key, asdict(self.outlining)):
                return SlideManifest.read(folder / MANIFEST), True
            hidden = place.begin(plan.settings, anew=self.overwrite)
            manifest = _InWork(self, plan, recipe, hidden, drawn).do(on_progress)
            place.publish()
        return manifest, False


_JOINING = threading.Lock()
"""One slide's outlines are joined at a time: memory is foretold for one, however many are begun."""


@dataclass(frozen=True, slots=True)
class _InWork:
    """A slide being worked on in its hidden folder."""

    job: Job
    plan: Plan
    recipe: SlideRecipe
    folder: Path
    drawn: Drawn | None

    def do(self, on_progress: Callable[[Progress], None]) -> SlideManifest:
        clock = _Clock()
        plan, outlining = self.plan, self.job.outlining
        self._unless_stopped()
        (seen,) = self.job.mapper(look, [self._view()])
        tissue = seen.tissue
        clock.lap("tissue")
        canvas = self._canvas(tissue)
        least, sure = outlining.levels_u8
        timeout_s = self.job.map_options.read_timeout
        task = BlockTask(plan, canvas, self.recipe, self.job.ensemble, least, timeout_s, sure)
        with Ledger(self.folder / LEDGER, plan.settings) as ledger:
            work = list(plan_work(plan, tissue, ledger))
            self._room(work)
            blocks = segment(task, work, mapper=self.job.mapper, ledger=ledger)
            results = list(self._counted(self._followed(blocks, len(work), on_progress)))
        canvas.sweep()
        lost = regions(plan, _lost(results), self._looked_at_px(work))
        clock.lap("blocks")
        with _JOINING:
            hand_back_memory()  # of the blocks, which outlines have no use for
            outlines = join((result.regions for result in results), plan.grid.chunk)
            manifest = export_polygons(outlines, self._manifest(results, seen, lost), outlining, self.folder)
        clock.lap("export")
        seconds = {**clock.laps, **_summed(results), "total": clock.total}
        manifest = manifest.model_copy(update={"seconds": {k: round(v, 3) for k, v in seconds.items()}})
        manifest.write(self.folder / MANIFEST)
        return manifest

    def _view(self) -> View:
        drawn = None if self.drawn is None else self.drawn.mask(self.plan.slide)
        return View(self.plan, self.recipe, self.folder, drawn, self.job.map_options.read_timeout)

    def _followed(
        self, blocks: Iterator[BlockResult], total: int, on_progress: Callable[[Progress], None]
    ) -> Iterator[BlockResult]:
        """The blocks as they come, told of, until the batch is stopped."""
        start, megapixels, read_s, network_s = time.perf_counter(), 0.0, 0.0, 0.0
        on_progress(Progress(0, total, 0.0))
        for done, block in enumerate(blocks, 1):
            if not block.resumed:
                megapixels += block.done.patches * self.plan.grid.core**2 / 1e6
            read_s += block.seconds.get("read", 0.0) / self.job.in_flight
            network_s += block.seconds.get("network", 0.0)
            seconds = time.perf_counter() - start
            on_progress(Progress(done, total, seconds, megapixels, read_s, network_s))
            yield block
            if done < total:
                self._unless_stopped()

    def _unless_stopped(self) -> None:
        if self.job.stop.is_set():
            msg = "stopped before it was done; run the same command again to go on"
            raise WsisegError(msg)

    def _counted(self, blocks: Iterator[BlockResult]) -> Iterator[BlockResult]:
        """The blocks; said once when their outlines outgrow the forecast, refused when they have no end."""
        corners, name = 0, self.plan.slide.name
        for block in blocks:
            before, corners = corners, corners + block.regions.vertices
            if before <= FOUND_CORNERS < corners:
                log.warning("%s has outlines of many corners, and takes more memory than foretold", name)
            if corners > MOST_CORNERS:
                msg = (
                    f"outlines at {self.job.outlining.threshold:g} of more than {MOST_CORNERS} corners: "
                    "noise; the same command with another --threshold goes on from here"
                )
                raise PlanError(msg)
            yield block

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
        if plan.sparing:
            canvas.add_unreadable(scale=plan.scale, mpp=plan.slide.mpp)
        return canvas

    def _looked_at_px(self, work: list[Work]) -> int:
        blocks = ((self.plan.grid.block(one.row, one.column), one.patches) for one in work)
        return sum(block.patches[number].core.area for block, wanted in blocks for number in wanted)

    def _map_options(self) -> dict[str, Any]:
        """As chosen, or as was taken where nothing was; of the regions' folder its name: no path."""
        chosen = {**asdict(self.job.map_options), "threads": self.job.in_flight}
        return chosen if self.drawn is None else {**chosen, "tissue": self.drawn.name}

    def _manifest(self, results: list[BlockResult], seen: Seen, lost: list[Box[L0]]) -> SlideManifest:
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
            map_options=self._map_options(),
            polygon_options={},
            counts=counts,
            unreadable=tuple((box.x, box.y, box.w, box.h) for box in lost),
            focus=seen.focus,
            result=Result(
                tissue_mm2=None if seen.tissue is None else seen.tissue.without(lost).area_mm2,
                unreadable_mm2=sum(box.area for box in lost) * (self.plan.slide.mpp / 1000) ** 2,
            ),
            seconds={},
            device=self.job.numerics,
            versions=versions(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _lost(results: list[BlockResult]) -> Iterator[tuple[int, int, int, int]]:
    for result in results:
        yield from result.done.unreadable


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
