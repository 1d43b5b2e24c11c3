"""Scanner shifts: of the size they say, the same every time, and of no change of place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.cli_train import evaluate
from wsiseg.errors import UsageError
from wsiseg.train.shift import SHIFTS, shifted


def picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.array((205, 150, 185)) + rng.integers(-45, 46, (48, 40, 3))).clip(0, 255).astype(np.uint8)


@given(st.sampled_from(sorted(SHIFTS)), st.text(max_size=8))
def test_a_shift_keeps_the_shape_changes_the_image_and_is_the_same_again(name: str, key: str) -> None:
    rgb_YX3 = picture()
    before = rgb_YX3.copy()
    changed = shifted(rgb_YX3, name, key)
    assert changed.shape == rgb_YX3.shape
    assert changed.dtype == np.uint8
    assert np.array_equal(changed, shifted(rgb_YX3, name, key))
    assert np.array_equal(rgb_YX3, before)
    assert 1 < np.abs(changed.astype(int) - rgb_YX3).mean() < 60


@given(st.text(max_size=8))
def test_brightness_is_a_factor_and_contrast_keeps_the_mean(key: str) -> None:
    rgb_YX3 = (picture() // 2 + 20).astype(np.uint8)
    factor = shifted(rgb_YX3, "brightness", key).mean() / rgb_YX3.mean()
    assert min(abs(factor - 0.8), abs(factor - 1.2)) < 0.01
    stretched = shifted(rgb_YX3, "contrast", key)
    assert stretched.mean() == pytest.approx(rgb_YX3.mean(), abs=1)
    assert min(abs(stretched.std() / rgb_YX3.std() - f) for f in (0.7, 1.3)) < 0.03


@given(st.text(max_size=8))
def test_a_stain_shift_leaves_glass_alone_and_moves_stained_tissue(key: str) -> None:
    glass = np.full((8, 8, 3), 255, np.uint8)
    assert np.abs(shifted(glass, "hed", key).astype(int) - glass).max() <= 1
    stained = np.full((8, 8, 3), (120, 60, 150), np.uint8)
    assert np.abs(shifted(stained, "hed", key).astype(int) - stained).max() > 5


def test_both_ways_are_taken_about_equally_often() -> None:
    grey = np.full((2, 2, 3), 100, np.uint8)
    up = [shifted(grey, "brightness", f"image {i}").mean() > 100 for i in range(200)]
    assert 70 < sum(up) < 130


def test_blur_takes_away_detail_and_nothing_else() -> None:
    rgb_YX3 = picture()
    blurred = shifted(rgb_YX3, "blur", "x")
    assert blurred.std(axis=(0, 1)).max() < 0.4 * rgb_YX3.std(axis=(0, 1)).min()
    assert blurred.mean() == pytest.approx(rgb_YX3.mean(), abs=1)


def test_an_unknown_shift_is_named_and_the_command_line_knows_them_all() -> None:
    with pytest.raises(UsageError, match="no shift 'fog'; there are brightness"):
        shifted(picture(), "fog", "x")
    (option,) = (one for one in evaluate.params if one.name == "shifts")
    assert set(option.type.choices) == {*SHIFTS, "all"}  # type: ignore[attr-defined]
