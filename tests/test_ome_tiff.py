"""OME-TIFF as QuPath and Bio-Formats write it: tiles, levels in sub-directories, resolution in XML, JPEG."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from wsiseg.errors import SlideOpenError, SlideReadError
from wsiseg.readers import open_slide
from wsiseg.readers.preflight import preflight
from wsiseg.readers.resolution import ome_mpp
from wsiseg.readers.tile_index import TileIndex
from wsiseg.testing.conformance import drawn

Rgb = npt.NDArray[np.uint8]
RGB_YX3 = drawn(600, 520)
TILES: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb"}
JPEG: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"level": 100}}
SIZE = {"PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}


def write(path: Path, *images: Rgb, levels: int = 1, axes: str = "YXS", **options: Any) -> Path:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for image in images:
            tiff.write(image, subifds=levels - 1, metadata={"axes": axes} | SIZE, **TILES, **options)
            for level in range(1, levels):
                small = np.ascontiguousarray(image[:: 2**level, :: 2**level])
                tiff.write(small, subfiletype=1, **TILES, **options)
    return path


def whole(path: Path) -> tuple[Rgb, str]:
    with open_slide(path) as slide:
        assert slide.info.mpp == 0.5
        assert slide.info.mpp_source == "OME PhysicalSizeX"
        extent = slide.info.extent
        return slide.read(extent, (extent.h, extent.w)), slide.info.reader


def test_a_tiled_pyramid_is_read_with_all_its_levels_and_its_resolution(tmp_path: Path) -> None:
    """OpenSlide takes it for a generic TIFF of one level and no resolution."""
    path = write(tmp_path / "x.ome.tif", RGB_YX3, levels=3)
    found_YX3, reader = whole(path)
    assert reader.startswith("tiffslide")
    assert np.array_equal(found_YX3, RGB_YX3)
    with open_slide(path) as slide:
        assert slide.info.downsamples == (1.0, 2.0, 4.0)


def test_planes_apart_in_tiles_are_read_by_openslide_with_the_same_resolution(tmp_path: Path) -> None:
    planes = np.ascontiguousarray(RGB_YX3.transpose(2, 0, 1))
    path = write(tmp_path / "x.ome.tif", planes, axes="SYX", planarconfig="separate")
    found_YX3, reader = whole(path)
    assert reader.startswith("openslide")
    assert np.array_equal(found_YX3, RGB_YX3)


def test_planes_apart_in_strips_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    planes = np.ascontiguousarray(RGB_YX3.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(SlideOpenError, match=r"x\.tif keeps .* in planes apart.* re-save it interleaved"):
        open_slide(path, mpp=0.5)


def test_a_label_before_the_slide_is_not_taken_for_it(tmp_path: Path) -> None:
    label_YX3 = 255 - RGB_YX3[:130, :200]
    with pytest.raises(SlideOpenError, match=r"holds 2 images, .*200, 3.*600, 3.*; export it alone"):
        open_slide(write(tmp_path / "first.ome.tif", label_YX3, RGB_YX3))
    found_YX3, _ = whole(write(tmp_path / "last.ome.tif", RGB_YX3, label_YX3))
    assert np.array_equal(found_YX3, RGB_YX3)


@pytest.mark.parametrize(
    ("number", "unit"),
    [("0.5", ""), ("500", "nm"), ("5000", "Å"), ("1.968503937e-5", "in"), ("0.5", "&#xB5;m")],
)
def test_a_resolution_counts_in_the_unit_it_is_said_in(number: str, unit: str) -> None:
    named = "".join(f' PhysicalSize{axis}Unit="{unit}"' for axis in "XY") if unit else ""
    sizes = f'PhysicalSizeX="{number}" PhysicalSizeY="{number}"'
    found = ome_mpp(f"<OME><Image><Pixels {sizes}{named}/></Image></OME>")
    assert found == pytest.approx((0.5, 0.5))


def torn(path: Path, how: str) -> Path:
    """The same file with one tile of level 0 damaged."""
    with tifffile.TiffFile(path) as tiff:
        at, count = tiff.pages.first.dataoffsets[7], tiff.pages.first.databytecounts[7]
    content, middle = bytearray(path.read_bytes()), at + count // 2
    match how:
        case "its second half zeroed":
            content[middle : at + count] = bytes(at + count - middle)
        case "its end overwritten":
            content[at + count - 100 : at + count] = b"\xff" * 100
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("how", ["its second half zeroed", "its end overwritten"])
@pytest.mark.parametrize("agree", [True, False])
def test_a_damaged_jpeg_tile_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, agree: bool
) -> None:
    """tiffslide makes a picture of it, whether or not its colours are the strict decoder's."""
    path = write(tmp_path / "x.ome.tif", RGB_YX3, **JPEG)
    if not agree:
        monkeypatch.setattr("wsiseg.readers.tiffslide_reader.agrees", lambda *_: False)
    found_YX3, reader = whole(path)
    assert reader.startswith("tiffslide")
    assert "+simplejpeg" in reader
    assert np.abs(found_YX3.astype(int) - RGB_YX3).mean() < 5
    with pytest.raises(SlideReadError, match="cannot be decoded"):
        whole(torn(path, how))


