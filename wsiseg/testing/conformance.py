"""The tests that every reader of slides is run through, ours and others'.

A package that adds a reader subclasses ``ReaderConformance`` in its own tests and lets pytest
collect the subclass::

    class TestMyReader(ReaderConformance):
        reader = "my-reader"

        def write(self, folder, levels):
            path = folder / "slide.mine"
            my_format.write(path, levels, mpp=self.mpp)
            return path

The oracle is a pyramid in memory, read by the same ``PyramidSlide``: a reader that passes gives
the pixels of every other reader that passes.
"""

import functools
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from wsiseg.errors import SlideError
from wsiseg.geometry import L0, Box
from wsiseg.readers import open_slide
from wsiseg.readers.levels import Facts, Level, Raw
from wsiseg.readers.pyramid import PyramidSlide
from wsiseg.readers.registry import choose_reader
from wsiseg.resample import resize
from wsiseg.testing import array_info

__all__ = ["AlphaConformance", "ArrayLevels", "ReaderConformance", "drawn", "pyramid_of"]

Rgb = npt.NDArray[np.uint8]
MARK = 40
"""By so much is each level bluer than the one before: it shows which one was read."""


def drawn(width: int, height: int) -> Rgb:
    """A smooth picture (Y, X, 3) in which every place is different, blue left at 20."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    red = 120 + 60 * np.sin(x / 37) + 50 * np.cos(y / 53)
    green = 120 + 60 * np.sin((x + 2 * y) / 71) + 50 * np.cos(x / 29)
    return np.stack([red, green, np.full_like(red, 20)], axis=-1).round().astype(np.uint8)


@functools.cache
def pyramid_of(width: int, height: int, factors: tuple[int, ...]) -> list[Rgb]:
    """The drawing and smaller levels of it, cut to whole pixels as scanners do; each level bluer."""
    first = drawn(width, height)
    levels = []
    for number, factor in enumerate(factors):
        w, h = width // factor, height // factor
        level = resize(np.ascontiguousarray(first[: h * factor, : w * factor]), (h, w), kernel="bilinear")
        levels.append(level + np.array([0, 0, MARK * number], np.uint8))
    return levels


class ArrayLevels:
    """A pyramid in memory, as a reader's ``Levels``."""

    def __init__(self, levels: list[Rgb]) -> None:
        self.levels = levels
        sizes = tuple(Level(level.shape[1], level.shape[0]) for level in levels)
        self.facts = Facts("array 1", "array", sizes, None, (0.5, 0.5), "test", None)

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """The pixels ``x, y, w, h`` of one level."""
        x, y, w, h = box
        return Raw(self.levels[level][y : y + h, x : x + w])

    def close(self) -> None:
        """Nothing is open."""

    def slide(self) -> PyramidSlide:
        """The pyramid as a slide."""
        height, width, _ = self.levels[0].shape
        info = array_info(width, height)
        return PyramidSlide(Path("x"), self, info, reopen=lambda _: self, kernel="bilinear")


