"""Does the tissue mask lose what Otsu's threshold finds? A line for each slide.

    python scripts/tissue_recall.py SLIDE... [--mpp 0.5]

Columns: the share of Otsu's tissue (on saturation, and on grey) that the mask keeps, specks of
one pixel aside; the share of the slide that the mask calls tissue; its area; and blocks and
patches to predict, of all, on the paper's grid.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.errors import ResolutionError
from wsiseg.geometry import Box
from wsiseg.plan import make_plan
from wsiseg.readers import open_slide
from wsiseg.readers.pyramid import PyramidSlide
from wsiseg.tissue import find_slide_tissue

SPEC = BundleSpec(
    name="grid",
    encoder="mit_b0",
    folds=(FoldFile(file="fold-1.safetensors", sha256="0" * 64),),
    licence="none",
    trained_on="nothing",
)


def otsu(value_YX: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """What lies above Otsu's threshold, single pixels aside."""
    counts, edges = np.histogram(value_YX, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = counts.cumsum(), (counts * middles).cumsum()
    above = counts.sum() - below
    means = total / np.maximum(1, below), (total[-1] - total) / np.maximum(1, above)
    threshold = middles[np.argmax(below * above * (means[0] - means[1]) ** 2)]
    found_YX: npt.NDArray[np.bool_] = ndimage.binary_opening(value_YX > threshold)
    return found_YX


def line(slide: PyramidSlide) -> str:
    """The figures of one slide."""
    found = find_slide_tissue(slide)
    mask_YX, step = found.mask_YX, round(found.scale.factor)
    height, width = mask_YX.shape
    thumb = slide.read(Box(found.scale.x, found.scale.y, width * step, height * step), (height, width))
    saturation = np.ptp(thumb, axis=2) / np.maximum(1, thumb.max(axis=2))
    kept = [mask_YX[tissue].mean() for tissue in (otsu(saturation), otsu(255 - thumb.mean(axis=2)))]
    plan = make_plan(slide.info, SPEC)
    wanted = [
        sum(found.covers(plan.scale.to_l0(patch.core)) for patch in block.patches) for block in plan.grid
    ]
    return (
        f"{slide.info.name:32} {kept[0]:10.2%} {kept[1]:10.2%} {mask_YX.mean():10.1%} {found.area_mm2:8.3f} "
        f"{sum(map(bool, wanted)):4} of {len(wanted):<4} {sum(wanted):4} of {plan.grid.patches}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5, help="for slides that do not say theirs")
    options = parser.parse_args()
    print(f"{'slide':32} {'saturation':>10} {'grey':>10} {'of slide':>10} {'mm2':>8} blocks       patches")
    for path in options.slides:
        try:
            slide = open_slide(path)
        except ResolutionError:
            slide = open_slide(path, mpp=options.mpp)
        with slide:
            print(line(slide))


if __name__ == "__main__":
    main()