def test_where_the_strict_decoder_gives_other_colours_tiffslides_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = write(tmp_path / "x.ome.tif", RGB_YX3, **JPEG), TileIndex.read
    expected_YX3, _ = whole(path)
    monkeypatch.setattr(TileIndex, "read", lambda *given: read(*given)[..., ::-1])
    assert np.array_equal(whole(path)[0], expected_YX3)


def test_strips_of_jpeg_are_read_and_their_damage_told(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    strips: dict[str, Any] = {"rowsperstrip": 48, "photometric": "rgb", "metadata": None}
    tifffile.imwrite(
        path, RGB_YX3, resolution=(20_000, 20_000), resolutionunit="CENTIMETER", **JPEG, **strips
    )
    with open_slide(path) as slide:
        found_YX3 = slide.read(slide.info.extent, RGB_YX3.shape[:2])
        assert "+simplejpeg" in slide.info.reader
    assert np.abs(found_YX3.astype(int) - RGB_YX3).mean() < 5
    with (
        pytest.raises(SlideReadError, match="cannot be decoded"),
        open_slide(torn(path, "its second half zeroed")) as slide,
    ):
        slide.read(slide.info.extent, RGB_YX3.shape[:2])


def test_an_alpha_that_is_in_the_colours_already_counts_once(tmp_path: Path) -> None:
    """TIFF calls it associated; tiles are OpenSlide's, strips tiffslide's."""
    alpha_YX1 = np.full((*RGB_YX3.shape[:2], 1), 255, np.uint8)
    alpha_YX1[:200], alpha_YX1[200:400] = 0, 128
    weighed = (RGB_YX3.astype(np.uint16) * alpha_YX1 // 255).astype(np.uint8)
    rgba_YX4 = np.concatenate([weighed, alpha_YX1], axis=2)
    expected = weighed.astype(int) + 255 - alpha_YX1
    found = {}
    for name, layout in {"openslide": {"tile": (128, 128)}, "tiffslide": {"rowsperstrip": 64}}.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, rgba_YX4, photometric="rgb", extrasamples=["assocalpha"], **layout)  # type: ignore[arg-type]
        with open_slide(path, mpp=0.5) as slide:
            assert slide.info.reader.startswith(name)
            found[name] = slide.read(slide.info.extent, RGB_YX3.shape[:2])
        assert np.abs(found[name] - expected).max() <= 1, name


def test_a_file_without_a_directory_is_called_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ome.tif", RGB_YX3)
    path.write_bytes(b"II*\0" + (10**6).to_bytes(4, "little") + path.read_bytes()[8:4000])
    with pytest.raises(SlideOpenError, match=r"x\.ome\.tif is cut short"):
        preflight(path)