class ReaderConformance:
    """What any reader must do; a subclass says how its format is written.

    Attributes:
        reader: the reader's name.
        factors: downsamples of the levels that are written; ``(1,)`` for a format without levels.
        mpp: microns per pixel that ``write`` writes; None where the format cannot say.
        size, odd: width and height of what is written; ``odd`` is no whole multiple of the factors.
        tolerance: grey levels by which a pixel may be off; above 0 for lossy compression only.
    """

    reader: str
    factors: ClassVar[tuple[int, ...]] = (1, 2, 4)
    size: ClassVar[tuple[int, int]] = (640, 512)
    odd: ClassVar[tuple[int, int]] = (603, 451)
    mpp: float | None = 0.5
    tolerance: float = 0

    def write(self, folder: Path, levels: list[Rgb]) -> Path:
        """Write levels (Y, X, 3), finest first, and name the slide's file or folder."""
        raise NotImplementedError

    def cut(self, path: Path, keep: float) -> None:
        """Cut a written slide short to that part of its bytes."""
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])

    def made(self, folder: Path, size: tuple[int, int] | None = None) -> tuple[PyramidSlide, PyramidSlide]:
        """The slide through the reader, and the oracle."""
        levels = pyramid_of(*(size or self.size), self.factors)
        slide = open_slide(self.write(folder, levels), mpp=0.5, reader=self.reader)
        return slide, ArrayLevels(levels).slide()

    def agree(self, found: Rgb, expected: Rgb, more: float = 0) -> None:
        """Two pictures are one, to within the tolerance."""
        assert found.shape == expected.shape
        off = np.abs(found.astype(int) - expected.astype(int))
        assert off.mean() <= self.tolerance / 4 + more / 4, f"off by {off.mean():.2f} on average"
        assert off.max() <= self.tolerance + more, f"off by up to {off.max()}"

    def test_it_is_found_by_the_format_and_says_its_name_and_version(self, tmp_path: Path) -> None:
        """The registry finds it by the file, and its name goes into the job's key."""
        path = self.write(tmp_path, pyramid_of(*self.size, self.factors))
        assert choose_reader(path, "auto") is choose_reader(path, self.reader)
        with open_slide(path, mpp=0.5) as slide:
            assert re.fullmatch(r"\S+ \d\S*", slide.info.reader), slide.info.reader
            assert slide.info.vendor

    def test_sizes_and_downsamples_are_those_that_were_written(self, tmp_path: Path) -> None:
        """Downsamples come from the levels' true sizes."""
        slide, oracle = self.made(tmp_path, self.odd)
        with slide:
            assert (slide.info.width, slide.info.height) == self.odd
            assert slide.info.downsamples == tuple(float(factor) for factor in self.factors)
            assert slide.read(slide.info.bounds, (64, 64)).shape == (64, 64, 3)
        assert oracle.info.extent == Box(0, 0, *self.odd)

    def test_the_resolution_is_the_files_own(self, tmp_path: Path) -> None:
        """Microns per pixel and where they come from."""
        if self.mpp is None:
            return
        path = self.write(tmp_path, pyramid_of(*self.size, self.factors))
        with open_slide(path, reader=self.reader) as slide:
            assert abs(slide.info.mpp - self.mpp) < 0.005 * self.mpp
            assert slide.info.mpp_source

    def test_without_shrinking_the_pixels_are_the_files_own(self, tmp_path: Path) -> None:
        """Level 0, (Y, X, 3) uint8."""
        slide, _ = self.made(tmp_path)
        with slide:
            box: Box[L0] = Box(133, 71, 300, 200)
            found = slide.read(box, (200, 300))
        assert found.dtype == np.uint8
        self.agree(found, drawn(*self.size)[71:271, 133:433])

    def test_at_any_scale_the_pixels_are_those_of_the_oracle(self, tmp_path: Path) -> None:
        """The level chosen, the half-pixel convention and the resampling, box by box."""
        slide, oracle = self.made(tmp_path)
        with slide:
            for box, size in self._reads():
                self.agree(slide.read(box, size), oracle.read(box, size))

    def test_with_odd_sizes_the_tissue_stays_in_its_place(self, tmp_path: Path) -> None:
        """A library may interpolate where a downsample is no whole number: a little is forgiven."""
        slide, oracle = self.made(tmp_path, self.odd)
        with slide:
            for box, size in self._reads((64, 64, 320, 352)):  # away from the rim, where white is mixed in
                self.agree(slide.read(box, size), oracle.read(box, size), more=6)

    def _reads(self, *places: tuple[int, int, int, int]) -> list[tuple[Box[L0], tuple[int, int]]]:
        places = places or ((64, 128, 256, 320), (0, 0, 512, 512))
        steps = (0.7, 1.0, 1.5, 2.0, 3.3, 4.0)
        return [(Box(*place), (round(place[3] / s), round(place[2] / s))) for place in places for s in steps]

    def test_a_box_partly_outside_is_white_there(self, tmp_path: Path) -> None:
        """At the first and the last corner, and wholly outside."""
        slide, oracle = self.made(tmp_path)
        width, height = self.size
        with slide:
            for box in (Box[L0](-128, -128, 384, 384), Box[L0](width - 256, height - 256, 384, 384)):
                for side in (384, 192, 96):
                    self.agree(slide.read(box, (side, side)), oracle.read(box, (side, side)))
            assert (slide.read(Box(width + 50, 0, 64, 64), (64, 64)) == 255).all()  # noqa: PLR2004 - white
            assert (slide.read(Box(-128, -128, 256, 256), (256, 256))[:128] == 255).all()  # noqa: PLR2004

    def test_a_pixel_does_not_depend_on_the_box_it_was_read_with(self, tmp_path: Path) -> None:
        """The same bits in a part as in the whole."""
        slide, _ = self.made(tmp_path)
        with slide:
            whole = slide.read(Box(0, 0, 512, 512), (256, 256))
            part = slide.read(Box(256, 256, 256, 256), (128, 128))
        assert np.array_equal(whole[128:256, 128:256], part)

    def test_threads_read_the_same_bytes_side_by_side(self, tmp_path: Path) -> None:
        """Eight threads on one slide."""
        slide, _ = self.made(tmp_path)
        reads = self._reads()
        with slide, ThreadPoolExecutor(8) as pool:
            alone = [slide.read(*one).tobytes() for one in reads]
            together = list(pool.map(lambda one: slide.read(*one).tobytes(), reads))
        assert together == alone

    def test_an_open_slide_refuses_to_be_pickled(self, tmp_path: Path) -> None:
        """It holds handles."""
        slide, _ = self.made(tmp_path)
        with slide:
            try:
                pickle.dumps(slide)
            except TypeError as error:
                assert "send its path" in str(error)  # noqa: PT017 - pytest is not imported here
            else:
                msg = "an open slide was pickled"
                raise AssertionError(msg)

    def test_a_closed_slide_holds_no_file_and_cannot_be_read(self, tmp_path: Path) -> None:
        """Closing gives the file back."""
        slide, _ = self.made(tmp_path)
        slide.read(Box(0, 0, 64, 64), (64, 64))
        slide.close()
        assert _open_below(tmp_path) == []
        self._refused(slide, Box(300, 300, 64, 64))

    def test_a_slide_cut_short_is_refused_when_opened_or_read(self, tmp_path: Path) -> None:
        """With an error of ours, never with pixels for all of it."""
        for keep in (0.0, 0.1, 0.5, 0.98):
            folder = tmp_path / str(keep)
            folder.mkdir()
            path = self.write(folder, pyramid_of(*self.size, self.factors))
            self.cut(path, keep)
            try:
                slide = open_slide(path, mpp=0.5)
            except SlideError as error:
                assert path.name in str(error)  # noqa: PT017 - pytest is not imported here
                continue
            with slide:
                self._refused(slide, slide.info.extent)
            shutil.rmtree(folder)

    def _refused(self, slide: PyramidSlide, box: Box[L0]) -> None:
        """Some level of the slide cannot be read any more."""
        for downsample in slide.info.downsamples:
            try:
                slide.read(box, (round(box.h / downsample), round(box.w / downsample)))
            except SlideError:
                return
        msg = "it was read all the same"
        raise AssertionError(msg)


