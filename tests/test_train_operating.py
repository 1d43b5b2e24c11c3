"""From probability to regions on slides: the grid's regions are the pipeline's, and the rule is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.options import PolygonOptions
from wsiseg.outlining import outlining
from wsiseg.polygons import Regions, outline, tidy
from wsiseg.train.cases import read_cases
from wsiseg.train.mosaic import compose, lay_out
from wsiseg.train.operating import Found, Point, choose, count_over, grid, regions

SPEC = BundleSpec(
    name="x", encoder="mit_b0", licence="", trained_on="", threshold=0.65, min_area_um2=7.0, sure=0.8,
    review_above=0.12, folds=(FoldFile(file="fold-1.safetensors", sha256="0" * 64),),
)  # fmt: skip


def _told_apart(mask_YX: npt.NDArray[np.bool_], found: Regions) -> bool:
    """Whether small holes may be filled otherwise: regions that touch at a corner, or islands in holes."""
    a, b, c, d = mask_YX[:-1, :-1], mask_YX[:-1, 1:], mask_YX[1:, :-1], mask_YX[1:, 1:]
    filled = [shapely.Polygon(p.exterior) for p in found.polygons_N]
    islands = any(q.contains(p) for p in found.polygons_N for q in filled if q.area > p.area)
    return islands or bool(((a == d) & (b == c) & (a != b)).any())


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0, 8, 40]), st.sampled_from([0, 8, 40]))
def test_the_regions_of_the_grid_are_those_that_are_exported(seed: int, area: int, hole: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 70)), 2.5)
    prob_YX = np.where(noise > np.quantile(noise, 0.5), np.uint8(200), np.uint8(0))
    exported = outline(prob_YX, prob_YX, threshold_u8=128, x=0, y=0)
    kept = tidy(exported, min_area_px=area, min_hole_px=hole, simplify_px=0)
    mask_YX = prob_YX >= 128
    found_YX, count = regions(mask_YX, min_area_px=area, min_hole_px=hole)
    sizes = np.bincount(found_YX.ravel(), minlength=count + 1)[1:]
    assert sizes.sum() == pytest.approx(sum(p.area for p in kept.polygons_N), rel=0.1, abs=60)
    if not _told_apart(mask_YX, kept):
        assert sorted(sizes.tolist()) == sorted(p.area for p in kept.polygons_N)


def test_a_small_hole_is_filled_and_counts_for_its_region() -> None:
    ring = np.zeros((9, 9), bool)
    ring[2:7, 2:7] = True
    ring[4, 4] = False
    assert regions(ring, min_area_px=25, min_hole_px=2)[1] == 1
    assert regions(ring, min_area_px=25, min_hole_px=0)[1] == 0
    assert regions(ring, min_area_px=0, min_hole_px=2)[0][4, 4] == 1
    bay = ring.copy()
    bay[2:5, 4] = False  # open to the outside: no hole
    assert regions(bay, min_area_px=0, min_hole_px=99)[0][4, 4] == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_the_areas_of_the_grid_are_those_that_are_exported_sure_or_not(seed: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 70)), 2.5)
    prob_YX = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    mpp = 20.0  # 2000 µm² are five pixels
    _, whole_P = count_over(prob_YX, prob_YX > 150, [(slice(0, 60), slice(0, 70))], mpp=mpp)
    compared = 0
    for point, area in zip(grid(), whole_P, strict=True):
        how = replace(outlining(PolygonOptions(), SPEC), threshold=point.threshold, sure=point.sure)
        least, sure = how.levels_u8
        exported = outline(prob_YX, prob_YX, threshold_u8=least, sure_u8=sure, x=0, y=0)
        least_px, hole_px = point.min_area_um2 / mpp**2, point.min_hole_um2 / mpp**2
        if hole_px and _told_apart(prob_YX >= least, exported):
            continue
        kept = tidy(
            exported,
            min_area_px=least_px,
            min_hole_px=hole_px,
            simplify_px=0,
            min_sure_px=least_px if point.sure else 0,
        )
        assert area == shapely.area(kept.polygons_N).sum(), point
        compared += hole_px > 0 < point.sure
    assert compared


def found(point: Point, dice: float, **false: float) -> Found:
    return Found(point, dice, false)


def kept(area: float, sure: float = 0.0) -> Point:
    return Point(0.5, area, 0, sure)


ALL = found(Point(0.5, 0, 0), 0.8, a=0.3)


def test_the_rule_takes_the_best_dice_where_false_positives_are_few() -> None:
    tried = [ALL, found(kept(2000), 0.79, a=0.01, b=0.019), found(kept(2000, 0.9), 0.78, a=0, b=0)]
    assert choose(tried, 0.80) == (tried[1], True)


def test_where_the_rule_cannot_be_met_false_positives_come_first_unless_nothing_is_found() -> None:
    tried = [ALL, found(kept(2000), 0.60, a=0.019), found(kept(5000), 0.55, a=0.01)]
    assert choose(tried, 0.80) == (tried[1], False)
    deaf = [ALL, found(kept(2000), 0.70, a=0.10), found(kept(2000, 0.9), 0.30, a=0.001)]
    assert choose(deaf, 0.80) == (deaf[1], False)
    other = [
        found(Point(0.3, 0, 0), 0.79, a=0.3),
        found(Point(0.3, 2000, 0), 0.95, a=0.3),
    ]  # not where they end
    least = [ALL, found(kept(2000), 0.45, a=0.01), *other]
    assert choose(least, 0.9) == (least[1], False), "half of the best Dice there"
    loud = [ALL, found(kept(2000), 0.6, a=0.05), found(kept(5000), 0.7, a=0.05)]
    assert choose(loud, 0.9) == (loud[2], False)
    assert choose([found(Point(0.5, 0, 0), 0.70, a=0.0)], 0.80)[1] is False


def test_where_regions_end_is_settled_by_dice_alone_and_equal_ones_by_the_middle() -> None:
    edges = [found(Point(t, 0, 0), d, a=0.3) for t, d in ((0.4, 0.8), (0.55, 0.8), (0.9, 0.7))]
    quiet = [found(Point(0.9, 9, 0), 0.79, a=0.0), found(Point(0.55, 9, 0, 0.9), 0.6, a=0.0)]
    assert choose(edges + quiet, 0.8) == (quiet[1], False)


def test_of_points_that_are_as_good_the_tidier_and_the_less_strict_is_taken() -> None:
    tried = [ALL, found(kept(5000), 0.79, a=0.0), found(kept(2000), 0.79, a=0.0)]
    assert choose(tried, 0.8)[0] == tried[2]
    filled = [found(Point(0.5, 2000, 2000, sure), 0.787, a=0.0) for sure in (0.9, 0.7)]
    assert choose([*tried, *filled], 0.8)[0] == filled[1]
    surer = [found(kept(5000, sure), 0.79, a=0.0) for sure in (0.9, 0.7)]
    assert choose([ALL, *surer, found(kept(2000, 0.9), 0.79, a=0.0)], 0.8)[0] == surer[1]
    same = found(kept(2000), 0.788, a=0.0)
    assert choose([same, *tried], 0.8)[0] == tried[2], "of one point's twins the better"
    worse = found(Point(0.5, 2000, 10_000), 0.78, a=0.0)
    assert choose([*tried, worse], 0.8)[0] == tried[2]
    assert len(set(grid())) == len(list(grid())) > 100


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12))
def test_no_two_tiles_of_a_mosaic_overlap(sizes: list[tuple[int, int]]) -> None:
    corners = lay_out(sizes)
    across, down = (max(c[i] + s[i] for c, s in zip(corners, sizes, strict=True)) for i in (0, 1))
    covered = np.zeros((down, across), int)
    for (x, y), (width, height) in zip(corners, sizes, strict=True):
        covered[y : y + height, x : x + width] += 1
    assert covered.max() == 1
    assert covered.sum() == sum(width * height for width, height in sizes)


def test_a_mosaic_holds_every_image_and_mask_where_its_tile_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(40, 30), (20, 50), (33, 21)]):
        for kind, values in (("image", rng.integers(0, 256, (height, width, 3))), ("mask", None)):
            path = tmp_path / "t" / "d" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn = rng.integers(0, 2, (height, width)) * 255 if values is None else values
            Image.fromarray(drawn.astype(np.uint8)).save(path)
    cases = read_cases(tmp_path, image_mpp=0.5)
    made = compose(cases)
    for tile in made.tiles:
        rows, columns = slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width)
        assert np.array_equal(made.rgb_YX3[rows, columns], np.asarray(Image.open(tile.case.image)))
        assert np.array_equal(made.mask_YX[rows, columns], np.asarray(Image.open(tile.case.mask)))
        assert tile.on_canvas(1.0) == (rows, columns)
    truth = made.truth(made.mask_YX.shape, 1.0, "bilinear")
    assert np.array_equal(truth, made.mask_YX > 0)
    down, across = made.mask_YX.shape
    half = made.truth((-(-down // 2), -(-across // 2)), 2.0, "bilinear")
    assert half.mean() == pytest.approx(truth.mean(), abs=0.1)


def test_what_the_bundle_advises_is_used_unless_the_user_says_otherwise() -> None:
    advised = outlining(PolygonOptions(), SPEC)
    assert (advised.threshold, advised.min_area_um2, advised.review_above) == (0.65, 7.0, 0.12)
    assert advised.sure == 0.8
    said = outlining(PolygonOptions(threshold=0.3, min_area=0, review=0.5, sure=0.0), SPEC)
    assert (said.threshold, said.min_area_um2, said.review_above, said.sure) == (0.3, 0, 0.5, 0)
    old = BundleSpec.model_validate(SPEC.model_dump(exclude={"review_above", "temperature", "sure"}))
    assert (old.review_above, old.temperature, old.sure) == (None, 1.0, 0.0)
    assert outlining(PolygonOptions(), old).review_above is None
