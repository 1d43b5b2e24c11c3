import math
import pickle
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from unittest import mock

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiseg import seams
from wsiseg.errors import UsageError
from wsiseg.polygons import Regions, join, outline, threshold_u8, tidy, within_budget
from wsiseg.rings import corners, polygons_of
from wsiseg.runs import label_runs

Map = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
unhurried = settings(deadline=None)  # a busy machine is no broken law

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=13))
blobs = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5)).map(
    lambda mask: np.kron(mask, np.ones((3, 3), np.bool_))
)
chunks = st.sampled_from([1, 2, 3, 4, 5, 7, 16])


def drawn(text: str) -> Mask:
    return np.array([[sign == "#" for sign in line] for line in text.split()])


HARD = {
    "a corner of the region touches another one of it around the background": "##### #...# #.### #..#. .####",
    "regions that touch only at a corner": "##.. ##.. ..## ..##",
    "nested islands": "####### #.....# #.###.# #.#.#.# #.###.# #.....# #######",
    "a bridge of one pixel": "##..## ###### ##..##",
    "two holes that touch at a corner": "##### #.### ##.## #####",
    "a hole that touches the outside at a corner": "##.# #.## ####",
    "a chessboard": "#.#.# .#.#. #.#.# .#.#.",
    "a ring of diagonal steps": ".#.. #.#. .#.# ..#.",
    "nothing": "... ...",
    "everything": "### ###",
}


def maps_of(mask: Mask, seed: int = 0) -> tuple[Map, Map]:
    rng = np.random.default_rng(seed)
    prob = np.where(mask, rng.integers(128, 256, mask.shape), rng.integers(0, 128, mask.shape))
    return prob.astype(np.uint8), rng.integers(0, 128, mask.shape).astype(np.uint8)


SURE = 200


def outlined(prob: Map, spread: Map) -> Regions:
    return outline(prob, spread, threshold_u8=128, sure_u8=SURE, x=0, y=0)


def blocks(prob: Map, spread: Map, chunk: int) -> list[Regions]:
    height, width = prob.shape
    corners = [(y, x) for y in range(0, height, chunk) for x in range(0, width, chunk)]
    cut = [(np.s_[y : y + chunk, x : x + chunk], y, x) for y, x in corners]
    return [outline(prob[box], spread[box], threshold_u8=128, sure_u8=SURE, x=x, y=y) for box, y, x in cut]


def bytes_of(regions: Regions) -> list[bytes]:
    polygons = shapely.to_wkb(regions.polygons_N).tolist()
    means = regions.mean_prob_N, regions.spread_N
    return [*polygons, *(column.tobytes() for column in (regions.area_px_N, *means, regions.sure_px_N))]


def flooded(mask: Mask) -> Iterator[set[tuple[int, int]]]:
    """The 4-connected regions, pixel by pixel: the slow oracle."""
    left = set(zip(*(side.tolist() for side in np.nonzero(mask)), strict=True))
    while left:
        region, front = set[tuple[int, int]](), [min(left)]
        while front:
            y, x = front.pop()
            if (y, x) in left:
                left.remove((y, x))
                region.add((y, x))
                front += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        yield region


def filled(polygon: shapely.Polygon, shape: tuple[int, int]) -> set[tuple[int, int]]:
    y, x = np.indices(shape)
    return set(zip(*np.nonzero(shapely.contains_xy(polygon, x + 0.5, y + 0.5)), strict=True))


@unhurried
@given(masks | blobs)
@example(drawn(HARD["a ring of diagonal steps"]))
def test_filling_the_outlines_gives_each_region_of_the_mask_back(mask: Mask) -> None:
    regions = outlined(*maps_of(mask))
    assert [filled(polygon, mask.shape) for polygon in regions.polygons_N] == list(flooded(mask))


@pytest.mark.parametrize("name", HARD)
def test_hard_masks_are_outlined_and_joined_exactly(name: str) -> None:
    mask = drawn(HARD[name])
    prob, spread = maps_of(mask)
    whole = outlined(prob, spread)
    assert [filled(polygon, mask.shape) for polygon in whole.polygons_N] == list(flooded(mask))
    assert shapely.is_valid(whole.polygons_N).all()
    for chunk in range(1, 6):
        assert bytes_of(join(blocks(prob, spread, chunk), chunk)) == bytes_of(whole)


