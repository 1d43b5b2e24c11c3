"""Whatever a file does to the process that looks at it, the run gets a sentence and goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile

from wsiseg.errors import SlideOpenError, SlideReadError, UsageError, WsisegError
from wsiseg.readers import open_slide
from wsiseg.readers import preflight as module
from wsiseg.readers.files import check_extent
from wsiseg.readers.preflight import preflight
from wsiseg.readers.watched import DiedError, Limits, Watched, serve


def misbehave(question: dict[str, Any]) -> dict[str, Any]:
    """Do to the process what damaged slides do to it."""
    match question["how"]:
        case "abort":
            os.write(2, b"the library says: failed to allocate\n")
            os.abort()
        case "exit":
            os._exit(3)
        case "hang":
            time.sleep(3600)
        case "hang in C, deaf to the clock":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            time.sleep(3600)
        case "greed":
            bytearray(1 << 31)
        case "noise":
            os.write(1, b"a library prints\n")
        case "refuse":
            raise SlideReadError(question["how"])
        case "defect":
            raise ZeroDivisionError
    return {"pid": os.getpid()}


def child() -> None:
    serve(misbehave)


@pytest.fixture
def watched() -> Iterator[Watched]:
    found = Watched("tests.test_preflight:child", Limits(seconds=1.0, memory=2**30))
    sys.path.insert(0, str(Path(__file__).parents[1]))
    yield found
    sys.path.pop(0)
    found.close()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("abort", "signal SIGABRT: the library says: failed to allocate"),
        ("exit", "exit code 3"),
        ("hang", "no answer within 1 s"),
        ("hang in C, deaf to the clock", "no answer within 1 s"),
    ],
)
def test_a_process_that_dies_is_told_of_and_replaced(watched: Watched, how: str, words: str) -> None:
    first = watched.ask({"how": ""})["pid"]
    assert watched.ask({"how": "noise"})["pid"] == first, "one process answers many questions"
    with pytest.raises(DiedError, match=words):
        watched.ask({"how": how})
    assert watched.ask({"how": ""})["pid"] != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_memory_is_limited_and_errors_are_answers(watched: Watched) -> None:
    assert "memory" in watched.ask({"how": "greed"})
    assert watched.ask({"how": "refuse"}) == {"refused": "refuse", "kind": "SlideReadError"}
    assert "ZeroDivisionError" in watched.ask({"how": "defect"})["defect"]


def test_a_process_that_cannot_start_is_a_sentence() -> None:
    with pytest.raises(WsisegError, match=r"no process could be started .+ No module named 'no_such'"):
        Watched("no_such:main", Limits()).ask({})


@pytest.mark.parametrize("how", ["", "hang"])
def test_the_process_ends_with_its_parent(tmp_path: Path, how: str) -> None:
    """One that hangs in a library does not see that nobody listens: its own clock ends it."""
    code = (
        "import os, sys, threading, time; sys.path[:] = sys.argv[1:]\n"
        "from wsiseg.readers.watched import Limits, Watched\n"
        "watched = Watched('tests.test_preflight:child', Limits(seconds=2.0))\n"
        "print(watched.ask({'how': ''})['pid'], flush=True)\n"
        f"threading.Thread(target=watched.ask, args=[{{'how': '{how}'}}], daemon=True).start()\n"
        "time.sleep(0.5)\n"
        "os.kill(os.getpid(), 9)"
    )
    paths = [str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, cwd=tmp_path, check=False
    )
    pid = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.1)
    pytest.fail("it lives on")


@pytest.mark.parametrize("said", ["none", "0", "-1", "inf", "nan"])
def test_a_limit_that_is_no_number_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("WSISEG_PREFLIGHT_GIB", said)
    with pytest.raises(UsageError, match="WSISEG_PREFLIGHT_GIB is"):
        Limits.chosen()


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits.chosen() == Limits(25.0, 2 * 2**30)
    monkeypatch.setenv("WSISEG_PREFLIGHT_GIB", "0.5")
    monkeypatch.setenv("WSISEG_PREFLIGHT_SECONDS", "3")
    assert Limits.chosen() == Limits(3.0, 2**29)


class Planted:
    """A watched process whose answer is known."""

    limits = Limits()

    def __init__(self, answer: dict[str, Any] | DiedError) -> None:
        self.answer = answer

    def ask(self, _: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.answer, DiedError):
            raise self.answer
        return self.answer

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (DiedError("signal SIGABRT: no memory"), r"x.svs ended the process .*SIGABRT: no memory.* 2 GiB"),
        (DiedError("no answer within 25 s"), "x.svs gave no answer within 25 s"),
        ({"memory": ""}, r"x.svs takes more than 2 GiB .* WSISEG_PREFLIGHT_GIB"),
        ({"refused": "x.svs is empty", "kind": "SlideOpenError"}, "x.svs is empty"),
    ],
)
def test_how_the_process_ended_becomes_a_sentence_of_the_slide(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | DiedError, sentence: str
) -> None:
    monkeypatch.setattr(module, "_watched", lambda _: Planted(answer))
    with pytest.raises(SlideOpenError, match=sentence):
        preflight(Path("x.svs"))


def test_a_whole_slide_passes_and_one_of_giant_pieces_does_not(tmp_path: Path) -> None:
    good, giant = tmp_path / "good.tif", tmp_path / "giant.tif"
    tifffile.imwrite(good, np.full((300, 300, 3), 200, np.uint8), tile=(64, 64), photometric="rgb")
    preflight(good)
    shutil.copy(good, giant)
    with tifffile.TiffFile(giant, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength", "TileWidth", "TileLength"):
            tiff.pages.first.tags[name].overwrite(65_008)
    with pytest.raises(SlideOpenError, match="tiles of 65008 × 65008"):
        preflight(giant)
    preflight(good)


def test_a_library_that_takes_all_memory_ends_the_child_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tile of 8192² is honest, and needs 256 MiB: too much for a child of less."""
    path = tmp_path / "large.tif"
    blank = np.full((8192, 8192, 3), 200, np.uint8)
    tifffile.imwrite(path, blank, tile=(8192, 8192), photometric="rgb", compression="zlib")
    del blank
    preflight(path)
    monkeypatch.setenv("WSISEG_PREFLIGHT_GIB", "0.3")
    with pytest.raises(SlideOpenError, match=r"0\.3 GiB of memory to open"):
        preflight(path)


