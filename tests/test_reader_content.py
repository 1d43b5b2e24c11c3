"""Only brightfield in 8-bit colour or grey is read; anything else gets the reason and no pixels."""

import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from PIL import Image

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.errors import ResolutionError, SlideError, SlideOpenError, UsageError
from wsiseg.geometry import L0, Box
from wsiseg.inputs import find_slides
from wsiseg.plan import make_plan
from wsiseg.readers import image_reader, open_slide
from wsiseg.readers.content import check_properties
from wsiseg.readers.registry import choose_reader
from wsiseg.testing.conformance import drawn

Rgb = npt.NDArray[np.uint8]
RGB_YX3 = drawn(300, 280)
GREY_YX = RGB_YX3[..., 0]
STACK = np.stack([RGB_YX3] * 3)


def refused(path: Path, why: str, **options: Any) -> None:
    with pytest.raises(SlideOpenError, match=why) as caught:
        open_slide(path, mpp=0.5, **options)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("tile", [None, (256, 256)], ids=["strips", "tiles"])
@pytest.mark.parametrize(
    ("pixels", "options", "why"),
    [
        (GREY_YX.astype(np.uint16), {"photometric": "minisblack"}, "holds uint16 pixels"),
        (RGB_YX3.astype(np.uint16) * 257, {"photometric": "rgb"}, "holds uint16 pixels"),
        (GREY_YX.astype(np.float32), {"photometric": "minisblack"}, "holds float32 pixels|32-bit"),
        (RGB_YX3.transpose(2, 0, 1), {"photometric": "minisblack", "ome": "CYX"}, "holds 3 channels"),
        (STACK, {"photometric": "rgb", "ome": "ZYXS"}, "holds 3 focal planes"),
        (STACK, {"photometric": "rgb", "ome": "TYXS"}, "holds 3 time points"),
        (STACK[..., 0], {"photometric": "minisblack"}, "holds 3 pictures"),
        (GREY_YX, {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}, "as PALETTE"),
    ],
)
def test_a_tiff_of_another_kind_is_refused_whichever_library_would_read_it(
    tmp_path: Path, pixels: npt.NDArray[Any], options: dict[str, Any], why: str, tile: tuple[int, int] | None
) -> None:
    """OpenSlide would read each of the tiled ones: the upper halves, or the first plane."""
    given = dict(options)
    axes = given.pop("ome", None)
    path = tmp_path / ("x.ome.tif" if axes else "x.tif")
    metadata = {"axes": axes} if axes else None
    tifffile.imwrite(path, pixels, tile=tile, metadata=metadata, **given)
    refused(path, why)
    refused(path, why, reader="tiffslide")
    refused(path, why, reader="image")


@pytest.mark.parametrize(
    "said", ['Fluor="DAPI"', 'EmissionWavelength="455.0"', 'ContrastMethod="Fluorescence"']
)
def test_an_ome_tiff_that_says_fluorescence_is_refused(tmp_path: Path, said: str) -> None:
    path = tmp_path / "dapi.ome.tif"
    tifffile.imwrite(path, GREY_YX, photometric="minisblack", metadata={"axes": "YX"})
    xml = tifffile.tiffcomment(path)
    open_slide(path, mpp=0.5).close()
    tifffile.tiffcomment(path, xml.replace("<Channel ", f"<Channel {said} ").encode())
    assert said in tifffile.tiffcomment(path)
    refused(path, "is a fluorescence scan")


