"""Kill it anywhere, break any call, fill the disk: the next run ends with the same bytes."""

import asyncio
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.core.sync import sync

from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import OutputError
from wsiseg.geometry import Scale
from wsiseg.grid import Grid
from wsiseg.ledger import Done, Ledger
from wsiseg.pipeline import PREDICTORS, SLIDES

CHAOS = Path(__file__).parents[1] / "scripts" / "chaos.py"
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    yield
    SLIDES.clear()
    PREDICTORS.clear()


def test_killed_runs_end_as_the_undisturbed_one() -> None:
    done = subprocess.run(
        [sys.executable, CHAOS, "kill", "--runs", "1", "--kills", "3", "--side", "1500"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 the same" in done.stdout


GRID = Grid(90, 70, 24, 4, 2)
SMALL = Grid(40, 20, 24, 4, 1)


def worked(folder: Path, grid: Grid = GRID) -> None:
    """Every block of a small map, written and committed as ``segment`` does it; goes on where it was left."""
    if not (folder / "ledger").exists():
        shutil.rmtree(folder / "map", ignore_errors=True)
        ProbabilityMap.create(folder / "map", grid, scale=Scale(1.0), mpp=0.5, about={})
    canvas = ProbabilityMap(folder / "map", grid)
    with Ledger(folder / "ledger", {"block": 2}) as ledger:
        for block in grid:
            found = ledger.done.get(block.index)
            if found is not None and canvas.holds(block, found.sha256):
                continue
            rng = np.random.default_rng(block.index)
            map_CYX = rng.integers(0, 256, (2, block.core.h, block.core.w), np.uint8)
            ledger.add(Done(*block.index, canvas.write(block, map_CYX), 4))
    canvas.sweep()


def content(folder: Path, part: str = "map") -> dict[str, bytes]:
    files = [path for path in (folder / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class DiedError(BaseException):
    """Stands for the end of the process: nothing catches it."""


def failing(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, nth: int, error: BaseException
) -> list[int]:
    real: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def call(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            raise error
        return real(*args, **more)

    monkeypatch.setattr(owner, name, call)
    return calls


async def quiet() -> None:
    """Wait for what zarr still has in hand; when a process dies that dies with it."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DiedError()])
@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (os, "open"), (Path, "replace"), (Path, "open")])
def test_any_call_may_fail_any_time_and_the_next_run_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    worked(whole, SMALL)
    expected, failed = content(whole), 0
    for nth in count(1):
        folder = tmp_path / str(nth)
        folder.mkdir()
        with monkeypatch.context() as patch:
            calls = failing(patch, owner, name, nth, error)
            try:
                worked(folder, SMALL)
            except (OutputError, DiedError):
                failed += 1
            sync(quiet())
        worked(folder, SMALL)
        assert content(folder) == expected, f"{name} failing the {nth}. time"
        shutil.rmtree(folder)
        if calls[0] < nth:
            break
    if calls[0]:
        assert failed > 0


def test_a_flipped_bit_is_found_and_its_block_done_again(tmp_path: Path) -> None:
    worked(tmp_path)
    expected = content(tmp_path)
    rng = np.random.default_rng(0)
    chunks = sorted(path for path in (tmp_path / "map").rglob("*") if "c" in path.parts and path.is_file())
    assert len(chunks) > 5
    for chunk in chunks:
        before = bytearray(chunk.read_bytes())
        before[rng.integers(len(before))] ^= 1 << int(rng.integers(8))
        chunk.write_bytes(before)
        worked(tmp_path)
        assert content(tmp_path) == expected, chunk


def test_every_flipped_bit_is_found_in_chunks_and_weights() -> None:
    done = subprocess.run(
        [sys.executable, CHAOS.with_name("flip_bits.py"), "--flips", "150"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("150 of 150 flipped bits found") == 2


@pytest.mark.slow
def test_a_slide_of_100_000_px_squared_takes_no_more_memory_than_the_plan_foretells() -> None:
    done = subprocess.run([sys.executable, CHAOS, "memory"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100000 px squared" in done.stdout


def test_damage_on_any_level_and_another_blocks_chunk_are_both_found(tmp_path: Path) -> None:
    grid = Grid(1100, 700, 280, 12, 2)
    canvas = ProbabilityMap.create(tmp_path / "map", grid, scale=Scale(1.0), mpp=0.5, about={})
    assert canvas.depth > 1
    first, second = list(grid)[:2]
    rng = np.random.default_rng(0)
    hashes = [
        canvas.write(b, rng.integers(0, 256, (2, b.core.h, b.core.w), np.uint8)) for b in (first, second)
    ]
    assert canvas.holds(first, hashes[0])
    for level in range(canvas.depth):
        chunk = canvas.path / str(level) / "c" / "0" / "0" / "0"
        sound = chunk.read_bytes()
        chunk.write_bytes(sound[:-9] + bytes([sound[-9] ^ 4]) + sound[-8:])
        assert not canvas.holds(first, hashes[0]), level
        chunk.write_bytes((chunk.parent / "1").read_bytes())
        assert not canvas.holds(first, hashes[0]), level
        chunk.write_bytes(sound)
    assert canvas.holds(first, hashes[0])
    for level in range(canvas.depth):
        row = canvas.path / str(level) / "c" / "0" / "0"
        shutil.copy(row / "1", row / "0")
    assert not canvas.holds(first, hashes[0]), "all levels agree with each other, not with the ledger"


def test_a_torn_last_line_is_dropped_and_a_damaged_one_ends_the_ledger(tmp_path: Path) -> None:
    worked(tmp_path)
    expected, ledger = content(tmp_path), tmp_path / "ledger"
    text = ledger.read_bytes()
    for cut in range(len(text) - 60, len(text)):
        ledger.write_bytes(text[:cut])
        worked(tmp_path)
        assert content(tmp_path) == expected
        assert ledger.read_bytes() == text


def test_a_full_disk_is_a_sentence_and_room_lets_it_go_on(tmp_path: Path) -> None:
    program = (
        "import resource, runpy, signal, sys; from pathlib import Path;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "chaos = runpy.run_path(sys.argv[1]);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
        "chaos['one_run'](Path(sys.argv[2]), Path(sys.argv[3]))"
    )
    chaos = runpy.run_path(str(CHAOS))
    slide = chaos["draw"](tmp_path, 1500)
    child = [sys.executable, "-c", program, CHAOS, slide, tmp_path / "out"]
    done = subprocess.run(child, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "cannot be written: File too large" in done.stdout
    assert chaos["one_run"](slide, tmp_path / "out") == []


FAULTS = runpy.run_path(str(CHAOS.with_name("faults.py")))


@pytest.mark.parametrize("name", FAULTS["FAULTS"])
def test_a_slide_or_disk_lost_in_the_middle_is_a_sentence_and_the_run_goes_on_when_it_is_back(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    try:
        assert FAULTS["one"](FAULTS["FAULTS"][name]) == ""
    except FAULTS["MountError"] as error:
        pytest.skip(f"a small disk takes root: {error}")
    said = capsys.readouterr().out
    assert FAULTS["FAULTS"][name].said in said
    assert "defect" not in said


SEGMENT = """
import runpy, sys
from wsiseg import run
from wsiseg.cli import main
chaos = runpy.run_path(sys.argv.pop(1))
run.Batch._bundle = lambda batch: (chaos["DARKNESS"], chaos["Slow"](seconds=1))
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("number", "processes", "code"),
    [(signal.SIGINT, 1, 130), (signal.SIGTERM, 0, 143)],
)
def test_a_run_that_is_told_to_end_ends_at_once_with_its_record_and_what_is_done_stays(
    tmp_path: Path, number: signal.Signals, processes: int, code: int
) -> None:
    chaos = runpy.run_path(str(CHAOS))
    slide, out = chaos["draw"](tmp_path, 1500), tmp_path / "out"
    words = [sys.executable, "-c", SEGMENT, CHAOS, "segment", slide, "-o", out, "--block", "1"]
    child = subprocess.Popen(
        [*words, "-j", str(processes)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    ledger = out / ".slide.partial" / "ledger.jsonl"
    while not (ledger.exists() and len(ledger.read_bytes().splitlines()) > 2):
        assert child.poll() is None
        time.sleep(0.05)
    os.killpg(child.pid, number)  # as a terminal does it: to the worker processes as well
    _, said = child.communicate(timeout=300)
    assert (child.returncode, "Traceback" in said) == (code, False), said
    assert "run the same command again" in said
    (record,) = (json.loads(path.read_text()) for path in out.glob("run-*.json"))
    assert record["ended"] == "interrupted"
    assert chaos["one_run"](slide, out) == []
    assert json.loads((out / "slide" / "slide.json").read_text())["counts"]["resumed_blocks"] > 0
    assert list(out.glob(".*")) == []
