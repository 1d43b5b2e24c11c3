"""What a user may choose, as frozen values whose fields carry their own help.

The command line, the manifest and the job's key are all made from these fields, so an
option cannot be accepted and forgotten.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

__all__ = ["DEFAULT_BUNDLE", "ClusterOptions", "Engine", "InputOptions", "MapOptions", "PolygonOptions"]

DEFAULT_BUNDLE = "adeno-union"
Engine = Literal["auto", "torch", "openvino"]
"""What runs a network on a CPU; auto is openvino where it is installed."""


def _option(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True, slots=True)
class PolygonOptions:
    """How the stored map becomes polygons; None means what the bundle's author chose."""

    threshold: float | None = _option(
        None,
        "Probability from which a pixel is tumour; the bundle's own by default.",
        metavar="P",
        range=(0, 1),
        above=True,
    )
    min_area: float | None = _option(
        None,
        "Drop regions smaller than so many µm²; the bundle's own by default.",
        metavar="UM2",
        range=(0, None),
    )
    sure: float | None = _option(
        None,
        "Keep a region only if as much of it as --min-area (a pixel at least) reaches this probability too; "
        "0, or no more than --threshold, asks for nothing. The bundle's own by default.",
        metavar="P",
        range=(0, 1),
    )
    min_hole: float | None = _option(
        None,
        "Fill holes smaller than so many µm²; the bundle's own by default.",
        metavar="UM2",
        range=(0, None),
    )
    simplify: float = _option(
        1.0,
        "Let outlines stray by so many canvas pixels; 0 keeps pixel edges.",
        metavar="PX",
        range=(0, None),
    )
    origin: Literal["qupath", "level0"] = _option(
        "qupath",
        "Where (0, 0) is: qupath crops to the slide's bounds as QuPath does, level0 does not.",
        choices=("qupath", "level0"),
    )
    review: float | None = _option(
        None,
        "Class regions whose fold disagreement is above this as 'Tumor: Review'; the bundle's own by "
        "default, 0.5 is never.",
        metavar="SD",
        range=(0, 0.5),
    )
    object_type: Literal["annotation", "detection"] = _option(
        "annotation", "What QuPath makes of a region.", choices=("annotation", "detection")
    )
    max_vertices: int = _option(
        200_000,
        "Simplify further until a slide has no more vertices than this; QuPath slows down above it.",
        metavar="N",
        range=(1000, None),
    )
    gzip: bool = _option(False, "Write tumor.geojson.gz, which QuPath opens as it is.")
    heatmap: bool = _option(False, "Write heatmap.ome.tif too: the probability as an image for QuPath.")


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How a slide becomes a probability map."""

    model: str = _option(
        DEFAULT_BUNDLE, "A bundle's name (see wsiseg models list) or folder.", metavar="NAME|DIR"
    )
    slide_mpp: float | None = _option(
        None,
        "Microns per level-0 pixel, where the slide does not say or is wrong.",
        metavar="X",
        range=(0, None),
    )
    reader: str = _option(
        "auto", "Which reader is used: auto, openslide, tiffslide, zarr, image, …", metavar="NAME"
    )
    tissue: str = _option(
        "auto",
        "auto: only patches with tissue are run; none: all of them; a GeoJSON file of regions drawn in "
        "QuPath, or a folder with one for each slide: only patches that touch those.",
        metavar="auto|none|PATH",
    )
    tissue_class: str | None = _option(
        None, "Of the regions that --tissue names only those of this class.", metavar="NAME"
    )
    device: str = _option("auto", "auto, cpu, cuda, cuda:1, mps.", metavar="DEVICE")
    batch: int = _option(
        4,
        "Patches per forward pass on a GPU; auto begins with 64 and halves until they fit.",
        flags=("-b",),
        metavar="N|auto",
        range=(1, None),
        auto=64,
    )
    engine: Literal["auto", "torch", "openvino"] = _option(
        "auto",
        "What runs the network on a CPU: openvino, torch, or auto: openvino where its extra is installed.",
        choices=("auto", "torch", "openvino"),
    )
    fp32: bool = _option(False, "Compute in float32 even where bfloat16 is faster.")
    folds: int | None = _option(
        None, "Use only the first so many folds of the bundle.", metavar="N", range=(1, None)
    )
    block: int = _option(
        2, "Patches along a block's side: memory against reading a margin twice.", metavar="N", range=(1, 16)
    )
    skip_unreadable: bool = _option(
        False, "Leave regions that cannot be decoded empty, and name them, instead of failing the slide."
    )
    threads: int | None = _option(
        None,
        "Blocks in flight: one on the device, the others being read. By default 3, for a GPU as many as "
        "each process has cores, from 3 to 8.",
        metavar="N",
        range=(1, None),
    )
    read_timeout: float = _option(
        600.0, "Give a slide up that gives no pixels for so many seconds.", metavar="S", range=(0, None)
    )


@dataclass(frozen=True, slots=True)
class InputOptions:
    """Which slides are meant besides those that are named one by one."""

    recursive: bool = _option(False, "Look for slides in the folders of the folders too.")
    slide_list: str | None = _option(
        None, "A table of slides: path, and where wanted mpp and name.", metavar="CSV"
    )


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Who does the work; moves no byte of a result."""

    workers: int | None = _option(
        None,
        "Processes of this machine that share the work, each on its own GPU where there are several; "
        "0 works in threads of this one. By default 1 for several slides, so that one which ends the "
        "process that decodes it costs only itself, and 0 for one.",
        flags=("-j",),
        metavar="N",
        range=(0, None),
    )
    scheduler: str | None = _option(
        None,
        "Work on a Dask cluster that runs already: tcp://host:port or the scheduler's file.",
        metavar="ADDRESS|FILE",
    )
    tls_ca: str | None = _option(None, "The cluster's certificate authority, for tls://.", metavar="FILE")
    tls_cert: str | None = _option(None, "Our certificate, for tls://.", metavar="FILE")
    tls_key: str | None = _option(None, "The key of our certificate, for tls://.", metavar="FILE")

    def for_slides(self, count: int) -> "ClusterOptions":
        """The same with the number of processes chosen, for so many slides."""
        return self if self.workers is not None else replace(self, workers=int(count > 1))
