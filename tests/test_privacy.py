"""What a slide tells of a patient stays in the slide."""

import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openslide
import pytest
import tifffile
import zarr
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wsiseg.inputs import SlideInput
from wsiseg.one_slide import Job
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.outlining import outlining
from wsiseg.pipeline import PREDICTORS, SLIDES, Predict
from wsiseg.recipes import SlideRecipe
from wsiseg.records import RunRecord
from wsiseg.reoutline import reoutline
from wsiseg.report import write_report
from wsiseg.run import Outcome
from wsiseg.testing import DARKNESS
from wsiseg.workers import serially

PLANTED = ("DOE^JANE", "1961-02-30", "MRN-4711", "ACC-0815", "Dr. Planted", "S-99-LABEL", "2019:01:02")
SIDE, LABEL_RGB = 768, (10, 250, 30)
SPEC = DARKNESS.model_copy(update={"min_area_um2": 0})


@dataclass(frozen=True)
class Dark:
    """Says tumour where it is dark."""

    def __call__(self) -> Predict:
        return lambda rgb_BYX3: (rgb_BYX3[..., 0] < 128).astype(np.float32)[None]


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    yield
    SLIDES.clear()
    PREDICTORS.clear()


def slide_with_a_patient(path: Path) -> Path:
    """An Aperio slide whose description, tags, label and macro image name somebody."""
    name, born, mrn, accession, doctor, label, date = PLANTED
    size = f"{SIDE}x{SIDE}"
    description = (
        f"Aperio Image Library v12.0.15\r\n{size} [0,0 {size}] (256x256) JPEG/RGB Q=80|AppMag = 20|MPP = 0.5|"
        f"Patient = {name}|DOB = {born}|PatientID = {mrn}|Accession = {accession}|User = {doctor}|"
        f"Title = {label}"
    )
    slide_YX3 = np.full((SIDE, SIDE, 3), 245, np.uint8)
    slide_YX3[200:700, 300:800] = (90, 40, 120)
    label_YX3 = np.full((200, 300, 3), LABEL_RGB, np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            slide_YX3, tile=(256, 256), photometric="rgb", compression="jpeg", description=description,
            metadata=None, datetime=f"{date} 03:04:05", extratags=[(315, "s", 0, doctor, True)],
        )  # fmt: skip
        thumbnail_YX3 = np.ascontiguousarray(slide_YX3[::2, ::2])
        for image_YX3, kind, words in (
            (thumbnail_YX3, 0, ""),
            (label_YX3, 1, "label"),
            (label_YX3, 9, "macro"),
        ):
            tiff.write(
                image_YX3, subfiletype=kind, photometric="rgb", compression="jpeg", rowsperstrip=16,
                metadata=None, description=f"Aperio Image Library v12.0.15\n{words} 300x200",
            )  # fmt: skip
    return path


def named(text: bytes) -> set[str]:
    """Which of the planted words are in a text, in either case, as UTF-8 or UTF-16."""
    low = text.lower()
    return {
        word for word in PLANTED if word.lower().encode() in low or word.lower().encode("utf-16-le") in low
    }


