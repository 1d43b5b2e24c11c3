import gzip
import math
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import orjson
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from wsiseg.errors import OutputError
from wsiseg.geojson import Export, Placed, features, place, write
from wsiseg.geometry import Scale
from wsiseg.polygons import Regions, outline, tidy
from wsiseg.qupath import check, problems

Mask = npt.NDArray[np.bool_]

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=13)) | hnp.arrays(
    np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5)
).map(lambda mask: np.kron(mask, np.ones((3, 3), np.bool_)))
factors = st.floats(0.3, 8) | st.sampled_from([1.0, 1.46875, 2.5])


def export(**changes: Any) -> Export:
    given = {"scale": Scale(1.5), "mpp": 0.25, "fingerprint": "f" * 64, "weights_key": "w" * 64}
    return Export(**{**given, **changes})


def regions_of(mask: Mask) -> Regions:
    prob = np.where(mask, 200, 0).astype(np.uint8)
    return outline(prob, np.full_like(prob, 51), threshold_u8=128, x=0, y=0)


def one(*rings: list[tuple[float, float]]) -> Regions:
    polygon = np.array([shapely.Polygon(rings[0], rings[1:])])
    return Regions(polygon, np.array([100]), np.array([0.8]), np.array([0.2]), np.array([100]))


def document(regions: Regions, to: Export) -> dict[str, Any]:
    written = orjson.dumps({"type": "FeatureCollection", "features": list(features(place(regions, to)))})
    read: dict[str, Any] = orjson.loads(written)
    return read


def shapes(document: dict[str, Any]) -> list[shapely.Polygon]:
    return [
        shapely.Polygon(r[0], r[1:]) for r in (f["geometry"]["coordinates"] for f in document["features"])
    ]


SQUARE = one([(1, 1), (5, 1), (5, 5), (1, 5)])


@given(masks, factors, st.sampled_from([0.0, 1.0, 3.0]), st.sampled_from(["qupath", "level0"]))
def test_every_exported_feature_passes_every_rule_of_qupath(
    mask: Mask, factor: float, simplify_px: float, origin: str
) -> None:
    regions = tidy(regions_of(mask), min_area_px=2, min_hole_px=2, simplify_px=simplify_px)
    exported = document(regions, export(scale=Scale(factor, 7, 9), origin=origin, review_above=0.1))
    assert [p for p in problems(exported) if p.rule != "empty"] == []


@given(masks, factors)
def test_filled_features_give_the_mask_back_on_level_0(mask: Mask, factor: float) -> None:
    regions = regions_of(mask)
    exported = shapes(document(regions, export(scale=Scale(factor))))
    y, x = np.indices(mask.shape)
    centres = shapely.points((x + 0.5) * factor, (y + 0.5) * factor)
    inside = np.zeros(mask.shape, np.bool_)
    for shape in exported:
        inside |= shapely.contains(shape, centres)
    assert (inside == mask).all()  # rounding moves an edge by 1/8 px at most, a centre is further in


@given(masks, factors, st.sampled_from([1.0, 2.0]))
def test_simplified_features_lie_within_twice_the_tolerance(
    mask: Mask, factor: float, simplify_px: float
) -> None:
    regions = regions_of(mask)
    simple = tidy(regions, min_area_px=0, min_hole_px=0, simplify_px=simplify_px)
    placed = place(simple, export(scale=Scale(factor)))
    if placed.repaired or placed.dropped:
        return
    far = 2 * simplify_px * factor + 0.125 * math.sqrt(2) + 1e-9
    exact = shapely.transform(regions.polygons_N, lambda xy: xy * factor)
    for before, after in zip(exact, placed.polygons_N, strict=True):
        assert shapely.hausdorff_distance(before.exterior, after.exterior) <= far


blocky = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)).map(
    lambda mask: np.kron(mask, np.ones((7, 7), np.bool_))
)


@given(blocky, factors, st.sampled_from([0.5, 1.0, 1.5]))
def test_simplified_features_give_the_mask_back_but_near_its_edges(
    mask: Mask, factor: float, simplify_px: float
) -> None:
    """Masks with holes, nested islands, touching corners, bridges and the border, 7 px to a step."""
    simple = tidy(regions_of(mask), min_area_px=0, min_hole_px=0, simplify_px=simplify_px)
    exported = shapes(document(simple, export(scale=Scale(factor))))
    apart_px = 2 * simplify_px + 0.125 * math.sqrt(2) / factor
    around = np.pad(mask, 1)
    inner = ndimage.distance_transform_edt(around)[1:-1, 1:-1]
    outer = ndimage.distance_transform_edt(~around)[1:-1, 1:-1]
    y, x = np.nonzero(inner + outer - 0.5 > apart_px)  # half a px less: to the edge
    centres = shapely.points((x + 0.5) * factor, (y + 0.5) * factor)
    inside = np.zeros(x.shape, np.bool_)
    for shape in exported:
        inside |= shapely.contains(shape, centres)
    assert np.array_equal(inside, mask[y, x])


@given(masks, factors)
def test_coordinates_are_multiples_of_a_quarter_and_rings_run_as_rfc_7946_says(
    mask: Mask, factor: float
) -> None:
    for feature in document(regions_of(mask), export(scale=Scale(factor)))["features"]:
        shell, *holes = feature["geometry"]["coordinates"]
        assert all(c % 0.25 == 0 for ring in (shell, *holes) for position in ring for c in position)
        assert shapely.LinearRing(shell).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)


def test_the_origin_is_the_corner_of_the_bounds_or_of_level_0() -> None:
    scale = Scale(2.0, 100, 30)
    (qupath,) = shapes(document(SQUARE, export(scale=scale)))
    (level0,) = shapes(document(SQUARE, export(scale=scale, origin="level0")))
    assert list(qupath.bounds) == [2, 2, 10, 10]
    assert list(level0.bounds) == [102, 32, 110, 40]