@unhurried
@given(masks | blobs, st.integers(1, 9), st.integers(1, 40))
def test_how_many_edges_are_chained_at_once_changes_nothing(mask: Mask, chunk: int, at_once: int) -> None:
    prob, spread = maps_of(mask)
    with mock.patch.object(seams, "EDGES_AT_ONCE", at_once):
        assert bytes_of(join(blocks(prob, spread, chunk), chunk)) == bytes_of(outlined(prob, spread))


@unhurried
@given(masks | blobs)
def test_outlines_are_valid_with_the_area_of_their_pixels(mask: Mask) -> None:
    regions = outlined(*maps_of(mask))
    assert shapely.is_valid(regions.polygons_N).all()
    assert shapely.area(regions.polygons_N).tolist() == regions.area_px_N.tolist()
    assert regions.area_px_N.sum() == mask.sum()


@unhurried
@given(masks | blobs)
def test_shells_run_anticlockwise_and_holes_clockwise(mask: Mask) -> None:
    for polygon in outlined(*maps_of(mask)).polygons_N:
        assert polygon.exterior.is_ccw
        assert not any(hole.is_ccw for hole in polygon.interiors)


@unhurried
@given(masks, st.integers(0, 99))
def test_means_are_those_of_a_loop_over_the_pixels(mask: Mask, seed: int) -> None:
    prob, spread = maps_of(mask, seed)
    regions = outlined(prob, spread)
    for i, pixels in enumerate(flooded(mask)):
        assert regions.mean_prob_N[i] == sum(int(prob[at]) for at in pixels) / (255 * len(pixels))
        assert regions.spread_N[i] == sum(int(spread[at]) for at in pixels) / (255 * len(pixels))
        assert regions.sure_px_N[i] == sum(prob[at] >= SURE for at in pixels)


@unhurried
@given(masks | blobs, chunks, st.randoms(), st.integers(0, 99))
def test_outlines_of_joined_blocks_are_the_outline_of_the_whole(
    mask: Mask, chunk: int, random: Random, seed: int
) -> None:
    prob, spread = maps_of(mask, seed)
    parts = blocks(prob, spread, chunk)
    random.shuffle(parts)
    assert bytes_of(join(parts, chunk)) == bytes_of(outlined(prob, spread))


@unhurried
@given(blobs, st.sampled_from([1, 2, 3, 5]), st.integers(0, 9))
def test_parts_may_be_joined_in_steps(mask: Mask, chunk: int, cut: int) -> None:
    prob, spread = maps_of(mask)
    parts = blocks(prob, spread, chunk)
    first, second = join(parts[:cut], chunk), join(parts[cut:], chunk)
    assert bytes_of(join([first, second], chunk)) == bytes_of(outlined(prob, spread))


def test_regions_that_meet_at_a_corner_of_four_blocks_stay_apart() -> None:
    prob, spread = maps_of(drawn("##.. ##.. ..## ..##"))
    assert shapely.area(join(blocks(prob, spread, 2), 2).polygons_N).tolist() == [4, 4]


@unhurried
@given(masks, st.integers(1, 255), st.integers(0, 255))
def test_a_constant_map_gives_a_constant_mean_whatever_the_blocks(mask: Mask, prob: int, spread: int) -> None:
    maps = [np.where(mask, value, 0).astype(np.uint8) for value in (prob, spread)]
    parts = [
        outline(maps[0][:, x : x + 2], maps[1][:, x : x + 2], threshold_u8=1, x=x, y=0)
        for x in range(0, mask.shape[1], 2)
    ]
    regions = join(parts, 2)
    assert set(regions.mean_prob_N) <= {prob / 255}
    assert set(regions.spread_N) <= {spread / 255}


def test_joining_nothing_gives_no_region() -> None:
    assert len(join([], 7)) == 0
    assert len(outline(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), threshold_u8=1, x=0, y=0)) == 0