def naming(files: Iterable[tuple[str, bytes]]) -> dict[str, set[str]]:
    """The files that name somebody, and what they say."""
    return {name: words for name, content in files if (words := named(content))}


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder as it lies there, and unpacked where it is packed."""
    for path in folder.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            yield str(path), raw
            if path.suffix == ".gz":
                yield str(path), zlib.decompress(raw, 31)


def pictures(folder: Path) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    for name in ("overview.png", "thumbnail.jpg"):
        with Image.open(folder / name) as picture:
            yield name, np.asarray(picture.convert("RGB"))


def test_no_patient_field_label_or_macro_of_a_slide_is_in_any_output(tmp_path: Path) -> None:
    path = slide_with_a_patient(tmp_path / "slide.svs")
    with openslide.OpenSlide(path) as opened:
        assert opened.properties["aperio.Patient"] == PLANTED[0], "what is not planted cannot be missed"
        assert {"label", "macro"} <= set(opened.associated_images)
    raw = path.read_bytes()
    assert [word for word in PLANTED if word.encode() not in raw] == []

    options = PolygonOptions(heatmap=True, gzip=True, review=0.1)
    job = Job(SPEC, Dark(), "test", MapOptions(), outlining(options, SPEC), overwrite=False, mapper=serially)
    out = tmp_path / "private folder" / "out"
    recipe = SlideRecipe(path, None, "--slide-mpp", "auto", SPEC)
    manifest, _ = job.segment(recipe, out / "slide", lambda _: None)
    assert manifest.counts.polygons == 1
    RunRecord(out, [], {}).add(Outcome(SlideInput(path, "slide"), "done", out / "slide", manifest))
    write_report(out)
    packed = dict(texts(out))
    reoutline(out / "slide", {"gzip": False, "threshold": 0.4})
    written = list(texts(out)) + list(packed.items())
    assert len(written) > 12
    assert naming(written) == {}
    assert [name for name, text in written if str(tmp_path).encode() in text] == [], "no path of this machine"
    for name, rgb_YX3 in pictures(out / "slide"):
        near = np.abs(rgb_YX3.astype(int) - LABEL_RGB).max(axis=-1) < 40
        assert not near.any(), f"{name} shows the label"
    about = zarr.open_group(out / "slide" / "probability.zarr", mode="r").attrs.asdict()
    assert set(about) == {"ome", "wsiseg"}


def drawn() -> npt.NDArray[np.uint8]:
    rgb_YX3 = np.full((512, 512, 3), 245, np.uint8)
    rgb_YX3[100:400, 150:450] = (150, 60, 140)
    return rgb_YX3


def ome_tiff(path: Path) -> None:
    name, born, mrn, accession, doctor, label, date = PLANTED
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    day = date.replace(":", "-")
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}" Creator="{date}">'
        f'<Experimenter ID="Experimenter:0" LastName="{doctor}" UserName="{mrn}"/>'
        f'<Image ID="Image:0" Name="{name}"><AcquisitionDate>{day}T03:04:05</AcquisitionDate>'
        f"<Description>{name} {born} {accession}</Description>"
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="512" SizeY="512" SizeC="3" '
        'SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5" Interleaved="true">'
        f'<Channel ID="Channel:0:0" Name="{label}" SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'
    )
    tifffile.imwrite(path, drawn(), tile=(256, 256), photometric="rgb", description=xml, metadata=None)


def plain_tiff(path: Path) -> None:
    name, born, mrn, accession, doctor, label, date = PLANTED
    tags = [
        (315, "s", 0, doctor, True),
        (316, "s", 0, f"{mrn} {accession}", True),
        (269, "s", 0, label, True),
    ]
    about = {"description": f"{name} {born}", "datetime": f"{date} 03:04:05", "metadata": None}
    tifffile.imwrite(path, drawn(), photometric="rgb", extratags=tags, **about)


def exif() -> Image.Exif:
    name, born, mrn, accession, doctor, label, date = PLANTED
    found = Image.Exif()
    for tag, text in ((270, f"{name} {born}"), (315, doctor), (306, f"{date} 03:04:05"), (269, label)):
        found[tag] = text
    found[33432] = f"{mrn} {accession}"
    return found


def png(path: Path) -> None:
    words = PngInfo()
    words.add_text("Comment", " ".join(PLANTED))
    words.add_itxt("Patient", " ".join(PLANTED))
    Image.fromarray(drawn()).save(path, pnginfo=words, exif=exif())


def jpeg(path: Path) -> None:
    Image.fromarray(drawn()).save(path, quality=95, exif=exif(), comment=" ".join(PLANTED))


def ome_zarr(path: Path) -> None:
    """An OME-Zarr image whose names and attributes of its own tell of somebody."""
    name, *others = PLANTED
    axes = [
        {"name": "c", "type": "channel"},
        *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx"),
    ]
    scale: dict[str, Any] = {"type": "scale", "scale": [1, 0.5, 0.5]}
    image = {"name": name, "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    channels = [{"label": f"{other}", "color": color} for other, color in zip(others, RGB, strict=False)]
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [image],
        "omero": {"name": name, "channels": channels},
    }
    group = zarr.open_group(path, mode="w", zarr_format=3, attributes={"ome": ome, "patient": list(PLANTED)})
    array = group.create_array("0", shape=(3, 512, 512), chunks=(3, 256, 256), dtype="uint8")
    array.attrs["patient"] = list(PLANTED)
    array[:] = drawn().transpose(2, 0, 1)


RGB = ("FF0000", "00FF00", "0000FF")
DRAWN: dict[str, Callable[[Path], object]] = {
    "aperio.svs": slide_with_a_patient,
    "ome.tif": ome_tiff,
    "plain.tif": plain_tiff,
    "picture.png": png,
    "photo.jpg": jpeg,
    "cube.zarr": ome_zarr,
}


def raw(path: Path) -> bytes:
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return b"".join(one.read_bytes() for one in files)


@pytest.mark.slow
def test_nothing_that_a_run_writes_or_says_names_a_patient(tmp_path: Path, bundle: Path) -> None:
    """Every kind of slide, one that is cut short, and a run that tells all it can."""
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    for name, make in DRAWN.items():
        make(slides / name)
        assert len(named(raw(slides / name))) >= 6, f"{name}: what is not planted cannot be missed"
    whole = (slides / "aperio.svs").read_bytes()
    (slides / "cut.svs").write_bytes(whole[: len(whole) // 2])
    said = b""
    every = [f"slides/{name}" for name in (*DRAWN, "cut.svs")]
    told = ("--slide-mpp", "0.5", "--threshold", "0.01", "--review", "0.01", "--tissue", "none", "--heatmap")
    commands: tuple[list[str | Path], ...] = (
        ["segment", *every, "-o", "out", "--model", bundle, *told],
        ["polygons", "out/photo", "--gzip"],
    )
    for number, command in enumerate(commands):
        words = [sys.executable, "-m", "wsiseg", "-vv", *map(str, command)]
        cache = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = subprocess.run(words, cwd=tmp_path, env=cache, capture_output=True, check=False)
        said += done.stdout + done.stderr
        assert done.returncode == (1, 0)[number], said.decode()
    written = dict(texts(out))
    names = {Path(name).name for name in written}
    assert {"wsiseg.log", "report.html", "summary.csv", "heatmap.ome.tif", "cut.failed.json"} <= names
    assert {"slide.json", "review.csv", "zarr.json", "tumor.geojson.gz"} <= names
    assert [name for name in names if name.startswith("run-")] != []
    assert len([name for name in written if name.endswith("slide.json")]) == len(DRAWN)
    assert naming(written.items()) == {}
    assert named(said) == set()


def with_patient_elements(raw: bytes) -> bytes:
    """A DICOM file with the group of the patient put in where it belongs (PS3.5, explicit little endian)."""
    name, born, mrn, *others = PLANTED
    elements = (
        (0x10, b"PN", name), (0x20, b"LO", mrn), (0x30, b"DA", born.replace("-", "")),
        (0x4000, b"LT", " ".join((born, *others))),
    )  # fmt: skip
    group = b"".join(
        struct.pack("<HH2sH", 0x0010, element, kind, len(text) + len(text) % 2)
        + text.encode().ljust(len(text) + len(text) % 2)
        for element, kind, text in elements
    )
    at = 132
    while struct.unpack_from("<H", raw, at)[0] < 0x0010:
        long = raw[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        length = (
            struct.unpack_from("<I", raw, at + 8)[0] if long else struct.unpack_from("<H", raw, at + 6)[0]
        )
        assert length < len(raw), "a sequence of undefined length before the patient"
        at += (12 if long else 8) + length
    return raw[:at] + group + raw[at:]


def dicom(derived: Path, folder: Path) -> tuple[Path, str]:
    path = folder / "level.dcm"
    source = derived / "dicom-cmu-1-small-region-colourfixed" / "level-1-frames-0-9.dcm"
    path.write_bytes(with_patient_elements(source.read_bytes()))
    return path, "dicom.PatientName"


def mirax(derived: Path, folder: Path) -> tuple[Path, str]:
    shutil.copytree(derived / "mirax", folder / "mirax", copy_function=shutil.copyfile)
    shutil.copyfile(derived / "mirax.mrxs", folder / "mirax.mrxs")
    about = folder / "mirax" / "Slidedat.ini"
    lines = "".join(f"PLANTED_{n} = {word}\r\n" for n, word in enumerate(PLANTED[1:]))
    told = f"SLIDE_NAME = {PLANTED[0]}\r\n{lines}SLIDE_ID".encode()
    about.write_bytes(about.read_bytes().replace(b"SLIDE_ID", told, 1))
    return folder / "mirax.mrxs", "mirax.GENERAL.SLIDE_NAME"


def ndpi(derived: Path, folder: Path) -> tuple[Path, str]:
    path = folder / "hamamatsu.ndpi"
    path.write_bytes((derived / "hamamatsu.ndpi").read_bytes().replace(b"NanoZoomer", b"DOE^JANE  "))
    return path, "tiff.Model"


@pytest.mark.parametrize("plant", [dicom, mirax, ndpi])
def test_nothing_made_from_a_vendors_slide_names_a_patient(
    tmp_path: Path, shared: Path, plant: Callable[[Path, Path], tuple[Path, str]]
) -> None:
    (tmp_path / "slides").mkdir()
    path, key = plant(shared / "slides" / "derived", tmp_path / "slides")
    with openslide.OpenSlide(path) as opened:
        assert opened.properties[key].strip() == PLANTED[0]
    how = outlining(PolygonOptions(heatmap=True, review=0.1), SPEC)
    job = Job(SPEC, Dark(), "test", MapOptions(), how, overwrite=False, mapper=serially)
    out = tmp_path / "out"
    recipe = SlideRecipe(path, None, "--slide-mpp", "auto", SPEC)
    manifest, _ = job.segment(recipe, out / "slide", lambda _: None)
    record = RunRecord(out, [], {})
    record.add(Outcome(SlideInput(path, "slide"), "done", out / "slide", manifest))
    record.finish("complete")
    write_report(out)
    written = dict(texts(out))
    assert len(written) > 12
    assert naming(written.items()) == {}
