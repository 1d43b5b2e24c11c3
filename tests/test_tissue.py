import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from wsiseg.geometry import L0, Box, Scale
from wsiseg.readers import open_slide
from wsiseg.slide import SlideInfo
from wsiseg.testing import ArraySlide, array_info
from wsiseg.tissue import (
    MOST_PX,
    TissueMask,
    _filled,
    find_slide_tissue,
    find_tissue,
    has_overview,
    mask_factor,
    overview,
)

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


@pytest.mark.parametrize("strip_px", [1, 240 * 3, 240 * 70])
def test_working_in_strips_moves_no_pixel(monkeypatch: pytest.MonkeyPatch, strip_px: int) -> None:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (26, 35, 3)).astype(np.uint8)
    patchy = coarse.repeat(8, 0).repeat(8, 1)[:200, :240]
    pale = (patchy // 32 + rng.integers(232, 236, patchy.shape)).astype(np.uint8)
    grey = np.repeat(patchy[..., :1], 3, axis=2)
    thumbs = patchy, pale, grey, slide((PINK, HERE), (INK, np.s_[:20, :]))
    whole = [find_tissue(thumb, MPP) for thumb in thumbs]
    assert any(0 < mask_YX.mean() < 1 for mask_YX in whole)
    monkeypatch.setattr("wsiseg.colours.STRIP_PX", strip_px)
    for before_YX, thumb in zip(whole, thumbs, strict=True):
        assert np.array_equal(before_YX, find_tissue(thumb, MPP))


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.1, 1))
def test_the_thumbnail_of_any_slide_is_bounded_and_a_whole_glass_slide_is_seen_at_8_um(
    width: int, height: int, mpp: float
) -> None:
    def looked_at(info: SlideInfo) -> float:
        return info.bounds.area / mask_factor(info) ** 2

    assert looked_at(array_info(width, height, mpp=mpp)) <= MOST_PX
    glass = array_info(round(75_000 / mpp), round(25_000 / mpp), mpp=mpp)
    assert mask_factor(glass) == round(8 / mpp)


def lit(thumb_YX3: npt.NDArray[np.uint8], *, loss: float, quality: int) -> npt.NDArray[np.uint8]:
    """A picture under a lamp that loses light towards the corners, compressed as JPEG."""
    height, width, _ = thumb_YX3.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    dimmed = thumb_YX3 * (1 - loss * np.hypot(x, y) / np.sqrt(2))[..., None]
    packed = io.BytesIO()
    Image.fromarray(dimmed.astype(np.uint8)).save(packed, "JPEG", quality=quality)
    return np.asarray(Image.open(packed))


STAINS = {
    "dark": (60, 45, 65), "pale": (235, 228, 238), "eosin": (219, 159, 195), "haematoxylin": (109, 72, 146),
    "blood": (214, 140, 151), "muscle": (194, 108, 146), "nuclei": (92, 72, 134), "mucus": (204, 205, 227),
}  # fmt: skip


@pytest.mark.parametrize("light", [(0.0, 95), (0.1, 90)], ids=str)
@pytest.mark.parametrize("stain", STAINS)
def test_pale_and_near_black_tissue_is_found_under_any_lamp(stain: str, light: tuple[float, int]) -> None:
    loss, quality = light
    found = find_tissue(lit(slide((STAINS[stain], HERE)), loss=loss, quality=quality), MPP)
    assert found[HERE].mean() > 0.99
    assert found[:40].mean() < 0.01


@pytest.mark.parametrize("stain", STAINS)
def test_a_slide_of_nothing_but_tissue_is_all_tissue(stain: str) -> None:
    assert find_tissue(slide((STAINS[stain], np.s_[:, :])), MPP).all()


@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (228, 226, 230), (240, 236, 228), (230, 225, 231)])
def test_bare_glass_is_no_tissue_under_any_lamp(glass: tuple[int, int, int]) -> None:
    assert find_tissue(lit(slide(glass=glass), loss=0.15, quality=90), MPP).mean() < 0.001