def test_a_feature_carries_class_type_and_measurements() -> None:
    (feature,) = document(SQUARE, export(scale=Scale(2.0), object_type="detection"))["features"]
    assert feature["properties"] == {
        "objectType": "detection",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
        "measurements": {
            "Area mm^2": pytest.approx(64 * (0.25 / 1000) ** 2),
            "Mean probability": 0.8,
            "Fold disagreement": 0.2,
        },
        "metadata": {"source": "wsiseg"},
    }


@pytest.mark.parametrize(("limit", "name"), [(None, "Tumor"), (0.2, "Tumor"), (0.19, "Tumor: Review")])
def test_a_region_is_for_review_when_the_folds_disagree_more_than_the_limit(
    limit: float | None, name: str
) -> None:
    (feature,) = document(SQUARE, export(review_above=limit))["features"]
    assert feature["properties"]["classification"]["name"] == name


def test_a_polygon_that_rounding_makes_cross_itself_is_mended() -> None:
    spike = one([(0, 0), (10, 0), (10, 10), (5.0, 0.11), (4.9, 10), (0, 10)])
    rounded = shapely.Polygon([(0, 0), (10, 0), (10, 10), (5, 0), (5, 10), (0, 10)])
    assert not rounded.is_valid
    placed = place(spike, export(scale=Scale(1.0)))
    assert (placed.repaired, placed.dropped) == (1, 0)
    assert problems(document(spike, export(scale=Scale(1.0)))) == []
    assert shapely.area(placed.polygons_N).sum() == pytest.approx(spike.polygons_N[0].area, rel=0.05)
    assert len(placed.mean_prob_N) == len(placed.polygons_N) > 1


def test_a_polygon_of_which_rounding_leaves_nothing_is_dropped_and_counted() -> None:
    sliver = one([(0, 0), (9, 0), (9, 0.1)])
    both = Regions.concatenate([sliver, SQUARE])
    placed = place(both, export(scale=Scale(1.0)))
    assert (placed.repaired, placed.dropped, len(placed.polygons_N)) == (0, 1, 1)


@given(masks, st.floats(0, 1))
def test_ids_are_uuids_the_same_on_every_export_and_never_twice(mask: Mask, limit: float) -> None:
    regions = regions_of(mask)
    ids = [f["id"] for f in document(regions, export())["features"]]
    again = document(regions, export(review_above=limit, object_type="detection"))["features"]
    assert [f["id"] for f in again] == ids
    assert len(set(ids)) == len(ids)
    assert {uuid.UUID(i).version for i in ids} <= {5}


@pytest.mark.parametrize("change", [{"fingerprint": "a"}, {"weights_key": "a"}, {"scale": Scale(2)}])
def test_ids_change_with_the_slide_the_bundle_and_the_geometry(change: dict[str, Any]) -> None:
    first, other = (document(SQUARE, export(**c))["features"][0]["id"] for c in ({}, change))
    assert first != other


def test_two_regions_of_one_geometry_get_two_ids() -> None:
    twice = document(Regions.concatenate([SQUARE, SQUARE]), export())
    assert problems(twice) == []


@pytest.mark.parametrize("name", ["tumor.geojson", "tumor.geojson.gz"])
def test_a_written_file_is_whole_passes_and_is_the_same_every_time(tmp_path: Path, name: str) -> None:
    mask = np.random.default_rng(1).random((60, 60)) < 0.5
    placed = place(regions_of(mask), export())
    paths = [tmp_path / folder / name for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        written = write(path, features(placed), {"threshold": 0.5})
        assert list(path.parent.iterdir()) == [path]
    raw, again = (path.read_bytes() for path in paths)
    assert raw == again
    read = orjson.loads(gzip.decompress(raw) if name.endswith(".gz") else raw)
    assert read["wsiseg"] == {"threshold": 0.5}
    assert read["features"] == list(features(placed))
    assert (written.features, written.bytes) == (len(placed.polygons_N), len(raw))
    assert written.vertices == shapely.get_num_coordinates(placed.polygons_N).sum()
    assert check(paths[0]) == []


def test_writing_a_million_vertices_takes_less_memory_than_their_coordinates(tmp_path: Path) -> None:
    round_ = np.round(shapely.get_coordinates(shapely.Point(0, 0).buffer(50, quad_segs=250)) * 4) / 4
    corners_NP2 = round_ + 200 * np.arange(1000)[:, None, None]
    means_N = np.full(1000, 0.8)
    polygons_N = np.asarray(shapely.polygons(corners_NP2), object)
    placed = Placed(export(), polygons_N, means_N, means_N, dropped=0, repaired=0)
    tracemalloc.start()
    try:
        written = write(tmp_path / "a.geojson", features(placed), {})
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert written.vertices == 1_001_000
    assert peak_bytes < 16 * written.vertices / 4


def test_a_gzipped_file_tells_neither_its_name_nor_its_time(tmp_path: Path) -> None:
    write(tmp_path / "secret.geojson.gz", [], {})
    header = (tmp_path / "secret.geojson.gz").read_bytes()
    assert header[3] == 0  # no name follows
    assert header[4:8] == bytes(4)


def test_an_empty_collection_is_still_written(tmp_path: Path) -> None:
    path = tmp_path / "tumor.geojson"
    assert write(path, [], {"why": "no tissue"}).features == 0
    assert [p.rule for p in check(path)] == ["empty"]


def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "tumor.geojson"
    path.write_text("old")

    def failing() -> Any:
        yield from features(place(SQUARE, export()))
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write(path, failing(), {})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="absent"):
        write(tmp_path / "absent" / "tumor.geojson", [], {})
