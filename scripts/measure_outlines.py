"""Measure what a large result costs: outline, export, check, sweep and heat map of a drawn map.

A map of ``--side`` squared canvas pixels is drawn with about ``--regions`` ragged regions, many with
a hole, and stored as a run would store it. Each command then runs in a process of its own; its wall
time, its processor time, its peak memory and the sizes of its files are printed as a table.

By hand: ``python scripts/measure_outlines.py --side 20000 --regions 50000``.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.canvas import ProbabilityMap
from wsiseg.export import export_polygons, keep_thumbnail
from wsiseg.geometry import Scale
from wsiseg.grid import Grid
from wsiseg.ledger import Done, Ledger
from wsiseg.manifest import Canvas, Counts, Model, Result, SlideFacts, SlideManifest
from wsiseg.outlining import Outlining
from wsiseg.polygons import Regions

FACTOR, MPP = 1.5, 0.5
SETTINGS = {"drawn": True}
KINDS = 64


def main() -> int:
    """Draw, run each command, print the table."""
    parser = argparse.ArgumentParser(description="Measure what a large result costs.")
    parser.add_argument("--side", type=int, default=20_000, help="canvas pixels along a side")
    parser.add_argument("--regions", type=int, default=50_000, help="about so many regions")
    parser.add_argument("--keep", type=Path, help="draw into this folder and leave it there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)) / "drawn"
        started = time.perf_counter()
        draw(folder, given.side, given.regions)
        seconds, map_mb = time.perf_counter() - started, size_mb(folder / "probability.zarr")
        print(f"map drawn in {seconds:.0f} s, {map_mb:.0f} MB", flush=True)
        print("| command | seconds | of CPU | peak MB | file MB |\n|---|---|---|---|---|")
        small = ("--min-area", "0", "--min-hole", "0", "--simplify", "1")
        everything = ("--max-vertices", "100000000")
        measure("polygons", str(folder), "--threshold", "0.5", *small, *everything)
        measure("check", str(folder / "tumor.geojson"))
        measure("polygons", str(folder), "--max-vertices", "200000")
        measure("check", str(folder / "tumor.geojson"))
        measure("polygons", str(folder), "--gzip", *everything)
        measure("polygons", str(folder), "--heatmap")
        measure("polygons", str(folder), "--sweep")
    return 0


def draw(folder: Path, side: int, regions: int) -> None:
    """Store a map with one region per cell of a square lattice, as a run stores it."""
    per_side = round(math.sqrt(regions))
    cell = side // per_side
    rng = np.random.default_rng(0)
    drawn_KYX = np.stack([_region(rng, cell) for _ in range(KINDS)])
    prob_YX = np.zeros((side, side), np.uint8)
    for y in range(per_side):
        row_YX = np.concatenate(drawn_KYX[rng.integers(0, KINDS, per_side)], axis=1)
        prob_YX[y * cell : (y + 1) * cell, : row_YX.shape[1]] = row_YX
    grid = Grid(width=side, height=side, patch=1024, margin=128, per_block=2)
    folder.mkdir(parents=True)
    where = folder / "probability.zarr"
    canvas = ProbabilityMap.create(where, grid, scale=Scale(FACTOR), mpp=MPP, about={})
    with Ledger(folder / "ledger.jsonl", SETTINGS) as ledger:
        for block in grid:
            part_YX = prob_YX[block.core.within(grid.extent)]
            sha256 = canvas.write(block, np.stack([part_YX, part_YX // 8]))
            ledger.add(Done(*block.index, sha256, len(block.patches)))
    keep_thumbnail(folder, np.full((2048, 2048, 3), 245, np.uint8))
    manifest = export_polygons(Regions.concatenate([]), record(grid), options(), folder)
    manifest.write(folder / "slide.json")


def _region(rng: np.random.Generator, cell: int) -> npt.NDArray[np.uint8]:
    """A ragged disc (Y, X) inside one cell, probability falling to its rim, half of them with a hole."""
    y, x = np.mgrid[:cell, :cell] - cell / 2
    angle, far = np.arctan2(y, x), np.hypot(x, y)
    waves = sum(rng.uniform(0.02, 0.08) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5, 8, 13))
    rim = cell * rng.uniform(0.25, 0.38) * (1 + waves)
    prob_YX = np.clip(0.5 + (rim - far) / cell * 2 + rng.normal(0, 0.004, far.shape), 0, 1)
    if rng.random() < 0.5:  # noqa: PLR2004 - half of them
        prob_YX[far < rim / 3] = 0.1
    prob_YX[far > cell * 0.48] = 0
    drawn: npt.NDArray[np.uint8] = np.rint(prob_YX * 255).astype(np.uint8)
    return drawn


def options() -> Outlining:
    """A run's options; the commands give their own."""
    return Outlining(
        threshold=0.5,
        min_area_um2=0,
        min_hole_um2=0,
        simplify_px=1,
        origin="qupath",
        review_above=None,
        object_type="annotation",
        gzip=False,
        max_vertices=200_000,
    )


def record(grid: Grid) -> SlideManifest:
    """The record of a slide that was never scanned."""
    width, height = int(grid.width * FACTOR), int(grid.height * FACTOR)
    slide = SlideFacts(
        name="drawn.svs",
        fingerprint="0" * 64,
        width=width,
        height=height,
        bounds=(0, 0, width, height),
        mpp=MPP,
        mpp_source="drawn",
        objective=None,
        downsamples=(1.0,),
        vendor="drawn",
        reader="none",
    )
    return SlideManifest(
        key="",
        polygon_key="",
        settings=SETTINGS,
        slide=slide,
        model=Model(name="drawn", encoder="none", weights={"fold-1": "0"}, mpp=MPP),
        canvas=Canvas(width=grid.width, height=grid.height, factor=FACTOR, mpp=MPP * FACTOR),
        map_options={},
        polygon_options={},
        counts=Counts(blocks=len(grid), patches=grid.patches, resumed_blocks=0, polygons=0, vertices=0),
        result=Result(tissue_mm2=width * height * (MPP / 1000) ** 2),
        seconds={},
        device="none",
        versions={},
        finished="",
    )


def measure(*arguments: str) -> None:
    """Run one command of wsiseg in a process of its own and print a row."""
    command = [sys.executable, "-m", "wsiseg", "-q", *arguments]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our own command
    said = child.stdout.read().decode() if child.stdout else ""
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds, cpu, peak_mb = (
        time.perf_counter() - started,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss / 1024,
    )
    shown = " ".join(Path(word).name if "/" in word else word for word in arguments)
    folder = Path(arguments[1]) if arguments[0] == "polygons" else Path(arguments[1]).parent
    files = ", ".join(f"{p.name} {size_mb(p):.1f}" for p in sorted(folder.glob("tumor*")))
    print(f"| `{shown}` | {seconds:.1f} | {cpu:.1f} | {peak_mb:.0f} | {files} |", flush=True)
    if "--sweep" not in arguments:
        print("\n".join(f"<!-- {line[line.find(': ') + 2 :]} -->" for line in said.splitlines()))


def size_mb(path: Path) -> float:
    """The size of a file, or of everything in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files) / 1e6


if __name__ == "__main__":
    sys.exit(main())
