"""The record of one slide: what was run, on what, with what, and what came of it.

``slide.json`` is this module's ``SlideManifest``. It holds file names but no paths, and
nothing of the slide's own metadata beyond what places and scales the result, so that no
patient field can leave with it.
"""

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from wsiseg.errors import OutputError
from wsiseg.focus import Focus
from wsiseg.plan import Plan
from wsiseg.polygons import more_asked

__all__ = [
    "Canvas",
    "Counts",
    "Model",
    "Result",
    "SlideFacts",
    "SlideManifest",
    "describe",
    "remove",
    "versions",
    "write_whole",
]

LIBRARIES = (
    "wsiseg",
    "torch",
    "segmentation-models-pytorch",
    "openslide-python",
    "tiffslide",
    "zarr",
    "shapely",
    "numpy",
)

ADVISED = ("threshold", "min_area_um2", "min_hole_um2", "sure", "review_above")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SlideFacts(_Frozen):
    """Which slide it was, and how it lies: sizes and bounds in level-0 pixels."""

    name: str
    fingerprint: str
    width: int
    height: int
    bounds: tuple[int, int, int, int]
    mpp: float
    mpp_source: str
    objective: float | None
    downsamples: tuple[float, ...]
    vendor: str
    reader: str
    colour: str = "as stored"


class Model(_Frozen):
    """Which weights did it: fold files with their sha256.

    ``advised`` is what the bundle would have the outlines made with; where ``polygon_options``
    say otherwise, somebody chose.
    """

    name: str
    encoder: str
    weights: dict[str, str]
    mpp: float
    advised: dict[str, float | None] = {}


class Canvas(_Frozen):
    """The map's own pixels: size, level-0 pixels per canvas pixel, µm per canvas pixel."""

    width: int
    height: int
    factor: float
    mpp: float


class Counts(_Frozen):
    """How much was done: blocks and patches run and resumed, polygons and vertices written."""

    blocks: int
    patches: int
    resumed_blocks: int
    polygons: int
    vertices: int


class Result(_Frozen):
    """What was found; means are weighted by area, and None where there is no tumour.

    ``tissue_fraction`` is tumour area over tissue area. Tissue of which nothing is known, because
    it cannot be decoded, counts as ``unreadable_mm2`` and not as tissue.
    """

    tumor_mm2: float = 0.0
    tissue_mm2: float | None = None
    tissue_fraction: float | None = None
    mean_probability: float | None = None
    disagreement: float | None = None
    unreadable_mm2: float = 0.0
    note: str = ""


class SlideManifest(_Frozen):
    """Everything in ``slide.json``. ``key`` decides the map's bytes, ``polygon_key`` the outlines'.

    ``unreadable`` are the regions that could not be decoded and were left empty, ``(x, y, w, h)`` in
    level-0 pixels. ``flags`` say in words what to know before trusting the result.
    """

    format: Literal[1] = 1
    key: str
    polygon_key: str
    settings: dict[str, Any]
    slide: SlideFacts
    model: Model
    canvas: Canvas
    map_options: dict[str, Any]
    polygon_options: dict[str, Any]
    counts: Counts
    unreadable: tuple[tuple[int, int, int, int], ...] = ()
    focus: Focus = Focus()
    result: Result
    flags: tuple[str, ...] = ()
    seconds: dict[str, float]
    device: str
    versions: dict[str, str]
    finished: str

    @property
    def device_idle(self) -> float | None:
        """The share of the devices' time between blocks in which they waited; None where none was timed."""
        idle_s, network_s = (self.seconds.get(stage, 0.0) for stage in ("device idle", "network"))
        return idle_s / (idle_s + network_s) if network_s else None

    @property
    def more_asked(self) -> float:
        """The probability above the threshold that each region reaches in places; 0 where none was asked."""
        how = self.polygon_options
        return more_asked(how.get("threshold", 1.0), how.get("sure", 0.0))

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        write_whole(path, (self.model_dump_json(indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> "SlideManifest":
        """The record in a file.

        Raises:
            OutputError: it is missing, damaged, or of another version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            msg = f"{path} cannot be read ({error.strerror}): give the folder of a finished slide"
            raise OutputError(msg) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "file"
            msg = f"{path} is not a slide record of this version: {where}: {first['msg']}; use --overwrite"
            raise OutputError(msg) from error


def describe(plan: Plan) -> tuple[SlideFacts, Model, Canvas]:
    """What a plan says of slide, model and canvas, as it is recorded."""
    slide, spec = plan.slide, plan.spec
    facts = SlideFacts(
        name=slide.name,
        fingerprint=slide.fingerprint,
        width=slide.width,
        height=slide.height,
        bounds=(slide.bounds.x, slide.bounds.y, slide.bounds.w, slide.bounds.h),
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        objective=slide.objective,
        downsamples=slide.downsamples,
        vendor=slide.vendor,
        reader=slide.reader,
        colour=slide.colour,
    )
    weights = {fold.file: fold.sha256 for fold in spec.folds}
    advised = {name: getattr(spec, name) for name in ADVISED}
    model = Model(name=spec.name, encoder=spec.encoder, weights=weights, mpp=spec.mpp, advised=advised)
    grid = plan.grid
    return facts, model, Canvas(width=grid.width, height=grid.height, factor=plan.scale.factor, mpp=plan.mpp)


def versions() -> dict[str, str]:
    """The versions of everything that can change a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        found[name] = importlib.metadata.version(name)
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it, and rename it into place, its folder made.

    Raises:
        OutputError: it cannot be written; nothing of an earlier file is lost.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        msg = f"{path} cannot be written: {error.strerror}"
        raise OutputError(msg) from error


def remove(path: Path) -> None:
    """Take a file away, where there is one.

    Raises:
        OutputError: it cannot be taken away.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        msg = f"{path} cannot be removed: {error.strerror}"
        raise OutputError(msg) from error
