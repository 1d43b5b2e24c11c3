"""The README's table of formats: each row is printed only when its checks have just passed on its file.

    python scripts/format_table.py ../shared           print the table
    python scripts/format_table.py ../shared --write   put it into README.md

The files are those of ``slides/`` in the folder given, and containers made here from the pixels of
one of them. A check that fails ends the script: there is no row without evidence.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile
import zarr
from PIL import Image

from wsiseg.geometry import L0, Box
from wsiseg.readers import open_slide
from wsiseg.readers.pyramid import PyramidSlide

CMU = "CMU-1-Small-Region.svs"
README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- formats: made by scripts/format_table.py -->\n", "<!-- end of formats -->\n"
LIKE = 6.0
"""Grey levels by which two lossy compressions of one tissue may differ, on average."""
NEAR = 1.0
"""The same for two decoders of one file."""
PLACE: Box[L0] = Box(400, 800, 1200, 1200)

Rgb = npt.NDArray[np.uint8]
Check = Callable[[PyramidSlide, Path, Path], str]


@dataclass(frozen=True)
class Row:
    """A format, the file that stands for it, and what is checked on it."""

    format: str
    reader: str
    file: str
    check: Check


def off(one: Rgb, other: Rgb) -> float:
    """The mean difference of two pictures, in grey levels."""
    assert one.shape == other.shape, (one.shape, other.shape)
    return float(np.abs(one.astype(int) - other).mean())


def like_tifffile(slide: PyramidSlide, path: Path, _: Path) -> str:
    """Level 0 against another library's decoding of it."""
    with tifffile.TiffFile(path) as tiff:
        whole = tiff.series[0].asarray()
    found = slide.read(slide.info.extent, whole.shape[:2])
    assert off(found, whole) <= NEAR, off(found, whole)
    return "level 0 is what tifffile decodes"


def like_cmu(slide: PyramidSlide, path: Path, cmu: Path) -> str:
    """A region against the same tissue in the file it was derived from.

    Coarser levels were made by the container's writer, more or less sharp: of them only the place is judged.
    """
    bounds = slide.info.bounds
    there: Box[L0] = Box(bounds.x + PLACE.x, bounds.y + PLACE.y, PLACE.w, PLACE.h)
    with open_slide(cmu) as first:
        for side in (1200, 800):
            apart = off(first.read(PLACE, (side, side)), slide.read(there, (side, side)))
            assert apart <= LIKE, (path.name, side, apart)
        coarse = slide.read(there, (300, 300))
        places = {by: Box[L0](PLACE.x + by, PLACE.y + by, PLACE.w, PLACE.h) for by in (-2, 0, 2)}
        apart_by = {by: off(first.read(place, (300, 300)), coarse) for by, place in places.items()}
        assert min(apart_by, key=lambda by: apart_by[by]) == 0, (path.name, apart_by)
    return f"the tissue of {CMU}, its coarser levels in place"


def same_as_cmu(slide: PyramidSlide, _: Path, cmu: Path) -> str:
    """All pixels against those it was made from."""
    with open_slide(cmu) as first:
        whole = first.read(PLACE, (PLACE.h, PLACE.w))
    assert np.array_equal(slide.read(slide.info.extent, whole.shape[:2]), whole)
    return f"every pixel is that of {CMU}, from which it was made"


