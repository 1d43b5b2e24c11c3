"""Break wsiseg on purpose, and see that it mends.

    python scripts/chaos.py kill --runs 20 --kills 4      SIGKILL at random moments, then resume
    python scripts/chaos.py kill --runs 5 --processes 2   the same, its worker processes too
    python scripts/chaos.py many --slides 1000            many small slides in one batch: time, memory, files
    python scripts/chaos.py memory --side 100000          a huge slide, mostly glass: memory it takes

A drawn slide and a predictor of a few lines stand for the real ones, so that the walk of the
blocks, the ledger, the renames and the records are what is tried. Ends with 1 where a byte differs.
``flip_bits.py`` turns single bits in what is stored.
"""

import argparse
import hashlib
import math
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil  # type: ignore[import-untyped]

from wsiseg.forecast import blocks_in_flight
from wsiseg.inputs import SlideInput
from wsiseg.one_slide import Progress
from wsiseg.options import ClusterOptions, MapOptions, PolygonOptions
from wsiseg.plan import ACTIVATION_BYTES_PER_PX, FOUND_BYTES, LIBRARY_BYTES, SLIDE_BYTES, make_plan
from wsiseg.readers import open_slide
from wsiseg.run import Batch
from wsiseg.testing import DARKNESS, Darkness, Stretched

MAKE_SLIDE = Path(__file__).with_name("make_slide.py")


@dataclass(frozen=True)
class Slow(Darkness):
    """``Darkness`` that takes its time, so that there is a middle to be killed in."""

    seconds: float = 0.0

    def __call__(self) -> Stretched:
        """Wait, then make the predictor."""
        predictor, seconds = super().__call__(), self.seconds
        inner = predictor.predictor

        def waited(rgb_BYX3: object) -> object:
            time.sleep(seconds)
            return inner(rgb_BYX3)  # type: ignore[arg-type]

        waited.calls = inner.calls  # type: ignore[attr-defined]
        predictor.predictor = waited  # type: ignore[assignment]
        return predictor


