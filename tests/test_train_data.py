"""Crops and colours: what is learnt from is true, and the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsiseg.resample import resize
from wsiseg.train.augment import Window, draw_colour, draw_glass, draw_window, lay_glass, shift_colour, soiled
from wsiseg.train.cases import Case
from wsiseg.train.data import Sample, cut, epoch_batches, load_samples, plan_epoch
from wsiseg.train.recipe import Recipe


def sample(height: int, width: int, *, domain: str = "d", seed: int = 0) -> Sample:
    """An image whose tumour is exactly where red is over 128, in blocks of 8 pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 2, (-(-height // 8), -(-width // 8)))
    mask_YX = np.kron(coarse, np.ones((8, 8)))[:height, :width].astype(np.uint8) * np.uint8(255)
    rgb_YX3 = np.dstack([mask_YX, np.full_like(mask_YX, 90), np.full_like(mask_YX, 60)])
    key = f"{domain}/{seed}"
    case = Case(key, Path(key), Path(key), "t", domain, 0.5, "stated")
    return Sample(case, rgb_YX3, mask_YX)


sides = st.integers(20, 120)


@given(sides, sides, st.integers(0, 99), st.sampled_from([0.0, 0.3]))
@settings(max_examples=40, deadline=None)
def test_a_crops_mask_stays_on_its_image(height: int, width: int, seed: int, jitter: float) -> None:
    window = draw_window(
        np.random.default_rng(seed), (height, width), crop=64, scale_jitter=jitter, flips=True
    )
    rgb, mask, counted = cut(sample(height, width, seed=seed), window, crop=64, kernel="bilinear")
    assert rgb.shape == (64, 64, 3)
    inside = counted > 0
    wrong = ((rgb[..., 0] >= 128) != (mask > 0)) & inside
    assert wrong.mean() < 0.05  # a pixel's width around the image, where white shines in
    assert (rgb[~inside] > 60).all()
    assert inside.any()


@given(sides, sides, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_what_counts_is_the_part_inside_the_image(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = draw_window(rng, (height, width), crop=64, scale_jitter=0.2, flips=False)
    counted = cut(sample(height, width), window, crop=64, kernel="bilinear")[2] > 0
    share = min(height, window.side) * min(width, window.side) / window.side**2
    assert counted.mean() == pytest.approx(share, abs=0.06)


def test_a_crop_that_is_not_scaled_is_cut_pixel_by_pixel() -> None:
    whole = sample(100, 90)
    rgb, mask, counted = cut(whole, Window(10, 20, 64, 0, mirrored=False), crop=64, kernel="bilinear")
    np.testing.assert_array_equal(rgb, whole.rgb_YX3[20:84, 10:74])
    np.testing.assert_array_equal(mask, whole.mask_YX[20:84, 10:74])
    assert counted.all()


def test_images_are_brought_to_the_canvas_with_the_bundles_own_resize(tmp_path: Path) -> None:
    rgb_YX3 = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(rgb_YX3).save(tmp_path / "i.png")
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(tmp_path / "m.png")
    case = Case("k", tmp_path / "i.png", tmp_path / "m.png", "t", "d", 0.25, "stated")
    (found,) = load_samples([case], mpp=0.5, kernel="bilinear")
    np.testing.assert_array_equal(found.rgb_YX3, resize(rgb_YX3, (20, 30), kernel="bilinear"))
    assert found.mask_YX.shape == (20, 30)
    assert (found.mask_YX == 255).all()


def test_an_epoch_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    samples = [sample(80, 80, seed=i) for i in range(3)]
    recipe = Recipe(crop=32, batch=4)
    one, two, three = (
        torch.cat([b.rgb_B3YX for b in epoch_batches(samples, recipe, seed, share=(0, 1), kernel="bilinear")])
        for seed in ((0, 1, 0), (0, 1, 0), (0, 1, 1))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


@given(st.lists(sides, min_size=1, max_size=5), st.integers(1, 7))
def test_an_epoch_sees_every_image_about_as_often_as_its_area_says(lengths: list[int], batch: int) -> None:
    samples = [sample(side, side, seed=i) for i, side in enumerate(lengths)]
    order = plan_epoch(samples, Recipe(crop=32, batch=batch), np.random.default_rng(0))
    assert len(order) % batch == 0
    for i, side in enumerate(lengths):
        assert order.count(i) >= max(1, round(side**2 / 32**2))


@pytest.mark.parametrize(("balance", "share"), [(1, 1 / 2), (0.5, 1 / 10), (1e-9, 1 / 82)])
def test_balance_is_the_power_of_a_domains_share_that_is_taken_away(balance: float, share: float) -> None:
    samples = [sample(64, 64, domain="large", seed=i) for i in range(81)] + [sample(64, 64, domain="small")]
    recipe = Recipe(crop=32, batch=8, steps=1000, balance=balance)
    order = plan_epoch(samples, recipe, np.random.default_rng(0))
    assert order.count(81) / len(order) == pytest.approx(share, abs=0.02)


def test_ranks_share_a_batch_crop_by_crop() -> None:
    samples = [sample(64, 64, seed=i) for i in range(4)]
    recipe = Recipe(crop=32, batch=4)
    whole, *parts = (
        list(epoch_batches(samples, recipe, (0, 0, 0), share=share, kernel="bilinear"))
        for share in ((0, 1), (0, 2), (1, 2))
    )
    for batch, one, two in zip(whole, *parts, strict=True):
        assert torch.equal(batch.rgb_B3YX[0::2], one.rgb_B3YX)
        assert torch.equal(batch.rgb_B3YX[1::2], two.rgb_B3YX)
        assert torch.equal(batch.colour.stain[1::2], two.colour.stain)


def test_colours_that_are_not_changed_come_back() -> None:
    rgb = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    same = shift_colour(rgb, draw_colour(np.random.default_rng(0), 2, colour=0, stain=0))
    torch.testing.assert_close(same, rgb.float(), atol=0.02, rtol=0)


def test_more_stain_is_darker() -> None:
    rgb = torch.tensor([180.0, 120.0, 170.0]).view(1, 3, 1, 1)
    shift = draw_colour(np.random.default_rng(0), 1, colour=0, stain=0)
    shift.stain.fill_(1.2)
    assert (shift_colour(rgb, shift) < rgb).all()


@given(st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_changed_colours_stay_colours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = torch.from_numpy(rng.integers(0, 256, (2, 3, 8, 8)).astype(np.uint8))
    changed = shift_colour(rgb, draw_colour(rng, 2, colour=0.3, stain=0.3))
    assert changed.isfinite().all()
    assert 0 <= changed.min() <= changed.max() <= 255


@given(st.integers(0, 99), st.sampled_from([32, 96]))
@settings(max_examples=30)
def test_there_is_no_tumour_under_glass_and_elsewhere_nothing_changes(seed: int, crop: int) -> None:
    rng = np.random.default_rng(seed)
    whole = sample(crop, crop, seed=seed)
    counted = rng.choice(np.array([0, 255], np.uint8), (crop, crop))
    glass = draw_glass(rng, crop)
    pair = (whole.rgb_YX3, whole.mask_YX, counted)
    rgb, mask, counts = lay_glass(pair, glass, rng)
    assert glass.any()
    assert not mask[glass].any()
    assert (counts[glass] == 255).all()
    assert (rgb[glass] >= 225).all()
    for before, after in zip(pair, (rgb, mask, counts), strict=True):
        np.testing.assert_array_equal(before[~glass], after[~glass])


def test_glass_takes_any_share_of_a_crop_and_touches_every_edge() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_glass(rng, 64) for _ in range(200)])
    shares = drawn.mean((1, 2))
    assert shares.min() < 0.2
    assert shares.max() > 0.9
    for edge in (drawn[:, 0], drawn[:, -1], drawn[:, :, 0], drawn[:, :, -1]):
        assert 0.3 < edge.mean() < 0.9


def test_crops_are_covered_as_often_as_the_recipe_says_and_nothing_else_of_them_changes() -> None:
    samples = [sample(64, 64, seed=i) for i in range(4)]
    recipe = Recipe(crop=32, batch=64, steps=1)
    plain, covered = (
        next(epoch_batches(samples, one, (0, 0, 0), share=(0, 1), kernel="bilinear"))
        for one in (recipe, recipe.model_copy(update={"glass": 0.5}))
    )
    same = (plain.rgb_B3YX == covered.rgb_B3YX).all(1)
    assert (~same).flatten(1).any(1).float().mean() == pytest.approx(0.5, abs=0.15)
    assert torch.equal(plain.tumour_BYX[same], covered.tumour_BYX[same])
    assert not covered.tumour_BYX[~same].any()
    assert torch.equal(plain.colour.stain, covered.colour.stain)


@given(st.integers(0, 50))
@settings(max_examples=10)
def test_a_mosaics_mask_stays_on_its_images_and_names_all_of_them(seed: int) -> None:
    samples = [sample(int(side), 150, seed=i) for i, side in enumerate((150, 100, 200))]
    recipe = Recipe(crop=96, batch=2, steps=1, mosaic=0.999, scale_jitter=0)
    (batch,) = epoch_batches(samples, recipe, (seed, 0, 0), share=(0, 1), kernel="bilinear")
    assert all(key.count("+") == 3 for key in batch.keys)
    inside = batch.counted_BYX > 0
    wrong = ((batch.rgb_B3YX[:, 0] >= 128) != (batch.tumour_BYX > 0)) & inside
    assert wrong.float().mean() < 0.05
    assert inside.float().mean() > 0.8


def test_blur_and_jpeg_soften_every_second_crop_and_no_more_than_asked() -> None:
    noise_YX3 = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    rng = np.random.default_rng(1)
    blurred = [soiled(noise_YX3, rng, blur=2, jpeg=0) for _ in range(40)]
    kept = sum(np.array_equal(one, noise_YX3) for one in blurred)
    assert 10 < kept < 30
    assert min(one.std() for one in blurred) < 0.6 * noise_YX3.std()
    stored = [soiled(noise_YX3, rng, blur=0, jpeg=90) for _ in range(40)]
    away = [np.abs(one.astype(int) - noise_YX3).mean() for one in stored]
    assert 10 < sum(a == 0 for a in away) < 30
    coarse = max(
        np.abs(soiled(noise_YX3, rng, blur=0, jpeg=20).astype(int) - noise_YX3).mean() for _ in range(20)
    )
    assert 0 < max(away) < coarse


def test_an_epoch_has_as_many_steps_as_the_recipe_says() -> None:
    samples = [sample(64, 64, seed=i) for i in range(5)]
    for steps in (1, 3, 40):
        order = plan_epoch(samples, Recipe(crop=32, batch=4, steps=steps), np.random.default_rng(0))
        assert len(order) == 4 * steps
        seen = [order.count(i) for i in range(5)]
        assert max(seen) - min(seen) <= 4  # a crop's worth: each image holds four
