"""A JPEG 2000 tile that has lost its end is damage, and not the blurred picture that OpenJPEG makes of it."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from wsiseg.errors import SlideReadError
from wsiseg.geometry import L0, Box
from wsiseg.readers import open_slide
from wsiseg.readers.codestreams import Codestreams
from wsiseg.testing.conformance import drawn

TCGA = "slides/real/TCGA-CR-7395-01A-01-TS1.svs"
RGB_YX3 = drawn(512, 512)
TILES: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg2000"}


def halved(path: Path, number: int) -> Box[L0]:
    """Zero the second half of a tile of level 0; say where it lies."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        at, count = page.dataoffsets[number], page.databytecounts[number]
        row, column = divmod(number, -(-page.imagewidth // page.tilewidth))
        side = page.tilewidth
    with path.open("r+b") as file:
        file.seek(at + count // 2)
        file.write(bytes(count - count // 2))
    return Box(column * side, row * side, side, side)


def assert_told(path: Path, number: int) -> None:
    """A read of the tile names it; the tile two further on is read."""
    box = halved(path, number)
    with open_slide(path, mpp=0.5) as slide:
        with pytest.raises(SlideReadError, match=rf"tile {number} stops before its end"):
            slide.read(box, (box.h, box.w))
        beside: Box[L0] = Box(box.x + 20, box.y + 2 * box.h + 20, 100, 100)
        assert slide.read(beside, (100, 100)).std() > 0 or not beside & slide.info.extent


def test_a_tile_of_an_svs_that_has_lost_its_end_is_told_of(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    shutil.copyfile(shared / TCGA, path)
    assert_told(path, 121)


def test_a_tile_of_an_ome_tiff_that_has_lost_its_end_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, RGB_YX3, ome=True, metadata={"axes": "YXS"}, **TILES)
    with open_slide(path, mpp=0.5) as slide:
        assert np.array_equal(slide.read(slide.info.extent, (512, 512)), RGB_YX3)
    assert_told(path, 1)


def test_tiles_that_a_writer_pads_are_read(tmp_path: Path) -> None:
    """They end with no marker, all of them: it is the file's habit and no damage."""
    first, second = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    tifffile.imwrite(first, RGB_YX3, ome=True, metadata={"axes": "YXS"}, **TILES)
    with tifffile.TiffFile(first) as tiff:
        page, content = tiff.pages.first, first.read_bytes()
        places = zip(page.dataoffsets, page.databytecounts, strict=True)
        padded = [content[at : at + count] + bytes(4) for at, count in places]
    about: dict[str, Any] = {"shape": (512, 512, 3), "dtype": np.uint8, "metadata": {"axes": "YXS"}}
    tifffile.imwrite(second, iter(padded), ome=True, **about, **TILES)
    with open_slide(second, mpp=0.5) as slide:
        assert np.array_equal(slide.read(slide.info.extent, (512, 512)), RGB_YX3)


def test_a_closed_slide_asks_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, RGB_YX3, ome=True, metadata={"axes": "YXS"}, **TILES)
    with tifffile.TiffFile(path) as tiff:
        streams = Codestreams.of_pages(path, [tiff.pages.first])
    assert streams is not None
    streams.check(0, (0, 0, 512, 512))
    handle = streams._handle
    streams.close()
    with path.open("rb") as other:
        os.dup2(other.fileno(), handle)  # the number is another file's now
        try:
            with pytest.raises(OSError, match="Bad file descriptor"):
                streams.check(0, (0, 0, 512, 512))
        finally:
            os.close(handle)
