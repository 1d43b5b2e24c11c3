"""Many slides, one after the other; one that fails is named and the next one begins.

What is done stays done: a finished slide is skipped, a half-done one is taken up where its
ledger ends, and one made with other settings is left alone until ``overwrite``.
"""

import csv
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsiseg.bundle import BundleSpec, find_bundle, load_spec
from wsiseg.errors import UsageError, WsisegError
from wsiseg.export import outlining
from wsiseg.machine import cores, visible_gpus
from wsiseg.manifest import SlideManifest, write_whole
from wsiseg.one_slide import EnsembleRecipe, Job, Progress, SlideRecipe
from wsiseg.options import ClusterOptions, MapOptions, PolygonOptions
from wsiseg.pipeline import PREDICTORS, SLIDES, Predict, Recipe, numerics_of
from wsiseg.workers import Mapper, existing_cluster, in_dask, in_threads, local_cluster, serially

__all__ = ["Batch", "Outcome", "SlideInput", "name_outputs", "write_summary"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlideInput:
    """One slide of a batch: its file, the name of its result, and its mpp where somebody said it."""

    path: Path
    name: str
    mpp: float | None = None
    mpp_source: str = "--slide-mpp"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one slide ended; ``manifest`` is None where it failed, and ``reason`` says why."""

    slide: SlideInput
    status: Literal["done", "skipped", "failed"]
    folder: Path
    manifest: SlideManifest | None = None
    reason: str = ""


def name_outputs(paths: Sequence[Path]) -> list[str]:
    """A result name for every slide: its stem, or its path below the common folder where stems collide.

    >>> name_outputs([Path("a/x.svs"), Path("b/x.svs"), Path("b/y.svs")])
    ['a/x', 'b/x', 'y']
    >>> name_outputs([Path("a/x.svs"), Path("a/x.tif")])
    ['x.svs', 'x.tif']
    """
    names = [path.stem for path in paths]
    folders = [path.absolute().parts[:-1] for path in paths]
    shared = 0
    while all(len(parts) > shared for parts in folders) and len({parts[shared] for parts in folders}) == 1:
        shared += 1
    longer = ["/".join((*parts[shared:], name)) for parts, name in zip(folders, names, strict=True)]
    named = [long if names.count(name) > 1 else name for name, long in zip(names, longer, strict=True)]
    return [
        name + path.suffix if named.count(name) > 1 else name for name, path in zip(named, paths, strict=True)
    ]


MOST_SLIDES_AT_ONCE = 8
"""Slides that are begun on a cluster before the first is done: enough for small ones to fill it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is the same for every slide of one command.

    ``model`` stands in for the bundle that ``map_options`` names: facts and a predictor.
    """

    out: Path
    map_options: MapOptions
    polygon_options: PolygonOptions
    overwrite: bool = False
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    model: tuple[BundleSpec, Recipe[Predict]] | None = None

    def run(
        self, slides: Sequence[SlideInput], on_progress: Callable[[SlideInput, Progress], None]
    ) -> Iterator[Outcome]:
        """Segment the slides; one that fails is an outcome, not an exception.

        The next slide is read while the last blocks of the one before are with the network.
        ``on_progress`` may be called from several threads.

        Raises:
            BundleError, DeviceError: before any slide; without a model there is nothing to do.
            UsageError: the cluster is not there.
        """
        spec, ensemble = self.model or self._bundle()
        how = outlining(self.polygon_options, spec)
        try:
            with self._workers() as (mapper, at_once):
                (numerics,) = mapper(numerics_of, [ensemble])
                job = Job(spec, ensemble, numerics, self.map_options, how, self.overwrite, mapper)
                side_by_side = serially if len(slides) == 1 else in_threads(at_once)
                try:
                    yield from side_by_side(lambda slide: self._one(slide, job, on_progress), slides)
                finally:
                    job.stop.set()
        finally:
            SLIDES.clear()
            PREDICTORS.clear()

    def _bundle(self) -> tuple[BundleSpec, Recipe[Predict]]:
        options = self.map_options
        folder = find_bundle(options.model).absolute()
        spec = load_spec(folder)
        spec = spec.model_copy(update={"folds": spec.folds[: options.folds]})
        return spec, EnsembleRecipe(folder, options.device, options.batch, options.fp32, options.folds)

    @contextmanager
    def _workers(self) -> Iterator[tuple[Mapper, int]]:
        """Who does the blocks, and how many slides to have begun at a time."""
        how, threads = self.cluster, self.map_options.threads
        if how.scheduler:
            with existing_cluster(how.scheduler, tls=_tls(how)) as client:
                yield in_dask(client), MOST_SLIDES_AT_ONCE
        elif how.workers:
            gpus = visible_gpus() if self.map_options.device in {"auto", "cuda"} else []
            share = max(1, cores() // how.workers)
            with local_cluster(how.workers, threads=threads, cores=share, gpus=gpus) as client:
                yield in_dask(client), min(how.workers + 1, MOST_SLIDES_AT_ONCE)
        else:
            yield in_threads(threads), 2

    def _one(
        self, slide: SlideInput, job: Job, on_progress: Callable[[SlideInput, Progress], None]
    ) -> Outcome:
        folder = (self.out / slide.name).absolute()
        mpp = slide.mpp if slide.mpp is not None else self.map_options.slide_mpp
        path = slide.path.absolute()
        recipe = SlideRecipe(path, mpp, slide.mpp_source, self.map_options.reader, job.spec)
        try:
            manifest, skipped = job.segment(recipe, folder, lambda progress: on_progress(slide, progress))
        except WsisegError as error:
            log.debug("%s failed", slide.path, exc_info=True)
            return Outcome(slide, "failed", self.out / slide.name, reason=str(error))
        except Exception as error:
            log.exception("%s failed by a defect of wsiseg; please report it", slide.path)
            reason = f"a defect of wsiseg, please report it: {type(error).__name__}: {error}"
            return Outcome(slide, "failed", self.out / slide.name, reason=reason)
        finally:
            SLIDES.clear()
        return Outcome(slide, "skipped" if skipped else "done", self.out / slide.name, manifest)


def _tls(how: ClusterOptions) -> tuple[str, str, str] | None:
    files = how.tls_ca, how.tls_cert, how.tls_key
    if not any(files):
        return None
    if not all(files):
        msg = "TLS needs all three of --tls-ca, --tls-cert and --tls-key"
        raise UsageError(msg)
    return str(files[0]), str(files[1]), str(files[2])


COLUMNS = (
    "slide", "status", "reason", "tumor_mm2", "tissue_mm2", "tissue_fraction", "polygons",
    "mean_probability", "disagreement", "mpp", "mpp_source", "seconds",
)  # fmt: skip


def write_summary(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write ``summary.csv``: one row per slide, failures with their reason.

    Raises:
        OutputError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    for outcome in outcomes:
        row: dict[str, object] = {
            "slide": outcome.slide.name,
            "status": outcome.status,
            "reason": outcome.reason,
        }
        if (manifest := outcome.manifest) is not None:
            found = manifest.result.model_dump(exclude={"note"})
            facts = {"mpp": manifest.slide.mpp, "mpp_source": manifest.slide.mpp_source}
            reason = {"reason": manifest.result.note}
            rest = {"polygons": manifest.counts.polygons, "seconds": manifest.seconds.get("total")}
            row |= found | facts | rest | reason
        table.writerow(row)
    write_whole(path, text.getvalue().encode())
