"""A slide that lost its focus is told from one that did not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from wsiseg.errors import SlideReadError
from wsiseg.focus import BLURRED_BELOW, Focus, fields, measure_focus, sharpness
from wsiseg.geometry import L0, Box, Scale
from wsiseg.readers import open_slide
from wsiseg.testing import ArraySlide, array_info
from wsiseg.tissue import TissueMask, find_slide_tissue

MPP = 0.5


def mask_of(mask_YX: npt.NDArray[np.bool_], x: int = 0, y: int = 0) -> TissueMask:
    return TissueMask(mask_YX, Scale(16, x, y), 16 * MPP)


def blurred(rgb_YX3: npt.NDArray[np.uint8], sigma_px: float) -> npt.NDArray[np.uint8]:
    smooth = ndimage.gaussian_filter(rgb_YX3.astype(np.float32), (sigma_px, sigma_px, 0))
    return np.asarray(smooth.round().clip(0, 255), np.uint8)


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "instanseg-HE_example.tif"])
def test_real_tissue_is_in_focus_as_it_is_and_out_of_it_blurred_by_two_micrometres(
    shared: Path, name: str
) -> None:
    with open_slide(shared / "slides" / "real" / name) as slide:
        tissue = find_slide_tissue(slide)
        sharp, bounds, info = measure_focus(slide, tissue), slide.info.bounds, slide.info
        whole_YX3 = slide.read(bounds, (bounds.h, bounds.w))
    at_0 = replace(tissue, scale=Scale(tissue.scale.factor))
    lost = ArraySlide(blurred(whole_YX3, 2 / info.mpp), array_info(bounds.w, bounds.h, mpp=info.mpp))
    found = measure_focus(lost, at_0)
    assert sharp.fields == found.fields > 0
    assert sharp.sharpness is not None
    assert sharp.sharpness > 6 * BLURRED_BELOW
    assert sharp.blurred == 0
    assert found.sharpness is not None
    assert found.sharpness < BLURRED_BELOW / 1.5
    assert found.blurred == found.fields


@given(arrays(np.uint8, (9, 9, 3), elements=st.integers(0, 60)), st.integers(1, 4), st.integers(0, 15))
def test_sharpness_is_a_matter_of_detail_and_not_of_stain(
    rgb_YX3: npt.NDArray[np.uint8], contrast: int, brightness: int
) -> None:
    other_YX3 = (rgb_YX3 * contrast + brightness).astype(np.uint8)
    assert sharpness(other_YX3) == pytest.approx(sharpness(rgb_YX3))


def test_sharpness_of_a_checkerboard_is_that_of_the_formula() -> None:
    board_YX = (np.indices((12, 12)).sum(axis=0) % 2 * 200).astype(np.uint8)
    assert sharpness(np.repeat(board_YX[..., None], 3, axis=2)) == pytest.approx((2 * 4 * 100 / 100) ** 2)


@given(arrays(np.bool_, (97, 150)), st.integers(0, 999), st.integers(0, 999))
def test_fields_lie_apart_on_the_mask_and_hold_at_least_half_tissue(
    mask_YX: npt.NDArray[np.bool_], x: int, y: int
) -> None:
    mask_YX[:33, :64] = True
    found = fields(mask_of(mask_YX, x, y))
    assert 2 <= len(found) <= 16
    assert all(box.w == box.h == 32 * 16 for box in found)
    for box in found:
        left, top = (box.x - x) // 16, (box.y - y) // 16
        assert mask_YX[top : top + 32, left : left + 32].mean() >= 0.5
    assert not any(one & other for i, one in enumerate(found) for other in found[:i])


def test_where_there_are_many_fields_the_first_and_the_last_are_among_those_looked_at() -> None:
    found = fields(mask_of(np.ones((320, 320), np.bool_)))
    assert len(found) == 16
    assert found[0] == Box(0, 0, 512, 512)
    assert found[-1] == Box(4608, 4608, 512, 512)


class Damaged(ArraySlide):
    """A slide of which the left half cannot be decoded."""

    def read(self, box: Box[L0], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        if box.x < self.info.width // 2:
            msg = "gone"
            raise SlideReadError(msg)
        return super().read(box, size)


def test_what_cannot_be_decoded_is_passed_over_and_what_cannot_be_judged_is_not_judged() -> None:
    noise_YX3 = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    tissue = mask_of(np.ones((64, 64), np.bool_))
    assert measure_focus(ArraySlide(noise_YX3), tissue).fields == 4
    assert measure_focus(Damaged(noise_YX3), tissue).fields == 2
    assert measure_focus(ArraySlide(noise_YX3), mask_of(np.zeros((64, 64), np.bool_))) == Focus()
    coarse = ArraySlide(noise_YX3, array_info(1024, 1024, mpp=1.3))
    assert measure_focus(coarse, tissue) == Focus()
