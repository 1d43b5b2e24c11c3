"""A box of a slide has the pixels that it has in the whole slide, resampled at once by torch."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsiseg import shrink as module
from wsiseg.geometry import Box
from wsiseg.readers import open_slide
from wsiseg.resample import resize
from wsiseg.shrink import shrink

Rgb = npt.NDArray[np.uint8]


def noise(height: int, width: int) -> Rgb:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def whole(image_YX3: Rgb, step_y: float, step_x: float) -> Rgb:
    channels_first = torch.from_numpy(image_YX3.transpose(2, 0, 1)[None].copy())
    factors = 1 / step_y, 1 / step_x
    made = torch.nn.functional.interpolate(
        channels_first, scale_factor=factors, mode="bilinear", antialias=True
    )
    return np.ascontiguousarray(made[0].permute(1, 2, 0).numpy())


steps = st.integers(129, 16 * 128).map(lambda parts: parts / 128)


@given(steps, steps, st.data())
def test_a_box_has_the_bits_of_the_whole_picture(step_y: float, step_x: float, data: st.DataObject) -> None:
    starts, stops, periods = [], [], [Fraction(step).denominator for step in (step_y, step_x)]
    for period in periods:
        starts.append(period * data.draw(st.integers(0, 3 * 128 // period)) + period * math.ceil(8 / period))
        stops.append(starts[-1] + data.draw(st.integers(1, 20)))
    size = [round((stop + 6.5) * step) for stop, step in zip(stops, (step_y, step_x), strict=True)]
    image_YX3 = noise(*size)
    (top, left), (bottom, right) = starts, stops
    expected_YX3 = whole(image_YX3, step_y, step_x)[top:bottom, left:right]
    box = left * step_x, top * step_y, right * step_x, bottom * step_y
    found_YX3 = shrink(image_YX3, (bottom - top, right - left), box=box)
    np.testing.assert_array_equal(found_YX3, expected_YX3)

    cut_x, cut_y = (max(0, int(start - 3 * step - 3)) for start, step in ((box[0], step_x), (box[1], step_y)))
    cut_YX3 = image_YX3[cut_y:, cut_x:]
    moved = box[0] - cut_x, box[1] - cut_y, box[2] - cut_x, box[3] - cut_y
    np.testing.assert_array_equal(
        shrink(cut_YX3, (bottom - top, right - left), box=moved), expected_YX3, "cut out of the picture"
    )


@given(steps)
def test_it_is_pillows_filter_to_within_a_grey_level(step: float) -> None:
    image_YX3 = noise(math.ceil(20 * step), math.ceil(20 * step))
    box = 4 * round(step), 4 * round(step), 4 * round(step) + 8 * step, 4 * round(step) + 8 * step
    theirs_YX3 = resize(image_YX3, (8, 8), kernel="bilinear", box=box)
    ours_YX3 = shrink(image_YX3, (8, 8), box=box)
    assert np.abs(theirs_YX3.astype(int) - ours_YX3).max() <= 1


def slide_file(shared: Path) -> Path:
    return shared / "slides/derived/aperio-3level-jpeg.svs"


def test_only_reads_on_the_lattice_of_level_0_are_shrunk(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def noted(image_YX3: Rgb, size: tuple[int, int], *, box: tuple[float, float, float, float]) -> Rgb:
        asked.append(size)
        return module.shrink(image_YX3, size, box=box)

    monkeypatch.setattr("wsiseg.readers.pyramid.shrink", noted)
    with open_slide(slide_file(shared)).for_patches() as slide:
        slide.read(Box(188, 188, 188, 188), (128, 128))
        assert asked == [(128, 128)]
        for size in ((127, 128), (188, 188), (40, 40)):  # off the lattice, not shrunk, from level 1
            slide.read(Box(188, 188, 188, 188), size)
        assert asked == [(128, 128)]
    with open_slide(slide_file(shared)) as slide:
        slide.read(Box(188, 188, 188, 188), (128, 128))
    assert asked == [(128, 128)]
