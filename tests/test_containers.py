"""The same tissue in another vendor's container gives the same polygons."""

import json
from pathlib import Path

import pytest
import shapely

from wsiseg.one_slide import Job
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.outlining import outlining
from wsiseg.pipeline import PREDICTORS, SLIDES
from wsiseg.recipes import SlideRecipe
from wsiseg.testing import DARKNESS, Darkness
from wsiseg.workers import in_threads

CMU = "real/CMU-1-Small-Region.svs"
LEAST_DICE = 0.99
CONTAINERS = [  # all JPEG, as the first is; measured 0.998, 0.997, 0.998, 0.998 and 0.996
    "aperio-3level-jpeg.svs",
    "hamamatsu.ndpi",
    "mirax.mrxs",
    "generic-pyramid-nompp.tiff",
    "dicom-cmu-1-small-region-colourfixed/level-0-frames-0-30.dcm",
]


def outlined(path: Path, out: Path) -> shapely.geometry.base.BaseGeometry:
    how = outlining(PolygonOptions(min_area=2000, min_hole=500), DARKNESS)
    options = MapOptions(slide_mpp=0.499)
    job = Job(
        DARKNESS,
        Darkness(radius=7, middle=0.32),
        "integers",
        options,
        how,
        overwrite=False,
        mapper=in_threads(1),
    )
    try:
        job.segment(SlideRecipe(path, 0.499, "--slide-mpp", "auto", DARKNESS), out, lambda _: None)
    finally:
        SLIDES.clear()
        PREDICTORS.clear()
    features = json.loads((out / "tumor.geojson").read_text())["features"]
    return shapely.union_all([shapely.geometry.shape(feature["geometry"]) for feature in features])


def dice(one: shapely.geometry.base.BaseGeometry, other: shapely.geometry.base.BaseGeometry) -> float:
    return float(2 * one.intersection(other).area / (one.area + other.area))


@pytest.fixture(scope="module")
def first(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> shapely.geometry.base.BaseGeometry:
    found = outlined(shared / "slides" / CMU, tmp_path_factory.mktemp("cmu") / "out")
    whole = 2220 * 2967
    assert 0.02 < found.area / whole < 0.8, "outlines of all or of nothing would agree by themselves"
    return found


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_same_tissue_in_another_container_gives_the_same_polygons(
    shared: Path, tmp_path: Path, first: shapely.geometry.base.BaseGeometry, name: str
) -> None:
    frame = shapely.box(0, 0, 2208, 2960)  # what the smallest container holds
    other = outlined(shared / "slides" / "derived" / name, tmp_path / "out")
    assert dice(first.intersection(frame), other.intersection(frame)) >= LEAST_DICE