def test_an_ome_tiff_whose_pixels_lie_in_another_file_is_refused(tmp_path: Path) -> None:
    """tifffile and tiffslide follow the name without a word."""
    path, other = tmp_path / "case.ome.tif", tmp_path / "other.ome.tif"
    for file, grey_YX in ((path, GREY_YX), (other, GREY_YX // 2)):
        tifffile.imwrite(file, grey_YX, photometric="minisblack", metadata={"axes": "YX"})
    xml = tifffile.tiffcomment(other)
    uuid = re.findall(r'UUID="([^"]+)"', xml)[0]
    said = f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{other.name}">{uuid}</UUID></TiffData>'
    xml = re.sub(r"<TiffData.*?/>", said, xml).replace(f'UUID="{uuid}"', 'UUID="urn:uuid:1"')
    tifffile.imwrite(path, GREY_YX, photometric="minisblack", metadata=None, description=xml)
    assert not np.array_equal(tifffile.imread(path), GREY_YX)
    refused(path, r"case\.ome\.tif keeps its pixels in other files")


@pytest.mark.parametrize("tile", [None, (256, 256)], ids=["strips", "tiles"])
def test_grey_of_8_bits_becomes_colour(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    tifffile.imwrite(tmp_path / "grey.tif", GREY_YX, photometric="minisblack", tile=tile, metadata=None)
    with open_slide(tmp_path / "grey.tif", mpp=0.5) as slide:
        found = slide.read(slide.info.extent, GREY_YX.shape)
    assert np.array_equal(found, np.repeat(GREY_YX[..., None], 3, axis=2))


def test_a_real_fluorescence_ndpi_is_refused_by_either_library(shared: Path) -> None:
    path = shared / "slides/real/test3-DAPI-2-(387).ndpi"
    for reader in ("auto", "tiffslide"):
        with pytest.raises(SlideOpenError, match="is a fluorescence scan"):
            open_slide(path, reader=reader)


def test_an_ndpi_of_several_focal_planes_is_refused(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "z.ndpi"
    path.write_bytes((shared / "slides/derived/hamamatsu.ndpi").read_bytes())
    open_slide(path).close()
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[1].tags[65424].overwrite(1500)
    refused(path, "holds 2 focal planes")


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({"mirax.GENERAL.SLIDE_TYPE": "SLIDE_TYPE_FLUORESCENCE"}, "fluorescence"),
        ({"leica.illumination-source": "fluorescence"}, "fluorescence"),
        ({"hamamatsu.;NDP Shading Data\r;Version": "0004\r;EmissionWaveLength=455\r;"}, "fluorescence"),
        (
            {
                "mirax.HIERARCHICAL.HIER_2_NAME": "Microscope focus level",
                "mirax.HIERARCHICAL.HIER_2_COUNT": "9",
            },
            "9 focal planes",
        ),
    ],
)
def test_what_openslides_properties_say_is_believed(properties: dict[str, str], why: str) -> None:
    with pytest.raises(SlideOpenError, match=why):
        check_properties("x.mrxs", properties)


def test_brightfield_properties_pass() -> None:
    check_properties(
        "x.mrxs",
        {
            "mirax.GENERAL.SLIDE_TYPE": "SLIDE_TYPE_BRIGHTFIELD",
            "mirax.HIERARCHICAL.HIER_2_NAME": "Microscope focus level",
            "mirax.HIERARCHICAL.HIER_2_COUNT": "1",
            "leica.illumination-source": "brightfield",
            "hamamatsu.AHEX[0].fluorescence": "000F",
        },
    )


def test_an_icc_profile_is_left_alone_and_said_so(shared: Path, tmp_path: Path) -> None:
    with open_slide(shared / "slides/real/TCGA-CR-7395-01A-01-TS1.svs", mpp=0.5) as slide:
        assert slide.info.colour == "as stored; the ICC profile in the file (3144 bytes) is not applied"
    Image.fromarray(RGB_YX3).save(tmp_path / "x.png", icc_profile=b"profile")
    with open_slide(tmp_path / "x.png", mpp=0.5) as slide:
        assert "(7 bytes) is not applied" in slide.info.colour
        assert np.array_equal(slide.read(slide.info.extent, RGB_YX3.shape[:2]), RGB_YX3)


def png16(path: Path) -> None:
    Image.fromarray(GREY_YX.astype(np.uint16) * 257).save(path)


def two_frames(path: Path) -> None:
    frames = [Image.fromarray(RGB_YX3), Image.fromarray(255 - RGB_YX3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("name", "make", "why"),
    [
        ("deep.png", png16, "holds 16-bit pixels"),
        ("two.png", two_frames, "holds several pictures"),
        ("cmyk.jpg", lambda path: Image.fromarray(RGB_YX3).convert("CMYK").save(path), "as CMYK"),
        ("bits.png", lambda path: Image.fromarray(GREY_YX).convert("1").save(path), "as 1"),
    ],
)
def test_a_picture_of_another_kind_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], None], why: str
) -> None:
    make(tmp_path / name)
    refused(tmp_path / name, why)


def test_a_picture_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(RGB_YX3).save(tmp_path / "x.png")
    monkeypatch.setattr(image_reader, "MOST_PX", RGB_YX3.shape[0] * RGB_YX3.shape[1] - 1)
    monkeypatch.setattr(image_reader, "_decoded", lambda _: pytest.fail("it was decoded"))
    refused(tmp_path / "x.png", "tiled pyramid")


def test_a_pictures_resolution_tag_counts_only_when_plausible(tmp_path: Path) -> None:
    for dpi, mpp in ((50_800, 0.5), (72, None), (None, None)):
        Image.fromarray(RGB_YX3).save(tmp_path / "x.png", dpi=None if dpi is None else (dpi, dpi))
        if mpp is None:
            with pytest.raises(ResolutionError, match="--slide-mpp"):
                open_slide(tmp_path / "x.png")
        else:
            with open_slide(tmp_path / "x.png") as slide:
                assert slide.info.mpp == pytest.approx(mpp, rel=1e-4)
                assert slide.info.mpp_source == "resolution tags"


