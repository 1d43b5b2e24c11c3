"""Many slides, one after the other; one that fails is named and the next one begins.

What is done stays done: a finished slide is skipped, a half-done one is taken up where its
ledger ends, and one made with other settings is left alone until ``overwrite``.
"""

import csv
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsiseg.bundle import find_bundle, load_spec
from wsiseg.errors import WsisegError
from wsiseg.export import outlining
from wsiseg.manifest import SlideManifest, write_whole
from wsiseg.one_slide import EnsembleRecipe, Job, Progress, SlideRecipe
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.pipeline import PREDICTORS, SLIDES
from wsiseg.workers import in_threads

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


@dataclass(frozen=True, slots=True)
class Batch:
    """What is the same for every slide of one command."""

    out: Path
    map_options: MapOptions
    polygon_options: PolygonOptions
    overwrite: bool = False

    def run(
        self, slides: Sequence[SlideInput], on_progress: Callable[[SlideInput, Progress], None]
    ) -> Iterator[Outcome]:
        """Segment slide after slide; a slide that fails is an outcome, not an exception.

        Raises:
            BundleError, DeviceError: before any slide; without a model there is nothing to do.
        """
        options = self.map_options
        folder = find_bundle(options.model)
        spec = load_spec(folder)
        spec = spec.model_copy(update={"folds": spec.folds[: options.folds]})
        ensemble = EnsembleRecipe(folder, options.device, options.batch, options.fp32, options.folds)
        try:
            with PREDICTORS.use(ensemble) as predictor:
                numerics = str(getattr(predictor, "numerics", "any"))
                how = outlining(self.polygon_options, spec)
                mapper = in_threads(options.threads)
                job = Job(spec, ensemble, numerics, options, how, self.overwrite, mapper)
                for slide in slides:
                    yield self._one(slide, job, on_progress)
                    SLIDES.clear()
        finally:
            SLIDES.clear()
            PREDICTORS.clear()

    def _one(
        self, slide: SlideInput, job: Job, on_progress: Callable[[SlideInput, Progress], None]
    ) -> Outcome:
        folder = self.out / slide.name
        mpp = slide.mpp if slide.mpp is not None else self.map_options.slide_mpp
        recipe = SlideRecipe(slide.path, mpp, slide.mpp_source, self.map_options.reader, job.spec)
        try:
            manifest, skipped = job.segment(recipe, folder, lambda progress: on_progress(slide, progress))
        except WsisegError as error:
            log.debug("%s failed", slide.path, exc_info=True)
            return Outcome(slide, "failed", folder, reason=str(error))
        return Outcome(slide, "skipped" if skipped else "done", folder, manifest)


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
