"""JPEG tiles decoded past OpenSlide are OpenSlide's pixels, and damage is damage to both."""

import importlib.util
import os
import random
import runpy
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openslide
import pytest
import tifffile

from wsiseg.errors import SlideOpenError, SlideReadError
from wsiseg.geometry import L0, Box
from wsiseg.readers import open_slide
from wsiseg.readers.openslide_reader import OpenSlideLevels
from wsiseg.readers.tile_index import TileIndex

if importlib.util.find_spec("simplejpeg") is None:
    pytest.skip("simplejpeg has no wheel here: OpenSlide decodes all itself", allow_module_level=True)

Rgb = npt.NDArray[np.uint8]
MAKE_SLIDE = Path(__file__).parents[1] / "scripts" / "make_slide.py"
REAL = {
    "real/CMU-1-Small-Region.svs": "tables shared, RGB",
    "real/CropBreastSlide.tiff": "tables shared, RGB, generic",
    "derived/aperio-3level-jpeg.svs": "tables in each tile, YCbCr",
    "derived/generic-pyramid-nompp.tiff": "tables in each tile, YCbCr, generic",
}


def draw(path: Path, **how: Any) -> Path:
    script = runpy.run_path(str(MAKE_SLIDE))
    script["write"](path, script["Drawing"](3072, 2816, discs=(script["Disc"](1600, 1500, 500),), **how))
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("drawn") / "a.svs")


def both(path: Path) -> tuple[OpenSlideLevels, OpenSlideLevels]:
    """A slide read past OpenSlide, and by OpenSlide alone."""
    past, alone = OpenSlideLevels(path), OpenSlideLevels(path, past=False)
    assert past.facts.reader.partition("+")[::2] == (alone.facts.reader, f"simplejpeg-{_version()}")
    return past, alone


def _version() -> str:
    return importlib.import_module("simplejpeg").__version__  # type: ignore[no-any-return]


def assert_same_in_random_boxes(past: OpenSlideLevels, alone: OpenSlideLevels, count: int = 12) -> int:
    """On every level on which OpenSlide does not interpolate; tells on how many."""
    rng, exact = random.Random(7), 0  # noqa: S311 - cases, no secrets
    for number, level in enumerate(alone.facts.levels):
        if not level.whole:
            continue
        exact += 1
        for _ in range(count):
            w, h = rng.randint(1, min(900, level.width)), rng.randint(1, min(900, level.height))
            box = rng.randint(0, level.width - w), rng.randint(0, level.height - h), w, h
            assert np.array_equal(
                past.read_level(number, box).pixels, alone.read_level(number, box).pixels
            ), box
    return exact


@pytest.mark.parametrize("name", REAL)
def test_real_slides_have_openslides_pixels_on_every_level(shared: Path, name: str) -> None:
    past, alone = both(shared / "slides" / name)
    assert assert_same_in_random_boxes(past, alone) >= 1
    for number, level in enumerate(alone.facts.levels):  # from the corner, OpenSlide does not interpolate
        whole = 0, 0, level.width, level.height
        assert np.array_equal(
            past.read_level(number, whole).pixels, alone.read_level(number, whole).pixels
        ), number
    assert all(level.whole for level in past.facts.levels)


def test_a_drawn_slide_has_openslides_pixels_on_every_level(drawn: Path) -> None:
    assert assert_same_in_random_boxes(*both(drawn)) == 3


def test_tiles_that_a_sparse_tiff_does_not_hold_are_what_openslide_says(tmp_path: Path) -> None:
    past, alone = both(draw(tmp_path / "a.tiff", sparse=(1280, 768, 900, 1000)))
    assert past.facts.bounds == alone.facts.bounds is not None
    assert assert_same_in_random_boxes(past, alone) == 3
    corner = past.read_level(0, (0, 0, 64, 64)).pixels
    assert (corner == 255).all()


def rewritten(path: Path, page: int, tag: str, number: int, value: int) -> None:
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        values = list(tiff.pages[page].tags[tag].value)
        values[number] = value
        tiff.pages[page].tags[tag].overwrite(tuple(values))


