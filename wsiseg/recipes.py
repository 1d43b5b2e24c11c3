"""How a worker gets a slide and a predictor: small values that travel, for handles never do."""

from dataclasses import dataclass
from pathlib import Path

from wsiseg.bundle import BundleSpec
from wsiseg.location import Location
from wsiseg.options import Engine
from wsiseg.pipeline import Predict
from wsiseg.readers import open_slide
from wsiseg.readers.preflight import preflight
from wsiseg.readers.pyramid import PyramidSlide

__all__ = ["EnsembleRecipe", "SlideRecipe"]


@dataclass(frozen=True, slots=True)
class SlideRecipe:
    """How a worker opens a slide; equal for every block of one slide.

    ``fingerprint`` is that of a slide that was opened before; one without is looked at in a
    process of its own first.
    """

    path: Location
    mpp: float | None
    mpp_source: str
    reader: str
    spec: BundleSpec
    fingerprint: str | None = None
    sparing: bool = False

    def __call__(self) -> PyramidSlide:
        """Open the slide.

        Raises:
            SlideError: it cannot be opened, or its resolution is unknown.
        """
        if self.fingerprint is None:
            preflight(self.path, reader=self.reader, sparing=self.sparing)
        slide = open_slide(
            self.path,
            mpp=self.mpp,
            mpp_source=self.mpp_source,
            reader=self.reader,
            kernel=self.spec.resample,
            known_fingerprint=self.fingerprint,
        )
        return slide.for_patches()


@dataclass(frozen=True, slots=True)
class EnsembleRecipe:
    """How a worker loads the folds of a bundle."""

    folder: Path
    device: str
    batch: int
    fp32: bool
    folds: int | None
    engine: Engine = "auto"

    def __call__(self) -> Predict:
        """Load the weights; torch is loaded here and nowhere before.

        Raises:
            BundleError, DeviceError: see ``wsiseg.ensemble.load_ensemble`` and ``wsiseg.vino.on_engine``.
        """
        from wsiseg.ensemble import load_ensemble  # noqa: PLC0415 - only where a network is run
        from wsiseg.vino import on_engine  # noqa: PLC0415

        predictor = load_ensemble(
            self.folder, device=self.device, batch=self.batch, fp32=self.fp32, folds=self.folds
        )
        return on_engine(predictor, self.engine)
