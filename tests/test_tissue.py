from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from wsiseg.geometry import L0, Box, Scale
from wsiseg.readers import open_slide
from wsiseg.testing import ArraySlide, array_info
from wsiseg.tissue import TissueMask, find_slide_tissue, find_tissue, has_overview, overview

GLASS, PINK, INK = (243, 241, 244), (222, 160, 196), (20, 20, 24)
MPP = 8.0


def slide(
    *patches: tuple[tuple[int, int, int], tuple[slice, slice]], glass: tuple[int, int, int] = GLASS
) -> npt.NDArray[np.uint8]:
    thumb = np.full((200, 240, 3), glass, np.float32)
    for colour, where in patches:
        thumb[where] = colour
    return (thumb + np.random.default_rng(0).normal(0, 2, thumb.shape)).clip(0, 255).astype(np.uint8)


HERE = np.s_[60:140, 80:160]


@pytest.mark.parametrize(
    "through", [(0.9, 0.66, 0.8), (0.975, 0.92, 0.955), (0.45, 0.3, 0.6), (0.88, 0.58, 0.62)], ids=str
)
@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (228, 226, 230), (240, 236, 228)])
def test_stained_tissue_faint_or_dense_is_found_on_any_glass(
    through: tuple[float, float, float], glass: tuple[int, int, int]
) -> None:
    """``through`` is the part of the light that passes: eosin, faint eosin, haematoxylin, blood."""
    red, green, blue = (round(part * light) for part, light in zip(through, glass, strict=True))
    found = find_tissue(slide(((red, green, blue), HERE), glass=glass), MPP)
    assert found[61:139, 81:159].mean() > 0.99
    assert found[:50].mean() < 0.01


def test_all_glass_is_no_tissue_and_all_tissue_is_all_tissue() -> None:
    assert not find_tissue(slide(), MPP).any()
    assert find_tissue(slide((PINK, np.s_[:, :])), MPP).all()


def test_a_black_border_and_white_fill_are_no_tissue() -> None:
    found = find_tissue(slide((INK, np.s_[:20, :]), ((255, 255, 255), np.s_[:, 200:]), (PINK, HERE)), MPP)
    assert found[HERE].all()
    assert not found[:16].any()
    assert not found[:, 205:].any()


def test_a_black_border_may_be_tinted_and_white_fill_may_lie_beside_tinted_glass() -> None:
    tinted = (240, 236, 228)
    found = find_tissue(
        slide(((24, 24, 48), np.s_[:20, :]), ((255, 255, 255), np.s_[:, 200:]), (PINK, HERE), glass=tinted),
        MPP,
    )
    assert found[HERE].all()
    assert not found[:16].any()
    assert not found[30:, 205:].any()


def test_dust_goes_and_small_lumina_are_filled() -> None:
    found = find_tissue(
        slide((PINK, HERE), (GLASS, np.s_[90:110, 100:120]), (PINK, np.s_[20:22, 20:22])), MPP
    )
    assert found[90:110, 100:120].all()
    assert not found[10:30, 10:30].any()


@given(st.integers(-300, 2300), st.integers(-300, 2300), st.integers(1, 400), st.integers(1, 400))
def test_a_box_holds_tissue_when_any_is_within_reach(x: int, y: int, w: int, h: int) -> None:
    mask_YX = np.zeros((100, 100), np.bool_)
    mask_YX[40:50, 60:70] = True
    mask = TissueMask(mask_YX, Scale(20.0, 100, 200), mpp=10.0)
    box: Box[L0] = Box(x, y, w, h)
    reach = 10 * 20
    tissue: Box[L0] = Box(100 + 60 * 20, 200 + 40 * 20, 200, 200)
    if box & tissue.grown(reach - 20):
        assert mask.covers(box)
    if not box & tissue.grown(reach + 40):
        assert not mask.covers(box)


def test_the_mask_lies_on_the_slides_bounds_and_its_area_is_right() -> None:
    rgb = np.full((1600, 2000, 3), GLASS, np.uint8)
    rgb[400:1200, 800:1600] = PINK
    found = find_slide_tissue(ArraySlide(rgb))
    assert found.scale.factor == 16
    assert found.area_mm2 == pytest.approx((800 * 0.5 / 1000) ** 2, rel=0.1)
    assert found.covers(Box(900, 500, 10, 10))
    assert not found.covers(Box(0, 0, 300, 300))


def test_the_mask_begins_at_the_corner_of_the_bounds() -> None:
    rgb = np.full((1600, 2000, 3), GLASS, np.uint8)
    rgb[800:1200, 1200:1600] = PINK
    found = find_slide_tissue(ArraySlide(rgb, array_info(2000, 1600, bounds=Box(800, 400, 1000, 1000))))
    assert (found.scale.x, found.scale.y) == (800, 400)
    assert found.mask_YX[25:50, 25:50].all()
    assert found.covers(Box(1300, 900, 10, 10))
    assert not found.covers(Box(820, 420, 10, 10))


REAL = [
    "CMU-1-Small-Region.svs",
    "TCGA-CR-7395-01A-01-TS1.svs",
    "CropBreastSlide.tiff",
    "qupath-OS-1-detail.ome.tif",
    "instanseg-HE_example.tif",
]


@pytest.mark.parametrize("name", REAL)
def test_on_real_slides_no_tissue_is_lost_that_otsu_on_saturation_finds(shared: Path, name: str) -> None:
    with open_slide(shared / "slides" / "real" / name, mpp=0.5) as real:
        found = find_slide_tissue(real)
        height, width = found.mask_YX.shape
        thumb = real.read(
            Box(
                found.scale.x,
                found.scale.y,
                width * int(found.scale.factor),
                height * int(found.scale.factor),
            ),
            (height, width),
        )
    saturation = np.ptp(thumb, axis=2) / np.maximum(1, thumb.max(axis=2))
    counts, edges = np.histogram(saturation, 256, (0, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    below, above = counts.cumsum(), counts.sum() - counts.cumsum()
    mean_below = (counts * middles).cumsum() / np.maximum(1, below)
    mean_above = ((counts * middles).sum() - (counts * middles).cumsum()) / np.maximum(1, above)
    threshold = middles[np.argmax(below * above * (mean_below - mean_above) ** 2)]
    otsu = ndimage.binary_opening(saturation > threshold, iterations=1)
    assert found.mask_YX[otsu].mean() > 0.99


def test_a_thumbnail_keeps_the_slides_shape() -> None:
    rgb = np.full((900, 1800, 3), PINK, np.uint8)
    assert overview(ArraySlide(rgb), 600).shape == (300, 600, 3)
    assert overview(ArraySlide(rgb), 5000).shape == (900, 1800, 3)
    assert not has_overview(ArraySlide(rgb).info)
