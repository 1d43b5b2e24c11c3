"""The same tissue in every container: does a bundle draw the same outlines? A line for each file.

    python scripts/containers.py ../shared/slides --thresholds 0.05 0.1 0.2

Every file of ``derived/`` holds the pixels of CMU-1-Small-Region.svs, compressed again as JPEG: two and two
of them alike, all otherwise than the first. Columns: the mean difference of the tumour probability from that
of the first file, and for each threshold the outlined area in mm² and its Dice with the outlines of the first
file and of the file that is compressed alike, where both hold tissue. No region or hole is dropped: one that
is just large enough in one file and not in the other says nothing of containers. A bundle that finds
nothing at its own threshold is compared at lower ones. Ends with 1 where two that are alike differ more
than a Dice of 0.99.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from wsiseg.canvas import ProbabilityMap
from wsiseg.drawn import read_drawn
from wsiseg.inputs import SlideInput
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.reoutline import reoutline
from wsiseg.run import Batch

CMU = "real/CMU-1-Small-Region.svs"
DERIVED = (
    "aperio-3level-jpeg.svs",
    "hamamatsu.ndpi",
    "mirax.mrxs",
    "generic-pyramid-nompp.tiff",
    "dicom-cmu-1-small-region-colourfixed/level-0-frames-0-30.dcm",
)
ALIKE = {"mirax.mrxs": "hamamatsu.ndpi", "generic-pyramid-nompp.tiff": "aperio-3level-jpeg.svs"}
"""Files that are compressed as another is, before which they do not stand."""
MPP = 0.499
FRAME = shapely.box(0, 0, 2208, 2960)
"""What the smallest container holds, in level-0 pixels from the corner of the bounds."""
LEAST_DICE = 0.99

Map = npt.NDArray[np.float32]


def outlined(folder: Path, threshold: float) -> BaseGeometry:
    """The outlines of a finished slide at a threshold, as one geometry."""
    manifest = reoutline(folder, {"threshold": threshold, "min_area": 0.0, "min_hole": 0.0})
    if not manifest.counts.polygons:
        return shapely.Polygon()
    return shapely.union_all(read_drawn(folder / "tumor.geojson", "Tumor").polygons_N).intersection(FRAME)


def dice(one: BaseGeometry, other: BaseGeometry) -> float:
    """Dice of two areas; 1 where both are empty."""
    both = one.area + other.area
    return 2 * one.intersection(other).area / both if both else 1.0


def probability(folder: Path) -> Map:
    """The map's tumour probability (Y, X)."""
    canvas = ProbabilityMap.open(folder / "probability.zarr")
    found_YX: Map = canvas.read(canvas.grid.extent)[0] / np.float32(255)
    return found_YX


def main() -> int:
    """Segment every container and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("slides", type=Path, help="the folder that holds real/ and derived/")
    parser.add_argument("--model", default=MapOptions().model)
    parser.add_argument("--folds", type=int, help="use only so many of the bundle's networks")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    given = parser.parse_args()
    paths = [given.slides / CMU, *(given.slides / "derived" / name for name in DERIVED)]
    options = MapOptions(model=given.model, folds=given.folds, slide_mpp=MPP)
    heads = "".join(f" mm² at {t:g} | Dice | alike |" for t in given.thresholds)
    print(
        f"| file | reader | mean difference |{heads}\n|---|---|---|{'---|---|---|' * len(given.thresholds)}"
    )
    right = True
    with tempfile.TemporaryDirectory() as name:
        batch = Batch(Path(name), options, PolygonOptions())
        every: dict[str, tuple[Map, list[BaseGeometry]]] = {}
        for number, path in enumerate(paths):
            (outcome,) = batch.run([SlideInput(path, f"slide-{number}")], lambda *_: None)
            if outcome.manifest is None:
                print(f"{path.name}: {outcome.reason}")
                return 1
            here = probability(outcome.folder), [outlined(outcome.folder, t) for t in given.thresholds]
            every[path.name] = here
            first, like = every[paths[0].name], every.get(ALIKE.get(path.name, ""))
            height, width = (min(a, b) for a, b in zip(here[0].shape, first[0].shape, strict=True))
            apart = np.abs(here[0][:height, :width] - first[0][:height, :width]).mean()
            cells = ""
            for nth, one in enumerate(here[1]):
                same = None if like is None else dice(one, like[1][nth])
                right &= same is None or same >= LEAST_DICE
                told = "" if same is None else f"{same:.4f}"
                cells += f" {one.area * MPP**2 / 1e6:.4f} | {dice(one, first[1][nth]):.4f} | {told} |"
            print(f"| {path.name} | {outcome.manifest.slide.reader} | {apart:.5f} |{cells}", flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
