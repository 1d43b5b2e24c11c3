"""Regions that a person drew in QuPath decide where to look, and lie where they were drawn."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsiseg.drawn import Drawn, check_tissue_option, drawn_tissue, filled, read_drawn
from wsiseg.errors import GeoJSONError, UsageError
from wsiseg.geometry import Box
from wsiseg.testing import array_info

INFO = array_info(4000, 3000, mpp=0.5, bounds=Box(800, 400, 2400, 1600))


def feature(shape: Any, name: str | None = None) -> dict[str, Any]:
    about = {} if name is None else {"classification": {"name": name, "color": [1, 2, 3]}}
    return {"type": "Feature", "geometry": shapely.geometry.mapping(shape), "properties": about}


def written(path: Path, *features: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **more}))
    return path


CORNERS = st.lists(st.tuples(st.integers(-20, 60), st.integers(-20, 60)), min_size=3, max_size=8)


@given(st.lists(CORNERS, max_size=3))
@example([[(0, 0), (0, 1), (1, 0)], [(0, 1), (0, 2), (4, 0)], [(0, 1), (2, -1), (-1, -2), (5, 1), (4, 0)]])
@settings(max_examples=200)
def test_a_pixel_is_inside_if_its_centre_is(regions: list[list[tuple[int, int]]]) -> None:
    """A centre that lies on an edge may fall to either side."""
    made = [shapely.make_valid(shapely.Polygon(corners)) for corners in regions]
    parts_N = shapely.get_parts(shapely.get_parts(np.array(made, object)))
    polygons_N = parts_N[shapely.area(parts_N) > 0]
    centres = np.meshgrid(np.arange(50) + 0.5, np.arange(40) + 0.5)
    points_YX = shapely.points(np.stack(centres, axis=-1))
    expected_YX, clear_YX = np.zeros((40, 50), np.bool_), np.ones((40, 50), np.bool_)
    for polygon in polygons_N:  # one by one: GEOS may lose some of a union
        expected_YX |= np.asarray(shapely.contains_xy(polygon, *centres))
        clear_YX &= np.asarray(shapely.distance(shapely.boundary(polygon), points_YX)) > 1e-9
    found_YX = filled(polygons_N, (40, 50))
    assert np.array_equal(found_YX[clear_YX], expected_YX[clear_YX])


@given(st.tuples(*(st.integers(0, 80),) * 4), st.integers(1, 79))
def test_polygons_side_by_side_share_no_pixel_and_lose_none(sides: tuple[int, ...], cut: int) -> None:
    """Edges run along rows and columns of centres too."""
    left, top, right, bottom = (side / 2 for side in sides)
    whole = shapely.box(min(left, right), min(top, bottom), max(left, right) + 1, max(top, bottom) + 1)
    for halves in ((0, 0, cut / 2, 99), (cut / 2, 0, 99, 99)), ((0, 0, 99, cut / 2), (0, cut / 2, 99, 99)):
        one, two = (filled(np.array([whole & shapely.box(*half)], object), (42, 42)) for half in halves)
        assert not (one & two).any()
        assert np.array_equal(one | two, filled(np.array([whole], object), (42, 42)))


def test_a_mask_lies_on_the_bounds_at_about_8_um() -> None:
    region = np.array([shapely.box(160, 320, 480, 640)], object)
    mask = Drawn("a", "b", None, region, level0=False, object_N=np.arange(1)).mask(INFO)
    assert (mask.scale.factor, mask.scale.x, mask.scale.y, mask.mpp) == (16, 800, 400, 8.0)
    assert mask.mask_YX.shape == (100, 150)
    assert mask.mask_YX[20:40, 10:30].all()
    assert mask.mask_YX.sum() == 400


def test_coordinates_count_from_the_bounds_unless_our_own_export_says_level_0(tmp_path: Path) -> None:
    in_qupath = written(tmp_path / "q.geojson", feature(shapely.box(160, 320, 480, 640)))
    in_level0 = written(
        tmp_path / "l.geojson", feature(shapely.box(960, 720, 1280, 1040)), wsiseg={"origin": "level0"}
    )
    found = [read_drawn(path) for path in (in_qupath, in_level0)]
    assert shapely.equals(*(drawn.in_bounds(INFO)[0] for drawn in found))
    np.testing.assert_array_equal(found[0].mask(INFO).mask_YX, found[1].mask(INFO).mask_YX)


def test_regions_of_one_class_or_of_any_are_taken_holes_left_out(tmp_path: Path) -> None:
    ring = shapely.box(0, 0, 800, 800).difference(shapely.box(160, 160, 640, 640))
    path = written(
        tmp_path / "a.geojson",
        feature(ring, "Tissue: mine"),
        feature(shapely.box(1000, 0, 1160, 160), "Artefact"),
        feature(shapely.box(2000, 0, 2160, 160)),
        feature(shapely.LineString([(0, 0), (900, 900)]), "Tissue"),
    )
    any_class, tissue = read_drawn(path), read_drawn(path, "Tissue")
    assert (len(any_class.polygons_N), len(tissue.polygons_N)) == (3, 1)
    mask = tissue.mask(INFO)
    assert not mask.mask_YX[12:38, 12:38].any()
    assert mask.area_mm2 == pytest.approx((800**2 - 480**2) * 0.25e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_every_part_of_a_class_and_of_those_derived_from_it_is_read(tmp_path: Path, *, packed: bool) -> None:
    two = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)])
    listed = [
        feature(two, "Tumor"),
        feature(shapely.box(5, 5, 6, 6), "Tumor: Review"),
        feature(shapely.box(9, 9, 12, 12), "Stroma"),
        feature(shapely.box(9, 9, 12, 12)),
    ]
    path = written(tmp_path / "a.geojson", *listed)
    if packed:
        path.with_suffix(".geojson.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_suffix(".geojson.gz")
    found = read_drawn(path, "Tumor")
    assert shapely.area(found.polygons_N).tolist() == [1, 1, 1]
    assert shapely.area(found.objects).tolist() == [2, 1]
    assert found.classes == ("Stroma", "Tumor", "none")


def test_the_files_bytes_and_the_class_are_the_setting(tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson", feature(shapely.box(0, 0, 9, 9), "T"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_drawn(path).setting == f"drawn, sha256 {sha256}"
    assert read_drawn(path, "T").setting == f"drawn, sha256 {sha256}, class T"


def test_a_folder_has_one_file_for_each_slide(tmp_path: Path) -> None:
    written(tmp_path / "one.geojson", feature(shapely.box(0, 0, 9, 9)))
    found = drawn_tissue(str(tmp_path), None, Path("/slides/one.svs"))
    assert found is not None
    assert found.name == "one.geojson"
    with pytest.raises(GeoJSONError, match=r"two\.geojson cannot be read"):
        drawn_tissue(str(tmp_path), None, Path("/slides/two.svs"))
    assert drawn_tissue("auto", None, Path("one.svs")) is None


def test_a_file_that_cannot_be_right_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson", feature(shapely.box(0, 0, 9, 9), "T"))
    with pytest.raises(GeoJSONError, match=r"no polygon of class X \(its classes: T\)"):
        read_drawn(path, "X")
    with pytest.raises(GeoJSONError, match="holds no polygon"):
        read_drawn(written(tmp_path / "b.geojson"))
    assert len(read_drawn(tmp_path / "b.geojson", or_none=True).polygons_N) == 0
    with pytest.raises(GeoJSONError, match=r"lies on array\.tif \(2400 × 1600 px\)"):
        read_drawn(written(tmp_path / "c.geojson", feature(shapely.box(9000, 0, 9900, 90)))).mask(INFO)
    for text in (
        "",
        "[1]",
        '{"features": [{"geometry": null, "properties": 3}]}',
        '{"features": 3}',
        '{"features": [{"geometry": {"type": "Nonsense"}}]}',
        '{"hello": 1}',
        '{"features": [], "wsiseg": {"origin_level0_px": 3}}',
        "null",
    ):
        path.write_text(text)
        with pytest.raises(GeoJSONError, match=r"a\.geojson cannot be read"):
            read_drawn(path, or_none=True)
    with pytest.raises(UsageError, match="there is no such file; give auto, none"):
        check_tissue_option("nonee", 1)
    with pytest.raises(UsageError, match="the regions of one slide, and 2 are named"):
        check_tissue_option(str(path), 2)
    check_tissue_option(str(tmp_path), 2)
    check_tissue_option("none", 2)