def test_a_slide_larger_than_glass_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_extent("whole-mount.svs", 500_000, 400_000)
    with pytest.raises(SlideOpenError, match="600000 × 600000 pixels, more than any slide"):
        check_extent("x.svs", 600_000, 600_000)
    path = tmp_path / "y.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), tile=(64, 64), photometric="rgb")
    monkeypatch.setattr(openslide.OpenSlide, "level_dimensions", ((600_000, 600_000),))
    with pytest.raises(SlideOpenError, match="600000 × 600000 pixels, more"):
        open_slide(path, mpp=0.5)


@pytest.mark.parametrize("lost", ["Slidedat.ini", "Index.dat", "Data0000.dat"])
def test_a_slide_without_its_side_car_files_says_which(shared: Path, tmp_path: Path, lost: str) -> None:
    derived = shared / "slides" / "derived"
    shutil.copy(derived / "mirax.mrxs", tmp_path)
    shutil.copytree(derived / "mirax", tmp_path / "mirax")
    (tmp_path / "mirax").chmod(0o755)
    (tmp_path / "mirax" / lost).unlink()
    with pytest.raises(SlideOpenError, match=f"mirax.mrxs has lost mirax/{lost}"):
        preflight(tmp_path / "mirax.mrxs")
    os.mkfifo(tmp_path / "mirax" / lost)
    with pytest.raises(SlideOpenError, match=f"has lost mirax/{lost}"):
        preflight(tmp_path / "mirax.mrxs")


def test_a_place_that_cannot_be_decoded_is_passed_only_when_asked(shared: Path) -> None:
    path = shared / "slides" / "hostile" / "hostile-bitrot.svs"
    with pytest.raises(SlideReadError, match="cannot be decoded"):
        preflight(path)
    preflight(path, sparing=True)


def test_a_piece_larger_than_the_file_is_refused_before_a_library_asks_for_its_memory(tmp_path: Path) -> None:
    path = tmp_path / "greedy.tif"
    tifffile.imwrite(path, np.zeros((128, 128, 3), np.uint8), tile=(64, 64), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = tiff.pages.first.tags["TileByteCounts"]
        counts.overwrite([*counts.value[:-1], 60_000])
    with pytest.raises(SlideOpenError, match=r"greedy\.tif is damaged or cut short: a tile"):
        preflight(path)