PENS = {
    "black": (25, 25, 28), "blue": (30, 60, 170), "light blue": (90, 130, 220), "pure blue": (0, 0, 200),
    "green": (20, 120, 60), "light green": (120, 200, 130), "teal": (0, 120, 120), "red": (200, 30, 40),
}  # fmt: skip


def stroke(
    thumb_YX3: npt.NDArray[np.uint8], pen: tuple[int, int, int], width: int, *, covers: bool
) -> npt.NDArray[np.uint8]:
    """A picture with a stroke from corner to corner, that covers what is below or colours it."""
    line = Image.new("L", (240, 200))
    ImageDraw.Draw(line).line((5, 5, 235, 195), 1, width)
    inked = pen if covers else thumb_YX3 * (np.array(pen) / 255)
    return np.where(np.asarray(line)[..., None] > 0, inked, thumb_YX3).astype(np.uint8)


@pytest.mark.parametrize("covers", [True, False])
@pytest.mark.parametrize("width", [20, 60])
@pytest.mark.parametrize("pen", PENS)
def test_ink_is_no_tissue_and_loses_none(pen: str, width: int, *, covers: bool) -> None:
    on_glass = stroke(slide(), PENS[pen], width, covers=covers)
    assert find_tissue(lit(on_glass, loss=0, quality=90), MPP).mean() < 0.001
    on_tissue = stroke(slide((PINK, HERE)), PENS[pen], width, covers=covers)
    assert find_tissue(lit(on_tissue, loss=0, quality=90), MPP)[HERE].mean() > 0.99


def test_ink_painted_on_a_specimens_margin_belongs_to_it() -> None:
    found = find_tissue(slide((PINK, HERE), ((20, 120, 60), np.s_[60:140, 160:164])), MPP)
    assert found[60:140, 80:164].all()


def test_the_edge_of_a_coverslip_is_no_tissue_unless_tissue_touches_it() -> None:
    edge = ((150, 150, 153), np.s_[30:34, :])
    assert not find_tissue(slide(edge), MPP).any()
    assert not find_tissue(slide(edge, (PINK, HERE)), MPP)[:50].any()
    assert find_tissue(slide(edge, (PINK, np.s_[34:140, 80:160])), MPP)[30:140, 80:160].all()


def test_a_missing_tile_is_no_tissue() -> None:
    found = find_tissue(slide(((0, 0, 0), np.s_[0:50, 180:240]), ((0, 0, 0), np.s_[150:180, 20:50])), MPP)
    assert not found.any()


def test_fat_is_tissue_though_most_of_it_is_as_bright_as_glass() -> None:
    cells = [((230, 205, 220), np.s_[60:140, x : x + 1]) for x in range(80, 161, 10)]
    cells += [((230, 205, 220), np.s_[y : y + 1, 80:160]) for y in range(60, 141, 10)]
    assert find_tissue(slide(*cells), MPP)[HERE].all()


def test_in_a_grey_slide_what_is_dark_is_tissue() -> None:
    grey_YX3 = slide((PINK, HERE)).mean(axis=2, keepdims=True).astype(np.uint8).repeat(3, axis=2)
    grey_YX3[HERE] = grey_YX3[HERE] // 2
    found = find_tissue(grey_YX3, MPP)
    assert found[61:139, 81:159].all()
    assert not found[:50].any()


def test_dust_goes_and_small_lumina_are_filled() -> None:
    found = find_tissue(
        slide((PINK, HERE), (GLASS, np.s_[90:110, 100:120]), (PINK, np.s_[20:22, 20:22])), MPP
    )
    assert found[90:110, 100:120].all()
    assert not found[10:30, 10:30].any()


def test_a_hole_that_meets_the_outside_at_a_corner_alone_is_a_hole() -> None:
    mask_YX = np.ones((6, 6), np.bool_)
    mask_YX[0, 0] = mask_YX[1, 1] = False
    assert _filled(mask_YX, 4).sum() == 35
    mask_YX[0, 1] = False
    assert _filled(mask_YX, 4).sum() == 33


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
