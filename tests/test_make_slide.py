"""The drawn slide is what the end-to-end tests take for true, so it is held to its word."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from wsiseg.geometry import L0, Box
from wsiseg.readers import open_slide
from wsiseg.readers.pyramid import PyramidSlide
from wsiseg.tissue import find_slide_tissue, has_overview

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_slide.py"
SIDE, DISC = 4096, (2300, 1700, 500)


def drawn(path: Path, *options: str) -> Path:
    disc = ",".join(map(str, DISC))
    command = [sys.executable, str(SCRIPT), str(path), "--side", str(SIDE), "--disc", disc, *options]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("whole") / "drawn.svs")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("sparse") / "drawn.tiff", "--sparse", "1536,768,1700,2000")


def purple(slide: PyramidSlide, box: Box[L0], step: int) -> npt.NDArray[np.bool_]:
    """Where the tumour's colour is, stroma and glass aside, at ``step`` level-0 px per pixel."""
    rgb = slide.read(box, (box.h // step, box.w // step))
    return rgb[..., 1] < 110


@pytest.mark.parametrize("step", [2, 4, 16])
@pytest.mark.parametrize("kind", ["whole", "sparse"])
def test_a_disc_lies_where_it_was_asked_for_on_every_level(
    request: pytest.FixtureRequest, kind: str, step: int
) -> None:
    x, y, r = DISC
    margin = 32
    box: Box[L0] = Box(x - r - margin, y - r - margin, 2 * (r + margin), 2 * (r + margin))
    with open_slide(request.getfixturevalue(kind)) as slide:
        found = purple(slide, box, step)
    side = found.shape[0]
    centre = (np.arange(side) + 0.5) * step - r - margin
    asked = np.hypot(centre[None, :], centre[:, None]) < r
    both = (found & asked).sum()
    assert 2 * both / (found.sum() + asked.sum()) > 0.97
    rows, columns = np.nonzero(found & asked)
    assert abs(centre[rows].mean()) < 8
    assert abs(centre[columns].mean()) < 8


def test_its_resolution_and_bounds_are_those_asked_for(whole: Path, sparse: Path) -> None:
    with open_slide(whole) as slide:
        assert slide.info.mpp == pytest.approx(0.5)
        assert slide.info.mpp_source == "openslide.mpp-x"
        assert slide.info.objective == pytest.approx(20)
        assert slide.info.bounds == Box(0, 0, SIDE, SIDE)
        assert list(slide.info.downsamples) == [1, 4, 16]
        assert has_overview(slide.info)
    with open_slide(sparse) as slide:
        assert slide.info.mpp == pytest.approx(0.5)
        assert slide.info.bounds == Box(1536, 768, 1792, 2048)
        assert (slide.read(Box(0, 0, 512, 512), (128, 128)) == 255).all()


def test_glass_is_the_part_asked_for_and_reads_as_glass(tmp_path: Path, whole: Path) -> None:
    with open_slide(whole) as slide:
        assert find_slide_tissue(slide).mask_YX.mean() == pytest.approx(0.6, abs=0.03)
    with open_slide(drawn(tmp_path / "full.svs", "--glass", "0", "--side", "1024")) as slide:
        assert find_slide_tissue(slide).mask_YX.all()
    command = [sys.executable, str(SCRIPT), str(tmp_path / "empty.svs"), "--side", "1024", "--glass", "1"]
    subprocess.run(command, check=True, capture_output=True)
    with open_slide(tmp_path / "empty.svs") as slide:
        assert not find_slide_tissue(slide).mask_YX.any()


def test_a_seed_gives_the_same_bytes_and_another_seed_other_pixels(tmp_path: Path) -> None:
    def pixels(seed: str, name: str) -> bytes:
        return drawn(tmp_path / name, "--side", "1024", "--glass", "0", "--seed", seed).read_bytes()

    assert pixels("3", "a.svs") == pixels("3", "b.svs")
    assert pixels("3", "a.svs") != pixels("4", "c.svs")


def test_equal_tiles_may_be_stored_once_and_read_the_same(tmp_path: Path, whole: Path) -> None:
    shared = drawn(tmp_path / "shared.svs", "--share")
    assert shared.stat().st_size < 0.9 * whole.stat().st_size
    with open_slide(whole) as plain, open_slide(shared) as sparing:
        for step in (1, 4, 16):
            everything = Box[L0](0, 0, SIDE, SIDE), (SIDE // step, SIDE // step)
            assert np.array_equal(plain.read(*everything), sparing.read(*everything))


def test_the_tissue_of_a_real_slide_is_repeated_where_tissue_is(whole: Path, tmp_path: Path) -> None:
    slide = drawn(tmp_path / "again.svs", "--glass", "0", "--tissue-of", str(whole))
    with open_slide(slide) as again, open_slide(whole) as first:
        rgb, below = (again.read(Box(0, y, 256, 256), (256, 256)).astype(int) for y in (0, 2048))
        there = first.read(Box(1024, 1024, 256, 256), (256, 256)).astype(int)
    assert np.abs(rgb - below).max() == 0
    assert np.abs(rgb - there).mean() < 4  # twice through JPEG
