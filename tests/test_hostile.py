"""Files that are broken or meant to break: each is a sentence, and the good ones between them are done."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsiseg.errors import SlideError
from wsiseg.inputs import find_slides
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.pipeline import PREDICTORS, SLIDES
from wsiseg.readers.preflight import preflight
from wsiseg.run import Batch
from wsiseg.testing import DARKNESS, Darkness

SCRIPTS = Path(__file__).parents[1] / "scripts"
CMU = "slides/real/CMU-1-Small-Region.svs"


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    yield
    SLIDES.clear()
    PREDICTORS.clear()


@pytest.mark.parametrize("reader", ["auto", "openslide", "tiffslide", "image"])
@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.95, 0.99, 0.999])
def test_a_truncated_slide_is_refused_at_every_cut_by_every_reader(
    shared: Path, tmp_path: Path, cut: float, reader: str
) -> None:
    content = (shared / CMU).read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(SlideError, match=r"cut\.svs"):
        preflight(path, reader=reader)


def test_a_batch_of_hostile_files_finishes_the_good_ones_between_them(shared: Path, tmp_path: Path) -> None:
    hostile = sorted(path for path in (shared / "slides" / "hostile").iterdir() if path.is_file())
    assert len(hostile) >= 10
    good = tmp_path / "good.svs"
    drawing = ["--side", "512", "--disc", "250,250,120"]
    subprocess.run(
        [sys.executable, SCRIPTS / "make_slide.py", good, *drawing], check=True, capture_output=True
    )
    between = [Path(shutil.copy(good, tmp_path / f"good-{number}.svs")) for number in range(3)]
    named = [between[0], *hostile[:5], between[1], *hostile[5:], between[2]]
    batch = Batch(tmp_path / "out", MapOptions(slide_mpp=0.5), PolygonOptions(), model=(DARKNESS, Darkness()))
    outcomes = {outcome.slide.path: outcome for outcome in batch.run(find_slides(named), lambda *_: None)}
    assert {path for path, outcome in outcomes.items() if outcome.status == "done"} == set(between)
    for path in hostile:
        outcome = outcomes[path]
        assert outcome.status == "failed"
        assert path.name in outcome.reason
        assert "defect" not in outcome.reason
        assert "Traceback" not in outcome.reason


def test_inspecting_a_hostile_file_is_one_sentence_and_exit_code_1(shared: Path) -> None:
    names = ["hostile-truncated-0.95.svs", "openslide-unreadable.svs", "large_image-zero_gi.tif"]
    paths = [str(shared / "slides" / "hostile" / name) for name in names]
    call = [sys.executable, "-m", "wsiseg", "inspect", "--json", *paths]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == len(names)
    assert all(name in line for name, line in zip(names, done.stderr.splitlines(), strict=True))


def test_damaged_headers_are_pixels_or_a_sentence(tmp_path: Path) -> None:
    call = [
        sys.executable,
        str(SCRIPTS / "fuzz.py"),
        "--count",
        "60",
        "--seed",
        "11",
        "--keep",
        str(tmp_path / "kept"),
    ]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("60 cases in") == 2
    assert "defect" not in done.stdout
