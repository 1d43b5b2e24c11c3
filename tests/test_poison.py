"""A slide that ends every process which decodes it costs itself, its place is named, the batch goes on."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsiseg.inputs import SlideInput
from wsiseg.options import ClusterOptions, MapOptions, PolygonOptions
from wsiseg.pipeline import PREDICTORS, SLIDES
from wsiseg.run import Batch
from wsiseg.testing import DARKNESS, Darkness

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")

DEADLY = '''
"""Reads pictures, and ends the process at one place: at once, or once the slide has been seen as a whole."""

import os
import signal

from wsiseg.readers.image_reader import ImageLevels


class Deadly(ImageLevels):
    @staticmethod
    def knows(path):
        return path.name.startswith("deadly")

    def __init__(self, path):
        super().__init__(path)
        seen = path.parent / "out" / f".{path.stem}.partial" / "thumbnail.jpg"
        self.armed = lambda: path.stem == "deadly-from-afar" or seen.exists()

    def read_level(self, level, box):
        x, y, w, h = box
        if x <= 400 < x + w and y <= 100 < y + h and self.armed():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_level(level, box)
'''


@pytest.fixture
def slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, SlideInput]]:
    """Two that end the process, and two that do not; the first two have a reader of their own."""
    package = tmp_path / "site"
    about = package / "deadly-1.0.dist-info"
    about.mkdir(parents=True)
    (package / "deadly_reader.py").write_text(DEADLY)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[wsiseg.readers]\ndeadly = deadly_reader:Deadly\n")
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]))
    rgb_YX3 = np.full((420, 600, 3), (190, 110, 170), np.uint8)
    found = {}
    for stem in ("deadly-from-afar", "deadly-near-by", "sound", "another"):
        path = tmp_path / f"{stem}.png"
        Image.fromarray(rgb_YX3).save(path)
        found[stem] = SlideInput(path, stem, 0.5)
    yield found
    SLIDES.clear()
    PREDICTORS.clear()


def ended(out: Path, *slides: SlideInput) -> dict[str, tuple[str, str]]:
    batch = Batch(
        out, MapOptions(block=1), PolygonOptions(), cluster=ClusterOptions(1), model=(DARKNESS, Darkness())
    )
    return {done.slide.name: (done.status, done.reason) for done in batch.run(slides, lambda *_: None)}


@pytest.mark.slow
def test_a_slide_that_ends_its_process_is_named_with_its_place_and_the_next_run_gets_past_it(
    tmp_path: Path, slides: dict[str, SlideInput]
) -> None:
    afar, near, sound, another = slides.values()
    found = ended(tmp_path / "out", afar, near, sound)
    assert found["sound"] == ("done", "")
    for name, place in (("deadly-from-afar", "the overview"), ("deadly-near-by", r"block \(\d, \d\)")):
        status, reason = found[name]
        assert status == "failed"
        assert re.match(f"{place} ends every process that works on it, even alone .signal SIGKILL", reason)
    again = ended(tmp_path / "out", afar, sound, another)
    assert {name: status for name, (status, _) in again.items()} == {
        "deadly-from-afar": "failed",
        "sound": "skipped",
        "another": "done",
    }


def test_many_slides_have_a_process_of_their_own_unless_somebody_says_otherwise() -> None:
    assert [ClusterOptions().for_slides(count).workers for count in (1, 2, 400)] == [0, 1, 1]
    assert [ClusterOptions(number).for_slides(400).workers for number in (0, 3)] == [0, 3]