ROWS = (
    Row("Aperio SVS, JPEG", "openslide", f"real/{CMU}", like_tifffile),
    Row("Aperio SVS, JPEG, 3 levels", "openslide", "derived/aperio-3level-jpeg.svs", like_cmu),
    Row("Aperio SVS, JPEG 2000", "openslide", "real/TCGA-CR-7395-01A-01-TS1.svs", like_tifffile),
    Row("Hamamatsu NDPI", "openslide", "derived/hamamatsu.ndpi", like_cmu),
    Row("3DHISTECH MIRAX", "openslide", "derived/mirax.mrxs", like_cmu),
    Row(
        "DICOM",
        "openslide",
        "derived/dicom-cmu-1-small-region-colourfixed/level-0-frames-0-30.dcm",
        like_cmu,
    ),
    Row("tiled TIFF pyramid", "openslide", "derived/generic-pyramid-nompp.tiff", like_cmu),
    Row("tiled TIFF pyramid", "openslide", "real/CropBreastSlide.tiff", like_tifffile),
    Row("OME-TIFF", "tiffslide", "real/qupath-OS-1-detail.ome.tif", like_tifffile),
    Row("OME-TIFF", "tiffslide", "real/instanseg-HE_example.tif", like_tifffile),
    Row("OME-TIFF, tiled pyramid", "tiffslide", "made/levels.ome.tif", same_as_cmu),
    Row("flat TIFF", "tiffslide", "made/flat.tif", same_as_cmu),
    Row("OME-Zarr 0.4 (zarr v2)", "zarr", "made/v2.zarr", same_as_cmu),
    Row("OME-Zarr 0.5 (zarr v3)", "zarr", "made/v3.zarr", same_as_cmu),
    Row("PNG", "image", "made/patch.png", same_as_cmu),
)


def make(folder: Path, cmu: Path) -> None:
    """Write the same pixels in containers of which no slide is at hand."""
    with open_slide(cmu) as slide:
        rgb_YX3 = slide.read(PLACE, (PLACE.h, PLACE.w))
    tifffile.imwrite(folder / "flat.tif", rgb_YX3, photometric="rgb", metadata=None)
    Image.fromarray(rgb_YX3).save(folder / "patch.png")
    with tifffile.TiffWriter(folder / "levels.ome.tif", ome=True) as tiff:
        layout: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb"}
        size = {"axes": "YXS", "PhysicalSizeX": 0.499, "PhysicalSizeY": 0.499}
        tiff.write(rgb_YX3, subifds=2, metadata=size, **layout)
        for step in (2, 4):
            tiff.write(np.ascontiguousarray(rgb_YX3[::step, ::step]), subfiletype=1, **layout)
    scale = [{"type": "scale", "scale": [1.0, 0.499, 0.499]}]
    axes = [{"name": "c", "type": "channel"}] + [
        {"name": name, "type": "space", "unit": "micrometer"} for name in "yx"
    ]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    old = {"multiscales": [image | {"version": "0.4"}]}
    new = {"ome": {"version": "0.5", "multiscales": [image]}}
    kinds: list[tuple[str, Literal[2, 3], dict[str, Any]]] = [("v2.zarr", 2, old), ("v3.zarr", 3, new)]
    for name, zarr_format, about in kinds:
        group = zarr.open_group(folder / name, mode="w", zarr_format=zarr_format)
        group.create_array("0", data=rgb_YX3.transpose(2, 0, 1), chunks=(3, 512, 512))
        group.attrs.update(about)


def rows(shared: Path) -> Iterator[str]:
    """The lines of the table, each after its checks have passed."""
    yield "| format | `--reader` | file | checked |"
    yield "|---|---|---|---|"
    slides = shared / "slides"
    cmu = slides / "real" / CMU
    with tempfile.TemporaryDirectory() as made:
        make(Path(made), cmu)
        for row in ROWS:
            folder, _, name = row.file.partition("/")
            path = Path(made) / name if folder == "made" else slides / row.file
            with open_slide(path, mpp=0.499) as slide:
                library = slide.info.reader.split()[0]
                assert library == {"image": "pillow"}.get(row.reader, row.reader), slide.info.reader
                count = len(slide.info.downsamples)
                levels = f"{count} level{'s' if count > 1 else ''}"
                yield f"| {row.format} | {row.reader} | {name} | {levels}; {row.check(slide, path, cmu)} |"


def table(shared: Path) -> str:
    """The whole table, as it stands in the README."""
    return "".join(f"{line}\n" for line in rows(shared))


def main(arguments: list[str]) -> int:
    """Check, and print the table or write it into the README."""
    parser = argparse.ArgumentParser(description="Make the README's table of formats from what passes.")
    parser.add_argument("shared", type=Path, help="the folder that holds slides/")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    given = parser.parse_args(arguments)
    found = table(given.shared)
    if given.write:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(before + BEGIN + found + END + rest.partition(END)[2])
    else:
        print(found, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