@unhurried
@given(masks | blobs, st.booleans())
def test_regions_survive_a_pickle(mask: Mask, half: bool) -> None:
    regions = outlined(*maps_of(mask))
    if half:
        moved = shapely.transform(regions.polygons_N, lambda xy: xy + 0.5)
        regions = replace(regions, polygons_N=moved)
    assert bytes_of(pickle.loads(pickle.dumps(regions))) == bytes_of(regions)  # noqa: S301 -- our own


@unhurried
@given(st.floats(0, 1, exclude_min=True) | st.integers(1, 255).map(lambda stored: stored / 255))
def test_a_pixel_is_tumour_when_its_stored_value_reaches_the_threshold(threshold: float) -> None:
    lowest = threshold_u8(threshold)
    assert all((stored >= lowest) == (stored / 255 >= threshold) for stored in range(256))


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.001, math.nan])
def test_a_threshold_that_everything_or_nothing_meets_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match="threshold"):
        threshold_u8(threshold)


@unhurried
@given(masks | blobs, st.integers(0, 12), st.integers(0, 12))
def test_tidying_fills_small_holes_then_drops_small_regions(mask: Mask, min_area: int, min_hole: int) -> None:
    regions = outlined(*maps_of(mask))
    expected = []
    for polygon in regions.polygons_N:
        holes = [ring for ring in polygon.interiors if shapely.Polygon(ring).area >= min_hole]
        whole = shapely.Polygon(polygon.exterior, holes)
        if whole.area >= min_area:
            expected.append(whole.wkb)
    tidied = tidy(regions, min_area_px=min_area, min_hole_px=min_hole, simplify_px=0)
    assert [polygon.wkb for polygon in tidied.polygons_N] == expected
    assert set(tidied.area_px_N) <= set(regions.area_px_N)


def test_a_region_is_judged_by_its_area_with_the_small_holes_filled() -> None:
    ring = outlined(*maps_of(drawn("### #.# ###")))
    assert len(tidy(ring, min_area_px=9, min_hole_px=0, simplify_px=0)) == 0
    (kept,) = tidy(ring, min_area_px=9, min_hole_px=2, simplify_px=0).polygons_N
    assert kept.wkt == "POLYGON ((0 0, 3 0, 3 3, 0 3, 0 0))"


@unhurried
@given(masks | blobs, chunks, st.integers(1, 12), st.integers(0, 99))
def test_of_a_region_so_much_must_be_sure_whatever_the_blocks(
    mask: Mask, chunk: int, least: int, seed: int
) -> None:
    prob, spread = maps_of(mask, seed)
    kept = tidy(
        join(blocks(prob, spread, chunk), chunk),
        min_area_px=0,
        min_hole_px=0,
        simplify_px=0,
        min_sure_px=least,
    )
    label, count = ndimage.label(mask)  # the oracle: hysteresis, as one looks at the whole
    sizes = np.bincount(label[prob >= SURE], minlength=count + 1)[1:]
    assert kept.area_px_N.sum() == np.isin(label, 1 + np.flatnonzero(sizes >= least)).sum()
    assert len(kept) == (sizes >= least).sum()


def test_where_no_more_is_asked_all_of_a_region_is_sure() -> None:
    prob, spread = maps_of(drawn("##.. ##.. ...# ..##"))
    regions = outline(prob, spread, threshold_u8=128, x=0, y=0)
    assert regions.sure_px_N.tolist() == regions.area_px_N.tolist() == [4, 3]


def test_a_polygon_that_simplifying_would_break_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bowtie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    monkeypatch.setattr(shapely, "simplify", lambda polygons, *_, **__: np.full(len(polygons), bowtie))
    regions = outlined(*maps_of(drawn("##")))
    assert bytes_of(tidy(regions, min_area_px=0, min_hole_px=0, simplify_px=1)) == bytes_of(regions)


@unhurried
@given(masks | blobs, st.randoms())
def test_polygons_are_sorted_by_their_first_vertex_however_the_labels_are_numbered(
    mask: Mask, random: Random
) -> None:
    runs = label_runs(mask)
    names = list(range(runs.count))
    random.shuffle(names)
    renamed = replace(runs, label_R=np.array(names, np.int64)[runs.label_R])
    polygons, owner = polygons_of(corners(mask, renamed, 0, 0))
    first = [shapely.get_coordinates(polygon)[0][::-1].astype(int).tolist() for polygon in polygons]
    assert first == sorted(first)
    y_N, x_N = np.array(first, np.int64).reshape(-1, 2).T
    assert renamed.label_at(y_N, x_N).tolist() == owner.tolist()