class AlphaConformance(ReaderConformance):
    """For a format whose pixels may be transparent.

    Attributes:
        background: the slide's own background colour, over which its reader composites.
    """

    background: tuple[int, int, int] = (255, 255, 255)

    def write_alpha(self, folder: Path, rgba_YX4: npt.NDArray[np.uint8]) -> Path:
        """Write one level with transparency, and name the slide."""
        raise NotImplementedError

    def test_what_is_transparent_lets_the_background_through(self, tmp_path: Path) -> None:
        """Alpha over the background colour."""
        rgb_YX3 = drawn(*self.size)
        alpha = np.zeros(rgb_YX3.shape[:2], np.uint8)
        alpha[:, 200:400], alpha[:, 400:] = 128, 255
        with open_slide(self.write_alpha(tmp_path, np.dstack([rgb_YX3, alpha])), mpp=0.5) as slide:
            found = slide.read(slide.info.extent, rgb_YX3.shape[:2])
        weight = alpha[..., None] / 255
        mixed = (rgb_YX3 * weight + np.array(self.background) * (1 - weight)).round().astype(np.uint8)
        self.agree(found, mixed, more=1)


def _open_below(folder: Path) -> list[str]:
    """Files of this process that are open below a folder; nothing is known but on Linux."""
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        return []
    links = [str(handle.readlink()) for handle in handles.iterdir() if handle.is_symlink()]
    return [link for link in links if link.startswith(str(folder))]
