"""Whatever a slide library raises comes out as ours, with the slide, the region and the cause."""

import zlib
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide

from wsiseg.errors import PlanError, SlideError, SlideOpenError, SlideReadError
from wsiseg.geometry import Box
from wsiseg.readers import open_slide


class Jpeg8Error(RuntimeError):
    """As imagecodecs names them."""


FOREIGN = [
    tifffile.TiffFileError("not a TIFF file"),
    IndexError("list index out of range"),
    ZeroDivisionError("division by zero"),
    NotImplementedError("no such compression"),
    TypeError("'NoneType' is not iterable"),
    Jpeg8Error("jpeg8_decode returned 1"),
    zlib.error("Error -3 while decompressing"),
    ValueError("tile index out of range"),
    KeyError("TileOffsets"),
    AttributeError("no attribute 'shape'"),
    AssertionError(),
    OverflowError("Python int too large"),
    OSError(5, "Input/output error"),
    RuntimeError("two\nlines"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    openslide.OpenSlideError("Corrupt JPEG data"),
]
LIBRARIES = {"openslide": openslide.OpenSlide, "tiffslide": tiffslide.TiffSlide}


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    rgb = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    tifffile.imwrite(path, rgb, tile=(64, 64), photometric="rgb")
    return path


@pytest.mark.parametrize("reader", LIBRARIES)
@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
def test_what_a_library_raises_becomes_ours_with_slide_region_and_cause(
    slide: Path, monkeypatch: pytest.MonkeyPatch, reader: str, error: Exception
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    with open_slide(slide, mpp=0.5, reader=reader) as opened:
        monkeypatch.setattr(LIBRARIES[reader], "read_region", broken)
        with pytest.raises(SlideReadError) as caught:
            opened.read(Box(128, 64, 64, 64), (64, 64))
    sentence = str(caught.value)
    assert sentence.startswith("a.tif: the region x=")
    assert "\n" not in sentence
    words = " ".join(str(error).split())
    assert words in sentence if words else type(error).__name__ in sentence
    monkeypatch.undo()
    monkeypatch.setattr(LIBRARIES[reader], "__init__", broken)
    with pytest.raises(SlideOpenError, match=r"^a\.tif is ") as caught_open:
        open_slide(slide, mpp=0.5, reader=reader)
    assert words in " ".join(str(caught_open.value).split()) or type(error).__name__ in str(caught_open.value)


@pytest.mark.parametrize("reader", LIBRARIES)
def test_want_of_memory_is_not_taken_for_damage(
    slide: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError

    with open_slide(slide, mpp=0.5, reader=reader) as opened:
        monkeypatch.setattr(LIBRARIES[reader], "read_region", broken)
        with pytest.raises(PlanError, match=r"memory ran short while a\.tif was read"):
            opened.read(Box(0, 0, 64, 64), (64, 64))


@pytest.mark.parametrize("facts", [{"level_dimensions": ((0, 0),)}, {"level_downsamples": (float("nan"),)}])
def test_facts_that_make_no_sense_are_a_damaged_slide(
    slide: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object]
) -> None:
    for name, value in facts.items():
        monkeypatch.setattr(openslide.OpenSlide, name, value)
    with pytest.raises(SlideError, match=r"^a\.tif"):  # noqa: SIM117 - either may raise
        with open_slide(slide, mpp=0.5, reader="openslide") as opened:
            opened.probe()