@unhurried
@given(masks | blobs)
def test_runs_are_labelled_as_scipy_labels_their_pixels(mask: Mask) -> None:
    label_YX, count = ndimage.label(mask)
    runs = label_runs(mask)
    y_N, x_N = np.nonzero(mask)
    pairs = set(zip(runs.label_at(y_N, x_N).tolist(), label_YX[mask].tolist(), strict=True))
    assert len(pairs) == runs.count == count
    assert runs.lengths.sum() == mask.sum()
    value_YX = np.arange(mask.size).astype(np.uint16).reshape(mask.shape)
    summed = np.bincount(runs.label_R, weights=runs.sums(value_YX), minlength=count)
    expected = ndimage.sum_labels(value_YX, label_YX, np.arange(1, count + 1))
    assert sorted(summed.tolist()) == sorted(np.atleast_1d(expected).tolist())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_run_as_wide_as_a_block_is_summed_up_whole(kind: type[np.unsignedinteger]) -> None:
    """A block of 8192 pixels of 255 is more than 16 bits hold."""
    most = np.iinfo(kind).max
    full_YX = np.full((2, 8192), most, kind)
    assert label_runs(full_YX > 0).sums(full_YX).tolist() == [8192 * most] * 2


@unhurried
@given(masks | blobs, st.sampled_from([0.5, 1.0, 2.0]))
def test_simplified_outlines_stay_valid_and_within_twice_the_tolerance(mask: Mask, tolerance: float) -> None:
    regions = outlined(*maps_of(mask))
    simple = tidy(regions, min_area_px=0, min_hole_px=0, simplify_px=tolerance)
    assert shapely.is_valid(simple.polygons_N).all()
    assert simple.vertices <= regions.vertices
    for before, after in zip(regions.polygons_N, simple.polygons_N, strict=True):
        assert shapely.hausdorff_distance(before.exterior, after.exterior) <= 2 * tolerance + 1e-9


@unhurried
@given(masks | blobs, st.sampled_from([0.0, 0.5, 1.0]))
def test_what_fits_the_budget_is_simplified_as_asked(mask: Mask, tolerance: float) -> None:
    regions = outlined(*maps_of(mask))
    fitted, used = within_budget(regions, simplify_px=tolerance, max_vertices=10_000)
    assert used == tolerance
    assert bytes_of(fitted) == bytes_of(tidy(regions, min_area_px=0, min_hole_px=0, simplify_px=tolerance))


def test_simplifying_rises_until_the_vertices_fit_the_budget() -> None:
    y, x = np.indices((200, 200))
    wavy = np.hypot(x - 100, y - 100) < 60 + 15 * np.sin(20 * np.arctan2(y - 100, x - 100))
    regions = outlined(*maps_of(wavy))
    kept, tolerance = within_budget(regions, simplify_px=1, max_vertices=10_000)
    assert tolerance == 1
    fitted, tolerance = within_budget(regions, simplify_px=1, max_vertices=kept.vertices // 2)
    assert tolerance > 1
    assert fitted.vertices <= kept.vertices // 2
    _, last = within_budget(regions, simplify_px=0, max_vertices=3)
    assert 8 <= last < 12


def test_joining_a_million_vertices_that_reach_no_seam_takes_less_memory_than_their_coordinates() -> None:
    teeth = [(x + step, x % 2) for x in range(30) for step in (0, 1)]
    comb = np.array([*teeth, (30, 3), (0, 3), teeth[0]])
    y, x = np.divmod(np.arange(20_000), 200)
    polygons_N = np.asarray(
        shapely.polygons(comb + np.stack([32 * x + 1, 8 * y + 2], axis=1)[:, None]), object
    )
    ones_N, area_N = np.ones(len(polygons_N)), shapely.area(polygons_N).astype(np.int64)
    apart = Regions(polygons_N, area_N, ones_N, ones_N, area_N)
    tracemalloc.start()
    try:
        joined = join([apart], 1024)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert joined.vertices == apart.vertices > 1_000_000
    assert peak_bytes < 16 * apart.vertices / 2
