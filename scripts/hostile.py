"""Give the command line broken slides, each alone and all of them between good ones, and print what it took.

    python scripts/hostile.py ../shared/slides/hostile
    python scripts/hostile.py ../shared/slides/hostile --cut ../shared/slides/real/CMU-1-Small-Region.svs

To the files below the folder come some made here: a pipe, a link to nothing, a TIFF of one giant tile, a
link to a device without an end, and, with ``--cut``, a good slide cut short and one with a damaged
tile. Each must be one sentence that names it, exit code 1, no traceback, in 30 s and 2 GiB. The batch must
finish its good slides and name each of the others. Memory is the sum of what wsiseg and its processes had
at most, each for itself: an upper bound on what they had together. Ends with 1 where anything is otherwise.
"""

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import tifffile

SECONDS, MEMORY_GIB = 30.0, 2.0
EVERY_S = 0.05
CUTS = (0.1, 0.5, 0.9, 0.95, 0.99, 0.999)
GIANT = 65_008
MAKE_SLIDE = Path(__file__).with_name("make_slide.py")


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it took."""

    code: int
    said: str
    seconds: float
    cpu_s: float
    peak_gib: float


def ran(arguments: Sequence[str | Path], folder: Path) -> Ran:
    """Run wsiseg and watch its processes; ``folder`` keeps what it prints."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    peaks: dict[int, int] = {}
    with (folder / "said").open("w+b") as said:
        call = [sys.executable, "-m", "wsiseg", *arguments]
        child = psutil.Popen(call, stdout=said, stderr=subprocess.STDOUT)
        while child.poll() is None:
            for one in [child, *_children(child)]:
                peaks[one.pid] = max(peaks.get(one.pid, 0), _peak(one.pid))
            time.sleep(EVERY_S)
        said.seek(0)
        words = said.read().decode(errors="replace")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(child.returncode, words, time.perf_counter() - start, cpu_s, sum(peaks.values()) / 2**30)


def _children(child: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = child.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def _peak(pid: int) -> int:
    """The most bytes a process has had in memory so far (Linux); 0 when it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def made(folder: Path, cut: Path | None) -> list[Path]:
    """Broken slides of kinds that no folder holds."""
    pipe, nowhere, giant, endless = (
        folder / f"{name}.svs" for name in ("pipe", "nowhere", "giant-tile", "no-end")
    )
    os.mkfifo(pipe)
    nowhere.symlink_to(folder / "not-there")
    tifffile.imwrite(giant, np.zeros((64, 64, 3), np.uint8), tile=(64, 64), photometric="rgb")
    with tifffile.TiffFile(giant, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength", "TileWidth", "TileLength"):
            tiff.pages.first.tags[name].overwrite(GIANT)
    endless.symlink_to("/dev/zero")
    found = [pipe, nowhere, giant, endless]
    if cut is not None:
        content = cut.read_bytes()
        for part in CUTS:
            path = folder / f"cut-at-{part:.1%}.svs"
            path.write_bytes(content[: int(part * len(content))])
            found.append(path)
        found.append(_torn(Path(shutil.copyfile(cut, folder / "one-torn-tile.svs"))))
    return found


def _torn(path: Path) -> Path:
    """Zero one tile in the middle of level 0."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        middle = len(page.dataoffsets) // 2
        at, count = page.dataoffsets[middle], page.databytecounts[middle]
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(count))
    return path


def faults(path: Path, one: Ran) -> list[str]:
    """What is wrong with how a broken slide was met."""
    lines = [line for line in one.said.splitlines() if not line.startswith("WARNING")]
    wrong = {
        f"exit code {one.code}": one.code != 1,
        "a traceback": "Traceback" in one.said,
        "a defect": "defect" in one.said,
        f"{len(lines)} lines": len(lines) != 1,
        "no name": path.name not in one.said,
        "too slow": one.seconds > SECONDS,
        "too much memory": one.peak_gib > MEMORY_GIB,
    }
    return [what for what, is_so in wrong.items() if is_so]


def alone(path: Path, options: list[str]) -> bool:
    """Segment one broken slide, print its line, and say whether it was met as it must be."""
    with tempfile.TemporaryDirectory() as name:
        one = ran(["segment", path, "-o", Path(name) / "out", *options], Path(name))
    wrong = faults(path, one)
    sentence = one.said.strip().replace(f"{path}: failed: ", "")
    took = f"{one.seconds:.1f} | {one.cpu_s:.1f} | {one.peak_gib:.2f}"
    print(f"| {path.name} | {took} | {one.code} | {sentence} |", flush=True)
    for what in wrong:
        print(f"    WRONG: {what}")
    return not wrong


def between(good: list[Path], broken: list[Path], options: list[str], folder: Path) -> bool:
    """Segment all of them in one call, good ones first, last and in the middle."""
    half = len(broken) // 2
    named = [good[0], *broken[:half], good[1], *broken[half:], good[2]]
    whole = ran(["segment", *named, "-o", folder / "out", *options], folder)
    with (folder / "out" / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    done = {row["slide"] for row in rows if row["status"] == "done"}
    failed = {row["slide"] for row in rows if row["status"] == "failed" and row["reason"]}
    right = (
        done == {one.stem for one in good}
        and len(failed) == len(broken)
        and whole.code == 1
        and "Traceback" not in whole.said
    )
    print(
        f"\nin one batch: {len(done)} of {len(good)} good ones done, {len(failed)} of {len(broken)} broken "
        f"ones named, exit code {whole.code}, {whole.seconds:.0f} s, {whole.peak_gib:.2f} GiB"
    )
    return right


def main() -> int:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="broken slides, side-car files among them")
    parser.add_argument("--cut", type=Path, help="a good slide to cut short and to damage")
    parser.add_argument("--model", default="", help="a bundle; the usual one unless given")
    given = parser.parse_args()
    options = ["--slide-mpp", "0.5", "--device", "cpu", *(["--model", given.model] if given.model else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = [folder / f"good-{number}.svs" for number in range(3)]
        drawing = ["--side", "512", "--disc", "250,250,120"]
        subprocess.run([sys.executable, MAKE_SLIDE, good[0], *drawing], check=True, capture_output=True)  # noqa: S603
        for other in good[1:]:
            shutil.copyfile(good[0], other)
        listed = sorted(path for path in given.folder.resolve().rglob("*") if path.is_file())
        broken = [*listed, *made(folder, given.cut)]
        print("| file | s | CPU s | GiB | exit | what it says |\n|---|---|---|---|---|---|")
        well = [alone(path, options) for path in broken]
        well.append(between(good, broken, options, folder))
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
