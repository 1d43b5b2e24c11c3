"""What a slide tells of a patient stays in the slide."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import pytest
import tifffile
import zarr

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.export import outlining
from wsiseg.inputs import SlideInput
from wsiseg.one_slide import Job, SlideRecipe
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.pipeline import PREDICTORS, SLIDES, Predict
from wsiseg.records import RunRecord
from wsiseg.reoutline import reoutline
from wsiseg.report import write_report
from wsiseg.run import Outcome
from wsiseg.workers import serially

PLANTED = ("DOE^JANE", "1961-02-30", "MRN-4711", "ACC-0815", "Dr. Planted", "S-99-LABEL", "2019:01:02")
SIDE, LABEL_RGB = 1024, (10, 250, 30)
SPEC = BundleSpec(
    name="dark", encoder="mit_b0", patch_px=375, input_px=256, margin=64, min_area_um2=0,
    folds=(FoldFile(file="fold-1.safetensors", sha256="0" * 64),), licence="none", trained_on="nothing",
)  # fmt: skip


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


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder as it lies there, and unpacked where it is packed."""
    for path in folder.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            yield str(path), raw
            if path.suffix == ".gz":
                yield str(path), zlib.decompress(raw, 31)


def pictures(folder: Path) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    from PIL import Image  # noqa: PLC0415 - used here only

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
    found = {
        (name, word) for name, text in written for word in PLANTED if word.lower().encode() in text.lower()
    }
    assert found == set()
    assert [name for name, text in written if str(tmp_path).encode() in text] == [], "no path of this machine"
    for name, rgb_YX3 in pictures(out / "slide"):
        near = np.abs(rgb_YX3.astype(int) - LABEL_RGB).max(axis=-1) < 40
        assert not near.any(), f"{name} shows the label"
    about = zarr.open_group(out / "slide" / "probability.zarr", mode="r").attrs.asdict()
    assert set(about) == {"ome", "wsiseg"}