@dataclass(frozen=True)
class Hungry(Darkness):
    """``Darkness`` of many folds that takes as much memory as the plan allows a network."""

    folds: int = 5

    def __call__(self) -> Stretched:
        """Make the predictor."""
        predictor, folds = super().__call__(), self.folds
        inner = predictor.predictor

        def fed(rgb_BYX3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            prob_FBYX = np.empty((folds, *rgb_BYX3.shape[:3]), np.float32)
            for number, rgb_YX3 in enumerate(rgb_BYX3):
                scratch = np.ones((ACTIVATION_BYTES_PER_PX - 80) * rgb_YX3[..., 0].size, np.uint8)
                prob_FBYX[:, number] = inner(rgb_YX3[None])[0]  # takes the other 80
                del scratch
            return prob_FBYX

        fed.calls = inner.calls  # type: ignore[attr-defined]
        predictor.predictor = fed  # type: ignore[assignment]
        return predictor


def draw(folder: Path, side: int = 3000, *more: str) -> Path:
    """A slide with a disc on it."""
    path = folder / "slide.svs"
    drawing = ["--side", str(side), "--glass", "0.1", "--disc", f"{side * 0.6},{side * 0.4},{side * 0.2}"]
    drawing += more
    subprocess.run([sys.executable, MAKE_SLIDE, path, *drawing], check=True, capture_output=True)  # noqa: S603
    return path


Strike = Callable[[SlideInput, Progress], None]


def batch_of(out: Path, *, processes: int = 0, slow_s: float = 0.0) -> Batch:
    """What is the same for every slide of a run here: small blocks, and darkness for tumour."""
    recipe = Slow(seconds=slow_s) if slow_s else Darkness()
    cluster = ClusterOptions(workers=processes)
    return Batch(out, MapOptions(block=1), PolygonOptions(), cluster=cluster, model=(DARKNESS, recipe))


def failures(batch: Batch, slides: list[Path], strike: Strike = lambda *_: None) -> dict[str, str]:
    """Segment slides; the reasons of those that failed. ``strike`` is told of every block."""
    inputs = [SlideInput(path, path.stem) for path in slides]
    outcomes = list(batch.run(inputs, strike))
    return {outcome.slide.name: outcome.reason for outcome in outcomes if outcome.status == "failed"}


def one_run(slide: Path, out: Path, *, processes: int = 0, slow_s: float = 0.0) -> list[str]:
    """Segment a slide once; the reasons of what failed, which are printed too."""
    failed = list(failures(batch_of(out, processes=processes, slow_s=slow_s), [slide]).values())
    print("\n".join(failed))
    if failed and __name__ != "__main__" and sys.argv[0] == "-c":
        sys.exit(1)
    return failed


def digest(out: Path) -> str:
    """One hash over the map and the outlines, and the names of every file there is."""
    found = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        found.update(name.encode())
        if "probability.zarr" in name or name.endswith(".geojson"):
            found.update(path.read_bytes())
    return found.hexdigest()


def child(slide: Path, out: Path, processes: int) -> "subprocess.Popen[bytes]":
    """A run in a process of its own."""
    call = [sys.executable, __file__, "once", str(slide), str(out), "--processes", str(processes)]
    return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def kill(runs: int, kills: int, processes: int, side: int) -> int:
    """Kill and resume; how many runs ended otherwise than the undisturbed one."""
    dice = random.Random(0)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = draw(folder, side)
        assert child(slide, folder / "whole", processes).wait() == 0
        expected, same = digest(folder / "whole"), 0
        blocks = len((folder / "whole" / "slide" / "ledger.jsonl").read_bytes().splitlines()) - 1
        for run in range(runs):
            out, hits = folder / str(run), 0
            for at in sorted(dice.randrange(blocks + 2) for _ in range(kills)):
                hits += struck(
                    child(slide, out, processes), out / ".slide.partial" / "ledger.jsonl", at, dice
                )
            ended = child(slide, out, processes).wait()
            well = ended == 0 and digest(out) == expected
            same += well
            print(f"run {run}: {hits} kills", "the same" if well else "DIFFERENT", flush=True)
    print(f"{same} of {runs} the same")
    return runs - same


def struck(process: "subprocess.Popen[bytes]", ledger: Path, at: int, dice: random.Random) -> bool:
    """Kill a run, or a worker of it and then the run, once so many blocks are done; False if it ended before.

    0 is from the start on, one more than there are is while the outlines are joined and written.
    """
    while process.poll() is None and (ledger.read_bytes().count(b"\n") if ledger.exists() else 0) < at:
        time.sleep(0.005)
    time.sleep(dice.uniform(0, 2.0 if at == 0 else 0.05))
    hit = process.poll() is None
    if hit:
        below = psutil.Process(process.pid).children(recursive=True)
        one = dice.choice([process.pid, *(worker.pid for worker in below)])
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
        if one != process.pid:
            time.sleep(dice.uniform(0, 1.0))
            process.kill()
    process.wait()
    return hit


def many(slides: int) -> int:
    """One batch of small slides; prints wall time, and memory and open files on the way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = draw(folder, side=600)
        inputs = [SlideInput(folder / f"s{number:05}.svs", f"s{number:05}") for number in range(slides)]
        for one in inputs:
            os.link(drawn, folder / f"{one.name}.svs")
        batch = Batch(folder / "out", MapOptions(), PolygonOptions(), model=(DARKNESS, Darkness()))
        start, bad = time.monotonic(), 0
        for number, outcome in enumerate(batch.run(inputs, lambda *_: None), 1):
            bad += outcome.status != "done"
            if number in {10, 100, slides}:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                files, now = psutil.Process().num_fds(), time.monotonic() - start
                print(f"{number} slides: {now:.0f} s, peak {peak:.0f} MiB, {files} open files", flush=True)
    return bad


def memory(side: int, tissue_px: int, block: int) -> int:
    """Segment a slide that is mostly glass; how much memory that took, and how much was foretold."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        glass = 1 - math.pi * tissue_px**2 / side**2
        spot = f"{side / 2},{side / 2},{tissue_px / 2}"
        drawing = ("--glass", str(glass), "--mpp", "0.25", "--share", "--disc", spot)
        slide = draw(folder, side, *drawing)
        spec = DARKNESS.model_copy(update={"folds": DARKNESS.folds * Hungry.folds})
        options = MapOptions(block=block)
        with open_slide(slide) as opened:
            plan = make_plan(opened.info, spec, per_block=block)
        import_module("torch")  # by which patches are resampled; the forecast counts it among the libraries
        absent = LIBRARY_BYTES + SLIDE_BYTES + FOUND_BYTES  # counted before, no second slide, few corners
        threads = blocks_in_flight(options)
        foretold = plan.peak_bytes(threads) - absent
        batch = Batch(folder / "out", options, PolygonOptions(), model=(spec, Hungry()))
        before = of_memory("VmRSS")
        (outcome,) = batch.run([SlideInput(slide, "slide")], lambda *_: None)
        grown = of_memory("VmHWM") - before
    counts = outcome.manifest.counts.blocks if outcome.manifest else outcome.reason
    print(
        f"{side} px squared, {counts} blocks, {threads} threads: took {grown / 2**20:.0f} MiB, "
        f"foretold {foretold / 2**20:.0f} MiB",
        flush=True,
    )
    return int(outcome.status != "done" or grown > foretold)


def of_memory(what: str) -> int:
    """Bytes this process has in memory (``VmRSS``), or had at most (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) * 1024


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    killing = modes.add_parser("kill")
    killing.add_argument("--runs", type=int, default=20)
    killing.add_argument("--kills", type=int, default=4)
    killing.add_argument("--processes", type=int, default=0)
    killing.add_argument("--side", type=int, default=3000, help="of the slide, level-0 pixels")
    modes.add_parser("many").add_argument("--slides", type=int, default=1000)
    flat = modes.add_parser("memory")
    flat.add_argument("--side", type=int, default=100_000)
    flat.add_argument("--tissue", type=int, default=2500, help="the tissue's radius, level-0 pixels")
    flat.add_argument("--block", type=int, default=4)
    once = modes.add_parser("once")
    once.add_argument("slide", type=Path)
    once.add_argument("out", type=Path)
    once.add_argument("--processes", type=int, default=0)
    given = parser.parse_args()
    if given.mode == "once":
        return len(
            one_run(
                given.slide, given.out, processes=given.processes, slow_s=0.0 if given.processes else 0.02
            )
        )
    if given.mode == "kill":
        return min(1, kill(given.runs, given.kills, given.processes, given.side))
    if given.mode == "memory":
        return memory(given.side, given.tissue, given.block)
    return min(1, many(given.slides))


if __name__ == "__main__":
    sys.exit(main())
