"""The last steps of a slide, broken one by one: a result is there as a whole or not at all."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsiseg.errors import OutputError
from wsiseg.manifest import SlideManifest
from wsiseg.one_slide import Job
from wsiseg.options import MapOptions, PolygonOptions
from wsiseg.outlining import outlining
from wsiseg.pipeline import PREDICTORS, SLIDES
from wsiseg.recipes import SlideRecipe
from wsiseg.reoutline import reoutline
from wsiseg.testing import DARKNESS, Darkness
from wsiseg.workers import serially

SPEC = DARKNESS.model_copy(update={"min_area_um2": 0})
JOB = Job(
    SPEC,
    Darkness(),
    "integers",
    MapOptions(),
    outlining(PolygonOptions(), SPEC),
    overwrite=False,
    mapper=serially,
)


class DiedError(BaseException):
    """Stands for the end of the process: nothing catches it."""


FULL = OSError(28, "No space left on device")
STEPS = [(Path, "replace"), (Path, "rename"), (shutil, "rmtree"), (os, "fsync"), (Path, "unlink")]


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    yield
    SLIDES.clear()
    PREDICTORS.clear()


@pytest.fixture
def recipe(tmp_path: Path) -> SlideRecipe:
    rgb_YX3 = np.full((200, 300, 3), 240, np.uint8)
    rgb_YX3[50:150, 60:200] = 150, 60, 120
    Image.fromarray(rgb_YX3).save(tmp_path / "slide.png")
    return SlideRecipe(tmp_path / "slide.png", 0.5, "--slide-mpp", "auto", SPEC)


def segmented(recipe: SlideRecipe, folder: Path, **changes: object) -> None:
    replace(JOB, **changes).segment(recipe, folder, lambda _: None)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the record, whose times differ, and the ledger, whose lines come in any order."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "slide.json"}


def broken(
    monkeypatch: pytest.MonkeyPatch,
    step: tuple[Any, str],
    nth: int,
    error: BaseException,
    work: Callable[[], object],
) -> bool:
    """Do some work whose nth call of one kind fails; whether there was one."""
    owner, name = step
    real, calls = getattr(owner, name), [0]

    def call(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            raise error
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        try:
            work()
        except (OutputError, DiedError):
            assert calls[0] >= nth, "of nothing that was broken here"
    return calls[0] >= nth


@pytest.mark.parametrize("error", [FULL, DiedError()], ids=["disk full", "killed"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
def test_a_result_appears_whole_whatever_step_fails_and_the_next_run_completes_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: SlideRecipe,
    step: tuple[Any, str],
    error: BaseException,
) -> None:
    other = replace(JOB.outlining, threshold=0.3)
    segmented(recipe, tmp_path / "old")
    segmented(recipe, tmp_path / "new", outlining=other)
    old, new = content(tmp_path / "old"), content(tmp_path / "new")
    assert old != new
    out, met = tmp_path / "out", 0

    def again() -> None:
        segmented(recipe, out / "slide", outlining=other, overwrite=True)

    for nth in count(1):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "old", out / "slide")
        if not broken(monkeypatch, step, nth, error, again):
            break
        met += 1
        if (out / "slide").exists():
            assert content(out / "slide") in (old, new), f"{step[1]} failing the {nth}. time"
        again()
        assert content(out / "slide") == new
        assert [path.name for path in out.iterdir()] == ["slide"]
    assert met > 0


def test_what_a_killed_run_left_half_written_is_not_published(tmp_path: Path, recipe: SlideRecipe) -> None:
    segmented(recipe, tmp_path / "slide")
    expected = content(tmp_path / "slide")
    (tmp_path / "slide").rename(tmp_path / ".slide.partial")
    for name in ("tumor.geojson.gz.partial", ".slide.json.partial"):
        (tmp_path / ".slide.partial" / name).write_bytes(b"half")
    segmented(recipe, tmp_path / "slide")
    assert content(tmp_path / "slide") == expected


@pytest.mark.parametrize("error", [FULL, DiedError()], ids=["disk full", "killed"])
@pytest.mark.parametrize("step", [STEPS[0], STEPS[3]], ids=lambda step: step[1])
def test_outlines_that_are_half_replaced_are_never_taken_for_those_of_the_record(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: SlideRecipe,
    step: tuple[Any, str],
    error: BaseException,
) -> None:
    segmented(recipe, tmp_path / "old")
    old, folder = content(tmp_path / "old"), tmp_path / "slide"
    key = SlideManifest.read(tmp_path / "old" / "slide.json").polygon_key
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    reoutline(tmp_path / "new", {"threshold": 0.3})
    new = content(tmp_path / "new")
    for nth in count(1):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "old", folder)
        if not broken(monkeypatch, step, nth, error, lambda: reoutline(folder, {"threshold": 0.3})):
            break
        if SlideManifest.read(folder / "slide.json").polygon_key == key:
            assert {k: v for k, v in content(folder).items() if not k.endswith(".partial")} == old
            segmented(recipe, folder)
        else:
            with pytest.raises(OutputError, match="outlined with other options"):
                segmented(recipe, folder)
        reoutline(folder, {"threshold": 0.3})
        assert content(folder) == new
    assert nth > 1