def test_an_aperio_slide_with_a_missing_tile_is_left_to_openslide(drawn: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    shutil.copy(drawn, path)
    rewritten(path, 0, "TileByteCounts", 70, 0)
    with open_slide(path) as slide:
        assert slide.info.reader == f"openslide {openslide.__library_version__}"


def place_of(path: Path, number: int, page: int = 0) -> tuple[int, int, Box[L0]]:
    """Where a tile's bytes lie in the file, how many there are, and its box on level 0."""
    with tifffile.TiffFile(path) as tiff:
        keyframe = tiff.pages[page].keyframe
        row, column = divmod(number, -(-keyframe.imagewidth // keyframe.tilewidth))
        box: Box[L0] = Box(column * keyframe.tilewidth, row * keyframe.tilelength, 200, 200)
        inside = box & Box(0, 0, keyframe.imagewidth, keyframe.imagelength)
        return keyframe.dataoffsets[number], keyframe.databytecounts[number], inside


def harmed(data: bytearray, start: int, count: int, rng: random.Random) -> str:
    """Do to a tile's bytes what disks and copies do to them."""
    kind = rng.choice(["a bit", "zeros to its end", "random bytes", "a stray marker"])
    at = start + rng.randrange(count)
    match kind:
        case "a bit":
            data[at] ^= 1 << rng.randrange(8)
        case "zeros to its end":
            data[at : start + count] = bytes(start + count - at)
        case "random bytes":
            stop = min(start + count, at + rng.randrange(1, 64))
            data[at:stop] = rng.randbytes(stop - at)
        case _:
            data[at : at + 2] = b"\xff\xc4"
    return kind


def test_a_damaged_tile_that_openslide_refuses_is_refused_by_region_and_never_a_picture(
    shared: Path, tmp_path: Path
) -> None:
    source, path = shared / "slides/real/CMU-1-Small-Region.svs", tmp_path / "bad.svs"
    rng = random.Random(3)  # noqa: S311 - cases, no secrets
    whole, seen = source.read_bytes(), Counter[str]()
    for _ in range(80):
        number = rng.randrange(100)
        start, count, box = place_of(source, number)
        data = bytearray(whole)
        harmed(data, start, count, rng)
        path.write_bytes(data)
        place = box.x, box.y, box.w, box.h
        past, alone = OpenSlideLevels(path), OpenSlideLevels(path, past=False)
        if "+simplejpeg" not in past.facts.reader:
            seen["the tile by which the index was judged"] += 1
            continue
        try:
            theirs = alone.read_level(0, place).pixels
        except openslide.OpenSlideError:
            seen["refused by OpenSlide"] += 1
            with pytest.raises(ValueError, match=r"\w"):
                past.read_level(0, place)
            continue
        finally:
            alone.close()
        try:
            ours = past.read_level(0, place).pixels
        except ValueError:
            seen["refused here only"] += 1
        else:
            seen["read by both"] += 1
            assert np.array_equal(ours, theirs)
        past.close()
    assert seen["refused by OpenSlide"] > 40, seen
    assert seen["read by both"] > 10, seen


@pytest.mark.parametrize("part", ["its first two bytes", "its second half"])
def test_the_slide_fails_by_the_region_of_the_tile_and_the_rest_can_be_read(
    drawn: Path, tmp_path: Path, part: str
) -> None:
    path, number = tmp_path / "a.svs", 5 * 12 + 6
    start, count, box = place_of(drawn, number)
    data = bytearray(drawn.read_bytes())
    first, last = (0, 2) if part == "its first two bytes" else (count // 2, count)
    data[start + first : start + last] = bytes(last - first)
    path.write_bytes(data)
    with open_slide(path) as slide:
        assert "+simplejpeg" in slide.info.reader
        with pytest.raises(SlideReadError, match=r"a\.svs: the region x=1\d+ y=1\d+ .* cannot be decoded"):
            slide.read(box, (box.h, box.w))
        beside: Box[L0] = Box(box.x - 600, box.y, 500, 200)
        with open_slide(drawn) as sound:
            assert np.array_equal(slide.read(beside, (200, 500)), sound.read(beside, (200, 500)))


def test_a_tile_beyond_the_files_end_is_refused(drawn: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    shutil.copy(drawn, path)
    rewritten(path, 0, "TileOffsets", 40, path.stat().st_size - 10)
    with pytest.raises(
        SlideOpenError, match=r"a\.svs is damaged or cut short: a tile is said to lie outside"
    ):
        open_slide(path)


def test_where_the_pixels_are_not_openslides_it_decodes_them_itself_and_the_key_says_so(
    tmp_path: Path,
) -> None:
    """Tiles that call themselves YCbCr (JFIF) in a file that calls them RGB, which OpenSlide goes by."""
    path, rng = tmp_path / "a.tiff", np.random.default_rng(0)
    rgb = rng.integers(0, 256, (512, 512, 3), np.uint8)
    stored: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}}
    tifffile.imwrite(path, rgb, tile=(256, 256), photometric="rgb", **stored)
    encode = importlib.import_module("simplejpeg").encode_jpeg
    tiles = [encode(np.ascontiguousarray(rgb[y : y + 256, x : x + 256])) for y in (0, 256) for x in (0, 256)]
    assert all(b"JFIF" in tile[:20] for tile in tiles)
    data, offsets = bytearray(path.read_bytes()), []
    for tile in tiles:
        offsets.append(len(data))
        data += tile
    path.write_bytes(data)
    for number, tile in enumerate(tiles):
        rewritten(path, 0, "TileOffsets", number, offsets[number])
        rewritten(path, 0, "TileByteCounts", number, len(tile))
    with open_slide(path, mpp=0.5) as slide:
        assert slide.info.reader == f"openslide {openslide.__library_version__}"
        found = slide.read(slide.info.extent, (512, 512))
    with openslide.OpenSlide(str(path)) as library:
        assert np.array_equal(found, np.asarray(library.read_region((0, 0), 0, (512, 512)))[..., :3])


def test_without_its_library_openslide_decodes(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiseg.readers.tile_index.find_spec", lambda _: None)
    with open_slide(drawn) as slide:
        assert slide.info.reader == f"openslide {openslide.__library_version__}"


def counted(slide: OpenSlideLevels) -> Counter[int]:
    """How often each tile is decoded from now on."""
    times, index = Counter[int](), slide._tiles
    assert index is not None
    decoded = index._decoded

    lock = threading.Lock()

    def count(grid: Any, number: int) -> Rgb:
        with lock:
            times[number] += 1
        return decoded(grid, number)

    index._decoded = count  # type: ignore[method-assign]
    return times


def test_each_tile_of_a_block_is_decoded_once(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[OpenSlideLevels] = []
    real = OpenSlideLevels.__init__

    def remembered(self: OpenSlideLevels, path: Path, *, past: bool = True) -> None:
        real(self, path, past=past)
        kept.extend([self] if past and path == drawn else [])

    monkeypatch.setattr(OpenSlideLevels, "__init__", remembered)
    with open_slide(drawn) as slide:
        times = counted(kept[0])
        slide.read(Box(300, 100, 2624, 2624), (1792, 1792))
    assert len(times) > 100
    assert set(times.values()) == {1}


def test_threads_that_want_one_tile_wait_for_the_one_that_decodes_it(drawn: Path) -> None:
    past = OpenSlideLevels(drawn)
    index, together, times = past._tiles, threading.Barrier(8), counted(past)
    assert index is not None
    decoded = index._decoded

    def slow(grid: Any, number: int) -> Rgb:
        time.sleep(0.1)  # so that the others come while it is at it
        return decoded(grid, number)

    index._decoded = slow  # type: ignore[method-assign]

    def read(_: int) -> bytes:
        together.wait()
        return past.read_level(0, (256, 256, 256, 256)).pixels.tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read, range(8)))) == 1
    assert list(times.values()) == [1]
    past.close()


def test_a_tile_that_cannot_be_decoded_is_tried_again_when_it_is_asked_for_again(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = OpenSlideLevels(drawn)
    index = past._tiles
    assert index is not None
    with monkeypatch.context() as once:
        once.setattr(os, "pread", lambda *_: b"")
        for _ in range(2):
            with pytest.raises(OSError, match="the file ends"):
                past.read_level(0, (512, 512, 256, 256))
    assert past.read_level(0, (512, 512, 256, 256)).pixels.any()
    assert index._kept_bytes == sum(tile.result().nbytes for tile in index._kept.values())
    past.close()


def test_decoded_tiles_are_kept_up_to_a_bound(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiseg.readers.tile_index.CACHE_BYTES", 10 * 256 * 256 * 3)
    past = OpenSlideLevels(drawn)
    index = past._tiles
    assert index is not None

    def read(x: int) -> bytes:
        return past.read_level(0, (x, 1000, 700, 700)).pixels.tobytes()

    alone = [read(x) for x in range(0, 2000, 100)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(0, 2000, 100))) == alone
    assert (
        index._kept_bytes == sum(tile.result().nbytes for tile in index._kept.values()) <= 10 * 256 * 256 * 3
    )
    past.close()


def test_an_index_that_is_closed_or_forgotten_holds_no_file(drawn: Path) -> None:
    past = OpenSlideLevels(drawn)
    index = past._tiles
    assert isinstance(index, TileIndex)
    past.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        index.read(0, (0, 0, 64, 64))
