"""A finished output folder made by the real pipeline from a drawn slide; no network is run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from wsiseg.bundle import BundleSpec, FoldFile
from wsiseg.inputs import SlideInput
from wsiseg.manifest import SlideManifest
from wsiseg.one_slide import Job
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.outlining import outlining
from wsiseg.pipeline import PREDICTORS, SLIDES, Predict
from wsiseg.recipes import SlideRecipe
from wsiseg.records import RunRecord
from wsiseg.run import Outcome
from wsiseg.workers import serially

WIDTH, HEIGHT = 1400, 1100
LABEL_RGB = (10, 250, 30)
SPEC = BundleSpec(
    name="planted", encoder="mit_b0", patch_px=375, input_px=256, margin=64, min_area_um2=0,
    folds=tuple(FoldFile(file=f"fold-{n}.safetensors", sha256=str(n) * 64) for n in (1, 2)),
    licence="none", trained_on="nothing",
)  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """Two folds: one answers with how little red there is, the other with how little green."""

    def __call__(self) -> Predict:
        return lambda rgb_BYX3: np.stack([1 - rgb_BYX3[..., c] / np.float32(255) for c in (0, 1)])


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    yield
    SLIDES.clear()
    PREDICTORS.clear()


def drawn() -> npt.NDArray[np.uint8]:
    """Three regions on pale, uneven ground: the folds agree on the first and differ most on the last."""
    rgb_YX3 = np.random.default_rng(7).integers(225, 250, (HEIGHT, WIDTH, 3), np.uint8)
    rgb_YX3[100:500, 100:400] = (40, 40, 160)
    rgb_YX3[150:400, 700:1200] = (20, 90, 160)
    rgb_YX3[700:1000, 800:1100] = (0, 120, 160)
    return rgb_YX3


def write_slide(path: Path, rgb_YX3: npt.NDArray[np.uint8]) -> Path:
    """An Aperio slide of 0.5 µm per pixel with a green label and macro."""
    height, width = rgb_YX3.shape[:2]
    label_YX3 = np.full((200, 300, 3), LABEL_RGB, np.uint8)
    about = f"Aperio Image Library v12.0.15\r\n{width}x{height} (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as tiff:
        common = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
        tiff.write(rgb_YX3, tile=(256, 256), description=about, **common)
        small_YX3 = np.ascontiguousarray(rgb_YX3[::4, ::4])
        for image_YX3, kind, words in ((small_YX3, 0, ""), (label_YX3, 1, "label"), (label_YX3, 9, "macro")):
            told = f"Aperio Image Library v12.0.15\n{words} 300x200"
            tiff.write(image_YX3, subfiletype=kind, rowsperstrip=16, description=told, **common)
    return path


def segmented(path: Path, out: Path, name: str, options: PolygonOptions | None = None) -> SlideManifest:
    how = outlining(options or PolygonOptions(), SPEC)
    everywhere = MapOptions(tissue="none")
    job = Job(SPEC, Planted(), "test", everywhere, how, overwrite=False, mapper=serially)
    manifest, _ = job.segment(
        SlideRecipe(path, None, "--slide-mpp", "auto", SPEC), out / name, lambda _: None
    )
    return manifest


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT with three regions on `slide`, none on `pale`, a failure, and one that was not finished."""
    folder = tmp_path_factory.mktemp("view")
    slides, out = folder / "slides", folder / "results"
    slides.mkdir()
    slide = write_slide(slides / "slide.svs", drawn())
    pale = write_slide(slides / "pale.svs", np.full((600, 600, 3), 240, np.uint8))
    record = RunRecord(out, ["wsiseg", "segment", str(slides), "-o", str(out)], {"recursive": False})
    for path, options in ((slide, PolygonOptions(review=0.2)), (pale, PolygonOptions(gzip=True))):
        manifest = segmented(path, out, path.stem, options)
        record.add(Outcome(SlideInput(path, path.stem), "done", out / path.stem, manifest))
    broken = SlideInput(slides / "broken.svs", "broken")
    record.add(
        Outcome(broken, "failed", out / "broken", reason="broken.svs is empty (0 bytes); copy it again")
    )
    record.finish("complete")
    (out / ".begun.partial").mkdir()
    (out / ".begun.partial" / "ledger.jsonl").write_text("{}\n")
    return out