@pytest.mark.parametrize("pixels", [RGB_YX3, GREY_YX], ids=["colour", "grey"])
def test_a_damaged_jpeg_is_refused_and_a_whole_one_is_what_pillow_decodes(
    tmp_path: Path, pixels: Rgb
) -> None:
    """Pillow makes a picture of both."""
    path = tmp_path / "x.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    with open_slide(path, mpp=0.5) as slide:
        found_YX3 = slide.read(slide.info.extent, RGB_YX3.shape[:2])
    assert np.array_equal(found_YX3, np.asarray(Image.open(path).convert("RGB")))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    assert Image.open(path).convert("RGB").size == RGB_YX3.shape[1::-1]
    refused(path, "is damaged")


def test_an_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB_YX3).save(tmp_path / "x.png", exif=exif)
    with open_slide(tmp_path / "x.png", mpp=0.5) as slide:
        assert np.array_equal(slide.read(slide.info.extent, RGB_YX3.shape[:2]), RGB_YX3)


def ome_zarr(path: Path, data: npt.NDArray[Any], axes: str, **changes: Any) -> Path:
    """An OME-Zarr 0.5 of one level."""
    group = zarr.open_group(path, mode="w")
    group.create_array("0", data=data, chunks=tuple(min(64, side) for side in data.shape))
    unit = changes.pop("unit", "micrometer")
    scale = [changes.pop("scale", 0.5) if axis in "yx" else 1.0 for axis in axes]
    scale = [scale[axes.index("y")] if axis in "yx" else 1.0 for axis in axes]
    about = [{"name": axis} | ({"unit": unit} if axis in "yx" and unit else {}) for axis in axes]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    image = {"axes": about, "datasets": datasets}
    group.attrs["ome"] = json.loads(json.dumps({"version": "0.5", "multiscales": [image]} | changes))
    return path


CZYX = RGB_YX3.transpose(2, 0, 1)[:, None]
NOT_THERE = {"axes": ["y", "x"], "datasets": [{"path": "9"}]}
FLUOR = [
    {"label": name, "color": colour}
    for name, colour in (("DAPI", "0000FF"), ("FITC", "00FF00"), ("Cy5", "FF0000"))
]


@pytest.mark.parametrize(
    ("data", "axes", "changes", "why"),
    [
        (np.repeat(CZYX, 4, axis=1), "czyx", {}, "holds 4 focal planes"),
        (np.stack([CZYX] * 2), "tczyx", {}, "holds 2 time points"),
        (np.concatenate([CZYX, CZYX]), "czyx", {}, "holds 6 channels"),
        (CZYX.astype(np.uint16), "czyx", {}, "holds uint16 pixels"),
        (CZYX, "czyx", {"omero": {"channels": FLUOR}}, "the channels DAPI, FITC, Cy5"),
        (GREY_YX, "yx", {"image-label": {}}, "is a label image"),
        (GREY_YX, "yx", {"multiscales": []}, "names no image, or one without axes"),
        (GREY_YX, "yx", {"multiscales": [NOT_THERE]}, "has lost its level '9'"),
        (CZYX, "cyx", {}, "has 4 dimensions"),
    ],
)
def test_a_zarr_of_another_kind_is_refused(
    tmp_path: Path, data: npt.NDArray[Any], axes: str, changes: dict[str, Any], why: str
) -> None:
    refused(ome_zarr(tmp_path / "x.zarr", data, axes, **changes), why)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({}, "without an OME-Zarr image"),
        ({"bioformats2raw.layout": 3}, "x.zarr/0"),
        ({"plate": {}}, "is a plate"),
    ],
)
def test_a_zarr_without_an_image_is_refused(tmp_path: Path, attributes: dict[str, Any], why: str) -> None:
    zarr.open_group(tmp_path / "x.zarr", mode="w").attrs.update(attributes)
    refused(tmp_path / "x.zarr", why)


@pytest.mark.parametrize(
    ("unit", "scale"), [("micrometer", 0.5), ("nanometer", 500.0), ("millimeter", 0.0005), ("µm", 0.5)]
)
def test_a_zarrs_scale_counts_in_its_own_unit(tmp_path: Path, unit: str, scale: float) -> None:
    with open_slide(ome_zarr(tmp_path / "x.zarr", CZYX, "czyx", unit=unit, scale=scale)) as slide:
        assert slide.info.mpp == pytest.approx(0.5)
        assert slide.info.mpp_source == "multiscales scale"


def test_a_zarr_in_huge_chunks_is_refused_before_one_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ome_zarr(tmp_path / "x.zarr", GREY_YX, "yx")
    open_slide(path).close()
    monkeypatch.setattr("wsiseg.readers.zarr_reader.CHUNK_BYTES", 64 * 64 - 1)
    refused(path, r"in chunks of \(64, 64\), too large to decode")


