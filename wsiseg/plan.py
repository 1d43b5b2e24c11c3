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
from wsiseg.overview import MAX_PX
from wsiseg.shrink import LATTICE
from wsiseg.shrink import METHOD as RESAMPLING
from wsiseg.slide import SlideInfo
from wsiseg.tissue import METHOD, mask_factor

__all__ = ["PER_BLOCK", "Plan", "make_plan"]

log = logging.getLogger(__name__)

PER_BLOCK = 2
"""Patch cores along a block's side: the smallest number at which most of a read is not margin."""

"""Canvas pixels that are made whole on level 0; see decision 0002."""

COARSE_WARNING, COARSE_LIMIT = 1.5, 4.0
"""Slide µm per canvas µm above which we warn of upsampling, and above which we refuse."""

ACTIVATION_BYTES_PER_PX = 520
"""Peak working memory of one forward pass of the FPN, per input pixel (mit_b0, fp32, measured; bf16 350)."""

LIBRARY_BYTES = 780 * 2**20
"""Memory of Python, torch, the slide libraries and a small ensemble before any work (measured)."""

THUMBNAIL_BYTES_PER_PX = 24
"""Peak working memory of finding tissue, per pixel of the thumbnail (measured: 23.8)."""

SLIDE_BYTES = 2 * 64 * 2**20
"""Memory of a slide in work: decoded tiles, kept by its handle, and pieces kept for blocks to come."""

OVERVIEW_BYTES = 5 * 3 * MAX_PX**2
"""Memory of the overview: the thumbnail, as it is and with outlines, tint and frame."""

PIECE_BYTES = 56 * 2**20
"""Memory of decoding the largest piece that is read at once (measured: 40, and what the allocator keeps)."""

OUTLINE_BYTES_PER_PX = 30
"""Peak working memory of outlining a block that is all tumour, per canvas pixel (measured: 24)."""

FOUND_CORNERS = 2_000_000
"""Corners of a slide's outlines that are foretold: an outline of 1.5 m. A slide of more is told of."""
FOUND_BYTES = 200 * FOUND_CORNERS
"""Memory of joining and exporting them (measured: 140 for each of so many, up to 400 where they are few)."""
MOST_CORNERS = 25 * FOUND_CORNERS
"""A slide of more is refused: 10 GB for outlines that no program would open."""

STORED_BYTES_PER_PX = 1.0
"""Disk for one canvas pixel: two channels and their pyramid, after compression (measured, rounded up)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One slide, one model, and how the one is cut for the other.

    ``numerics`` names what arithmetic the predictor does (``"cpu bfloat16"``): other
    arithmetic gives other bits, so a half-done map is not continued with it. ``sparing``
    leaves regions empty that cannot be decoded, instead of failing the slide.
    """

    slide: SlideInfo
    spec: BundleSpec
    scale: Scale
    grid: Grid
    numerics: str = "any"
    tissue: str = "auto"
    sparing: bool = False

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
            "resampling": f"{spec.resample}, {RESAMPLING}",
            "level-0 px per canvas px": self.scale.factor,
            "patch": [self.grid.patch, self.grid.margin],
            "block": self.grid.per_block,
            "numerics": self.numerics,
            "tissue": METHOD if self.tissue == "auto" else self.tissue,
            **({"unreadable regions": "left empty"} if self.sparing else {}),
        }

    @property
    def key(self) -> str:
        """The sha256 (hex) of ``settings``: two runs with one key write the same map."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def bytes_per_block(self) -> int:
        """Memory of one block in flight: its patches, every fold's answer, its outlines."""
        grid = self.grid
        patches = grid.per_block**2 * grid.patch**2 * (3 + 4 * len(self.spec.folds))
        return PIECE_BYTES + patches + grid.chunk**2 * OUTLINE_BYTES_PER_PX

    def predict_bytes(self, batch: int = 1) -> int:
        """Memory of one forward pass of one fold over so many patches."""
        return batch * self.grid.patch**2 * ACTIVATION_BYTES_PER_PX

    def peak_bytes(self, threads: int, passes: int = 1) -> int:
        """Memory of a run in threads: libraries, two slides, blocks in flight, forward passes, outlines.

        Only the thumbnail grows with the slide, up to 768 MiB. Judging the focus takes less than the
        thumbnail that it follows. Outlines of more than ``FOUND_CORNERS`` take more, and are told of.
        """
        per_mask_px = math.inf if self.tissue == "none" else mask_factor(self.slide)
        thumbnail = PIECE_BYTES + math.ceil(self.slide.bounds.area / per_mask_px**2 * THUMBNAIL_BYTES_PER_PX)
        blocks = threads * self.bytes_per_block() + self.predict_bytes(passes)
        return LIBRARY_BYTES + 2 * SLIDE_BYTES + blocks + thumbnail + OVERVIEW_BYTES + FOUND_BYTES

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
    sparing: bool = False,
) -> Plan:
    """Lay the canvas of a bundle over a slide.

    Args:
        slide: the slide's facts.
        spec: the bundle's facts; its ``canvas_mpp`` is met to within one part in
            ``2 × lattice × factor`` (0.3 % for a 20x slide), see ``Plan.mpp``.
        per_block: patch cores along a block's side; decides memory, never a pixel.
        numerics: see ``Plan``.
        tissue: how tissue is found.
        sparing: see ``Plan``.

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
    unit = min(LATTICE, _power_of_two_in(math.gcd(spec.input_px, spec.margin)))
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
    return Plan(slide, spec, scale, grid, numerics, tissue, sparing)


def _power_of_two_in(number: int) -> int:
    """The largest power of two that divides a number.

    >>> _power_of_two_in(96)
    32
    """
    return number & -number
