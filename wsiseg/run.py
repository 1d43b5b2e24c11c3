"""Many slides, one after the other; one that fails is named and the next one begins.

What is done stays done: a finished slide is skipped, a half-done one is taken up where its
ledger ends, and one made with other settings is left alone until ``overwrite``.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsiseg.bundle import BundleSpec, find_bundle, load_spec, with_folds
from wsiseg.drawn import check_tissue_option
from wsiseg.errors import UsageError, WsisegError
from wsiseg.forecast import blocks_in_flight
from wsiseg.inputs import SlideInput
from wsiseg.kept import Recipe
from wsiseg.location import printable
from wsiseg.machine import cores, visible_gpus
from wsiseg.manifest import SlideManifest
from wsiseg.one_slide import Job, Progress
from wsiseg.options import ClusterOptions, MapOptions, PolygonOptions
from wsiseg.outlining import outlining
from wsiseg.pipeline import PREDICTORS, SLIDES, Predict, numerics_of
from wsiseg.readers import check_reader
from wsiseg.recipes import EnsembleRecipe, SlideRecipe
from wsiseg.workers import (
    Mapper,
    existing_cluster,
    in_dask,
    in_threads,
    local_cluster,
    serially,
    threads_of,
)

__all__ = ["Batch", "Outcome", "SlideInput"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one slide ended; ``manifest`` is None where it failed, and ``reason`` says why."""

    slide: SlideInput
    status: Literal["done", "skipped", "failed"]
    folder: Path
    manifest: SlideManifest | None = None
    reason: str = ""


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
            UsageError: the cluster is not there, or no reader has the name that was given.
        """
        check_reader(self.map_options.reader)
        check_tissue_option(self.map_options.tissue, len(slides))
        spec, ensemble = self.model or self._bundle()
        how = outlining(self.polygon_options, spec)
        try:
            with self._workers() as (mapper, at_once, in_flight):
                (numerics,) = mapper(numerics_of, [ensemble])
                job = Job(spec, ensemble, numerics, self.map_options, how, self.overwrite, mapper, in_flight)
                side_by_side = serially if len(slides) == 1 else in_threads(at_once)
                outcomes = side_by_side(lambda slide: self._one(slide, job, on_progress), slides)
                try:
                    for outcome in outcomes:  # noqa: UP028 - "yield from" would close them first
                        yield outcome
                finally:
                    job.stop.set()  # closing waits for the slides in work, which stop at their next block
                    if isinstance(outcomes, Generator):
                        outcomes.close()
        finally:
            SLIDES.clear()
            PREDICTORS.clear()

    def _bundle(self) -> tuple[BundleSpec, Recipe[Predict]]:
        options = self.map_options
        folder = find_bundle(options.model).absolute()
        spec = with_folds(load_spec(folder), options.folds)
        how = options.device, options.batch, options.fp32, options.folds, options.engine
        return spec, EnsembleRecipe(folder, *how)

    @contextmanager
    def _workers(self) -> Iterator[tuple[Mapper, int, int]]:
        """Who does the blocks, how many slides are begun at a time, and each process's blocks in flight."""
        how = self.cluster
        threads = blocks_in_flight(self.map_options, how.workers or 1)
        if how.scheduler:
            with existing_cluster(how.scheduler, tls=_tls(how)) as client:
                yield in_dask(client), MOST_SLIDES_AT_ONCE, max(threads_of(client).values(), default=1)
        elif how.workers:
            gpus = visible_gpus() if self.map_options.device in {"auto", "cuda"} else []
            share = max(1, cores() // how.workers)
            with local_cluster(how.workers, threads=threads, cores=share, gpus=gpus) as client:
                yield in_dask(client), min(how.workers + 1, MOST_SLIDES_AT_ONCE), threads
        else:
            yield in_threads(threads), 2, threads

    def _one(
        self, slide: SlideInput, job: Job, on_progress: Callable[[SlideInput, Progress], None]
    ) -> Outcome:
        folder = (self.out / slide.name).absolute()
        mpp = slide.mpp if slide.mpp is not None else self.map_options.slide_mpp
        path = slide.path.absolute()
        options = self.map_options
        recipe = SlideRecipe(
            path, mpp, slide.mpp_source, options.reader, job.spec, sparing=options.skip_unreadable
        )
        try:
            manifest, skipped = job.segment(recipe, folder, lambda progress: on_progress(slide, progress))
        except WsisegError as error:
            log.debug("%s failed", slide.path, exc_info=True)
            return Outcome(slide, "failed", self.out / slide.name, reason=printable(str(error)))
        except Exception as error:
            log.exception("%s failed by a defect of wsiseg; please report it", slide.path)
            reason = printable(f"a defect of wsiseg, please report it: {type(error).__name__}: {error}")
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
