"""What will be done to one slide, decided from facts alone: no pixel has been read yet.

The plan may refuse. It also foretells memory, disk and time, so that a night of work fails
in its first second if it must fail at all.
"""

import hashlib
import json
import logging
import math
from dataclasses import dataclass

from wsiseg.bundle import BundleSpec
from wsiseg.errors import PlanError, ResolutionError
from wsiseg.geometry import Scale
from wsiseg.grid import Grid
from wsiseg.slide import SlideInfo

__all__ = ["PER_BLOCK", "Plan", "make_plan"]

log = logging.getLogger(__name__)

PER_BLOCK = 2
"""Patch cores along a block's side: the smallest number at which most of a read is not margin."""

FINEST_LATTICE = 128
"""Canvas pixels that are made whole on level 0; see decision 0002."""

COARSE_WARNING, COARSE_LIMIT = 1.5, 4.0
"""Slide µm per canvas µm above which we warn of upsampling, and above which we refuse."""

ACTIVATION_BYTES_PER_PX = 520
"""Peak working memory of one forward pass of the FPN, per input pixel (mit_b0, fp32, measured; bf16 350)."""

LIBRARY_BYTES = 780 * 2**20
"""Memory of Python, torch, the slide libraries and a small ensemble before any work (measured)."""

THUMBNAIL_BYTES_PER_PX = 50
"""Peak working memory of finding tissue, per pixel of the thumbnail (measured)."""

THUMBNAIL_MPP = 8.0
"""Microns per pixel of the thumbnail; as in ``tissue``, which this module does not know."""

STORED_BYTES_PER_PX = 1.0
"""Disk for one canvas pixel: two channels and their pyramid, after compression (measured, rounded up)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One slide, one model, and how the one is cut for the other.

    ``numerics`` names what arithmetic the predictor does (``"cpu bfloat16"``): other
    arithmetic gives other bits, so a half-done map is not continued with it.
    """

    slide: SlideInfo
    spec: BundleSpec
    scale: Scale
    grid: Grid
    numerics: str = "any"
    tissue: str = "auto"

    @property
    def mpp(self) -> float:
        """Microns per canvas pixel: what the lattice makes of the bundle's wish."""
        return self.slide.mpp * self.scale.factor

    @property
    def settings(self) -> dict[str, object]:
        """Everything that decides the map's bytes, in words that a message can show."""
        spec = self.spec
        return {
            "slide": self.slide.fingerprint,
            "reader": self.slide.reader,
            "microns per pixel": self.slide.mpp,
            "weights": spec.weights_key,
            "folds": len(spec.folds),
            "temperature": spec.temperature,
            "normalisation": [*spec.mean, *spec.std],
            "resampling": spec.resample,
            "level-0 px per canvas px": self.scale.factor,
            "patch": [self.grid.patch, self.grid.margin],
            "block": self.grid.per_block,
            "numerics": self.numerics,
            "tissue": self.tissue,
        }

    @property
    def key(self) -> str:
        """The sha256 (hex) of ``settings``: two runs with one key write the same map."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def bytes_per_block(self, batch: int = 1) -> int:
        """Memory that one block in flight takes, its patches predicted ``batch`` at a time."""
        grid, level = self.grid, self._read_downsample
        side = grid.chunk + 2 * grid.margin
        decoded = (side * self.scale.factor / level) ** 2 * 7  # RGBA as decoded, RGB beside it
        kept = side**2 * 3 + grid.chunk**2 * 2
        return math.ceil(decoded + kept + self.predict_bytes(batch))

    def predict_bytes(self, batch: int = 1) -> int:
        """Memory of one forward pass of one fold, with every fold's map kept."""
        return batch * self.grid.patch**2 * (ACTIVATION_BYTES_PER_PX + 3 + 6 * len(self.spec.folds))

    def peak_bytes(self, threads: int, passes: int = 1) -> int:
        """Memory of a whole run: libraries, blocks in flight, forward passes side by side, a thumbnail.

        Only the thumbnail grows with the slide, and what is found on it.
        """
        reading = self.bytes_per_block() - self.predict_bytes()
        per_mask_px = max(1, round(THUMBNAIL_MPP / self.slide.mpp)) if self.tissue != "none" else math.inf
        thumbnail = self.slide.bounds.area / per_mask_px**2 * THUMBNAIL_BYTES_PER_PX
        working = threads * reading + self.predict_bytes(passes)
        return LIBRARY_BYTES + math.ceil(working + thumbnail)

    @property
    def _read_downsample(self) -> float:
        return max((d for d in self.slide.downsamples if d <= self.scale.factor * 1.001), default=1.0)

    def disk_bytes(self, patches: int) -> int:
        """Disk that the map of so many predicted patches takes."""
        return math.ceil(min(patches * self.grid.core**2, self.grid.extent.area) * STORED_BYTES_PER_PX)


def make_plan(
    slide: SlideInfo,
    spec: BundleSpec,
    *,
    per_block: int = PER_BLOCK,
    numerics: str = "any",
    tissue: str = "auto",
) -> Plan:
    """Lay the canvas of a bundle over a slide.

    Args:
        slide: the slide's facts.
        spec: the bundle's facts; its ``canvas_mpp`` is met to within one part in
            ``2 × lattice × factor`` (0.3 % for a 20x slide), see ``Plan.mpp``.
        per_block: patch cores along a block's side; decides memory, never a pixel.
        numerics: see ``Plan``.
        tissue: how tissue is found.

    Raises:
        ResolutionError: the slide is far coarser than what the network was trained on.
    """
    wanted = spec.canvas_mpp / slide.mpp
    if wanted * COARSE_LIMIT < 1:
        msg = (
            f"{slide.name} has {slide.mpp:g} µm per pixel, too coarse for {spec.name}, which works at "
            f"{spec.mpp:g}; check --slide-mpp, or use a bundle trained for it"
        )
        raise ResolutionError(msg)
    if wanted * COARSE_WARNING < 1:
        log.warning(
            "%s has %g µm per pixel and is enlarged %.1f times: the network expects finer detail",
            slide.name,
            slide.mpp,
            1 / wanted,
        )
    unit = min(FINEST_LATTICE, _power_of_two_in(math.gcd(spec.input_px, spec.margin)))
    scale = Scale.snapped(wanted, unit, x=slide.bounds.x, y=slide.bounds.y)
    if not slide.bounds:
        msg = f"{slide.name} has no pixels inside its bounds {slide.bounds}"
        raise PlanError(msg)
    grid = Grid(
        width=math.ceil(slide.bounds.w / scale.factor),
        height=math.ceil(slide.bounds.h / scale.factor),
        patch=spec.input_px,
        margin=spec.margin,
        per_block=per_block,
    )
    return Plan(slide, spec, scale, grid, numerics, tissue)


def _power_of_two_in(number: int) -> int:
    """The largest power of two that divides a number.

    >>> _power_of_two_in(96)
    32
    """
    return number & -number
