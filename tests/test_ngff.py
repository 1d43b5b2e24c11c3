"""The map in the eyes of another reader: ome-zarr, which is also what napari's plugin reads with."""

import logging
from typing import Any

import numpy as np
import pytest
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from wsiseg.canvas import ProbabilityMap, halved
from wsiseg.geometry import Scale
from wsiseg.grid import Grid

MPP, FACTOR, LEFT, TOP, TISSUE_FACTOR = 0.5, 1.5, 30, 60, 24
GRID = Grid(width=1500, height=700, patch=192, margin=32, per_block=2)
MAP_CYX = np.random.default_rng(1).integers(0, 256, (2, GRID.height, GRID.width), np.uint8)
TISSUE_YX = np.random.default_rng(2).random((44, 94)) < 0.5


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> ProbabilityMap:
    path = tmp_path_factory.mktemp("map") / "probability.zarr"
    to = ProbabilityMap.create(path, GRID, scale=Scale(FACTOR, LEFT, TOP), mpp=MPP, about={})
    for block in GRID:
        to.write(block, MAP_CYX[:, *block.core.within(GRID.extent)])
    to.write_tissue(TISSUE_YX, scale=Scale(TISSUE_FACTOR, LEFT, TOP), mpp=MPP)
    return to


@pytest.fixture
def read(stored: ProbabilityMap, caplog: pytest.LogCaptureFixture) -> tuple[Any, Any]:
    """The image and its label as ome-zarr gives them; what it complains of fails the test."""
    with caplog.at_level(logging.WARNING, logger="ome_zarr"):
        image, _, label = Reader(parse_url(stored.path))()
    assert caplog.messages == []
    return image, label


def test_every_level_of_the_pyramid_is_read_as_it_was_stored(
    stored: ProbabilityMap, read: tuple[Any, Any]
) -> None:
    image, label = read
    assert len(image.data) == len(label.data) == stored.depth == 3
    level_CYX = MAP_CYX
    for found in image.data:
        assert np.array_equal(found.compute(), level_CYX)
        level_CYX = halved(level_CYX)
    assert np.array_equal(label.data[0].compute() > 0, TISSUE_YX)


def corner_l0(transforms: Any, pixel: int) -> list[float]:
    """Where a reader puts the near corner of (y, x) = (pixel, pixel), in level-0 pixels of the slide."""
    (scale, shift) = (transform[transform["type"]][-2:] for transform in transforms)
    centre_um = [(pixel * s + t) for s, t in zip(scale, shift, strict=True)]
    return [(um - s / 2) / MPP + 0.5 for um, s in zip(centre_um, scale, strict=True)]  # its first centre is 0


@pytest.mark.parametrize(("which", "factor"), [(0, FACTOR), (1, TISSUE_FACTOR)])
def test_every_level_begins_at_the_corner_of_the_slides_bounds_and_has_its_size(
    read: tuple[Any, Any], which: int, factor: float
) -> None:
    levels = read[which].metadata["coordinateTransformations"]
    assert len(levels) == 3
    for level, transforms in enumerate(levels):
        assert corner_l0(transforms, 0) == pytest.approx([TOP, LEFT])
        step = 7 * factor * 2**level
        assert corner_l0(transforms, 7) == pytest.approx([TOP + step, LEFT + step])


def test_axes_channels_colours_and_windows_are_those_that_were_meant(read: tuple[Any, Any]) -> None:
    about, of_label = read[0].metadata, read[1].metadata
    assert [axis["name"] for axis in about["axes"]] == ["c", "y", "x"]
    assert [axis.get("unit") for axis in about["axes"]] == [None, "micrometer", "micrometer"]
    assert about["channel_names"] == ["tumor probability", "fold disagreement"]
    assert about["visible"] == [True, False]
    assert about["contrast_limits"] == [[0, 255], [0, 255]]
    assert about["colormap"] == [
        [[0, 0, 0], [200 / 255, 0, 0]],
        [[0, 0, 0], [0, 100 / 255, 200 / 255]],
    ]
    assert of_label["name"] == "tissue"
    assert of_label["color"] == {1: pytest.approx([0, 160 / 255, 80 / 255, 96 / 255])}