def test_a_zarrs_scale_without_a_unit_is_no_resolution(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "x.zarr", CZYX, "czyx", unit=None)
    with pytest.raises(ResolutionError, match="no microns per pixel"):
        open_slide(path)


def test_a_chunk_that_a_zarr_does_not_hold_is_white_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = ome_zarr(tmp_path / "x.zarr", RGB_YX3, "yxc")
    (path / "0" / "c" / "1" / "2" / "0").unlink()
    with open_slide(path) as slide:
        found = slide.read(slide.info.extent, RGB_YX3.shape[:2])
    expected = RGB_YX3.copy()
    expected[64:128, 128:192] = 255
    assert np.array_equal(found, expected)
    assert "1 of 25 chunks of level '0' are not there" in caplog.text


def test_a_zarr_is_one_slide_and_a_result_of_ours_none(tmp_path: Path) -> None:
    for name in ("slides/a.zarr", "slides/deep/b.zarr", "slides/deep/probability.zarr"):
        ome_zarr(tmp_path / name, CZYX, "czyx")
    found = find_slides([tmp_path / "slides"], recursive=True)
    assert [slide.name for slide in found] == ["a", "b"]
    assert [slide.path.name for slide in find_slides([tmp_path / "slides" / "a.zarr"])] == ["a.zarr"]


def test_the_fingerprint_of_a_zarr_is_of_every_chunk(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "x.zarr", CZYX, "czyx")
    with open_slide(path) as slide:
        first = slide.info.fingerprint
    chunk = path / "0" / "c" / "0" / "0" / "1" / "1"
    chunk.write_bytes(chunk.read_bytes() + b"\0")
    with open_slide(path) as slide:
        assert slide.info.fingerprint != first


@pytest.mark.parametrize(
    ("name", "library", "how"),
    [("x.kfb", "kfbslide", r"pip install 'wsiseg\[kfb\]'"), ("x.sdpc", "opensdpc", "pip install opensdpc")],
)
def test_a_slide_whose_library_is_missing_gets_its_name_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, how: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_bytes(b"KFB slide")
    with pytest.raises(SlideOpenError, match=how):
        open_slide(tmp_path / name)


def test_a_library_that_cannot_be_loaded_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise OSError(name + ".so: no such file")

    monkeypatch.setattr("wsiseg.readers.sdpc_reader.import_module", broken)
    (tmp_path / "x.sdpc").write_bytes(b"slide")
    refused(tmp_path / "x.sdpc", r"cannot be loaded here .*so: no such file")


def test_a_packages_reader_that_fails_is_passed_over_and_told_when_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    about = tmp_path / "site" / "broken-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    entries = "[wsiseg.readers]\nbroken = no_such_module:Levels\nopenslide = no_such_module:Levels\n"
    (about / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    Image.fromarray(RGB_YX3).save(tmp_path / "x.png")
    with open_slide(tmp_path / "x.png", mpp=0.5) as slide:
        assert slide.info.reader.startswith("pillow ")
    assert "'broken' is passed over" in caplog.text
    assert "'openslide' is taken" in caplog.text
    with pytest.raises(SlideOpenError, match=r"'broken' .*cannot be loaded"):
        open_slide(tmp_path / "x.png", mpp=0.5, reader="broken")
    with pytest.raises(UsageError, match="image, broken"):
        open_slide(tmp_path / "x.png", mpp=0.5, reader="other")


def test_the_reader_and_its_version_are_part_of_the_jobs_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = BundleSpec(
        name="x", encoder="mit_b0", folds=(FoldFile(file="fold-1.safetensors", sha256="0" * 64),),
        licence="none", trained_on="nothing",
    )  # fmt: skip
    tifffile.imwrite(tmp_path / "x.tif", RGB_YX3, photometric="rgb", metadata=None)

    def key(reader: str) -> str:
        with open_slide(tmp_path / "x.tif", mpp=0.5, reader=reader) as slide:
            return make_plan(slide.info, spec).key

    keys = [key("tiffslide"), key("image")]
    monkeypatch.setattr(import_module("PIL"), "__version__", "0.0")
    assert len({*keys, key("image")}) == 3


def test_a_reader_is_asked_only_for_what_it_knows(tmp_path: Path) -> None:
    Image.fromarray(RGB_YX3).save(tmp_path / "x.png")
    for reader in ("openslide", "tiffslide", "zarr", "kfb", "sdpc"):
        with pytest.raises(SlideError, match=f"no format that {reader} knows"):
            choose_reader(tmp_path / "x.png", reader)


def test_outside_a_picture_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "x.png")
    box: Box[L0] = Box(-10, -10, 100, 100)
    with open_slide(tmp_path / "x.png", mpp=0.5) as slide:
        found = slide.read(box, (100, 100))
    assert (found[10:50, 10:60] == 0).all()
    assert (found.sum() / 255 / 3) == 100 * 100 - 40 * 50
