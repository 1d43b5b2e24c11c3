"""Feed the readers slides with damaged headers, and count what becomes of them.

Every case is a small TIFF in the manner of one scanner or another, with some bytes of its
header changed, cut or moved. It is looked at in the watched process, as every slide is before
a run trusts it, and one that passes is then read whole, as the run would. Allowed are pixels
and one of our sentences; whatever else comes out is a defect, is kept, and makes the exit
code 1.

    python scripts/fuzz.py --count 10000 --keep found
"""

import argparse
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsiseg.geometry import L0, Box
from wsiseg.readers import open_slide
from wsiseg.readers.preflight import look
from wsiseg.readers.watched import DiedError, Limits, Watched, serve

__all__ = ["Tally", "fuzz", "mutated", "seeds"]

READERS = ("openslide", "tiffslide")
SLOW_S = 5.0
"""A case that takes longer is kept and named, though it ends as it should: a hang in the making."""
HEAD = 4096
"""Bytes at either end of a file in which most changes are made: TIFF directories lie there."""
ODD = (0, 1, 2, 3, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
APERIO = "Aperio Image Library v11.2.1\r\n300x200 [0,0 300x200] (64x64) |AppMag = 20|MPP = 0.4990"


def seeds(folder: Path) -> list[Path]:
    """Small slides to begin with: Aperio-like, pyramid, OME, striped, big-endian, BigTIFF, grey."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (200, 300, 3), np.uint8)
    tiled: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb"}
    made = []

    def write(name: str, *levels: Any, options: dict[str, Any], **file: Any) -> None:
        path = folder / name
        with tifffile.TiffWriter(path, **file) as tiff:
            for number, level in enumerate(levels):
                below = {"subfiletype": 1} if number else {}
                tiff.write(level, **{"metadata": None, **options, **below})
        made.append(path)

    write("aperio.svs", rgb, rgb[::2, ::2], options={**tiled, "description": APERIO})
    write("pyramid.tif", rgb, rgb[::2, ::2], rgb[::4, ::4], options={**tiled, "compression": "zlib"})
    write("jpeg.tif", rgb, rgb[::2, ::2], options={**tiled, "compression": "jpeg"})
    write("big.tif", rgb, rgb[::2, ::2], options=tiled, bigtiff=True)
    write("motorola.tif", rgb, options={**tiled, "compression": "zlib"}, byteorder=">")
    write("striped.tif", rgb, options={"photometric": "rgb", "rowsperstrip": 16, "compression": "zlib"})
    write("grey.tif", rgb[..., 0], options={"tile": (64, 64), "photometric": "minisblack"})
    path = folder / "image.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        tiff.write(rgb, subifds=1, metadata=metadata, compression="zlib", **tiled)
        tiff.write(rgb[::2, ::2], subfiletype=1, compression="zlib", **tiled)
    return [*made, path]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A file with one to eight changes, most of them in its header."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if len(changed) < 16:  # noqa: PLR2004 - too little left to change
            break
        at = _place(len(changed), rng)
        match rng.randrange(8):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.randrange(256)
            case 2 | 3:
                _put(changed, at, rng.choice(ODD), rng)
            case 4:
                length = rng.choice((1, 2, 4, 8, 12, 64))
                other = _place(len(changed), rng)
                changed[at : at + length] = changed[other : other + length]
            case 5:
                length = rng.choice((1, 2, 12, 20, 200))
                changed[at : at + length] = bytes([rng.choice((0, 255))]) * min(length, len(changed) - at)
            case 6:
                del changed[at : at + rng.choice((1, 2, 12, 20))]
            case _:
                if rng.random() < 0.3:  # noqa: PLR2004 - a share
                    del changed[rng.randrange(len(changed)) :]
                else:
                    _put(changed, at, rng.randrange(2 * len(changed)), rng)
    return bytes(changed)


def _place(size: int, rng: random.Random) -> int:
    near = rng.randrange(min(HEAD, size))
    return rng.choice((near, near, size - 1 - near, rng.randrange(size)))


def _put(changed: bytearray, at: int, value: int, rng: random.Random) -> None:
    """Write a number over some bytes, wide or narrow, in either order."""
    kind = rng.choice(("H", "I", "Q"))
    width = struct.calcsize(kind)
    number = struct.pack(rng.choice("<>") + kind, value % (1 << 8 * width))
    changed[at : at + width] = number[: max(0, len(changed) - at)]


def main() -> None:
    """The watched process: look as a run does, then read all of a slide that passes."""
    serve(_answered)


def _answered(question: dict[str, Any]) -> dict[str, Any]:
    path, reader = Path(question["path"]), question["reader"]
    if question["whole"]:
        with open_slide(path, mpp=0.5, reader=reader, known_fingerprint="fuzz") as slide:
            info = slide.info
            slide.read(info.bounds, (min(64, info.bounds.h), min(64, info.bounds.w)))
            part: Box[L0] = info.extent & Box(0, 0, 2048, 2048)
            slide.read(part, (part.h, part.w))
    else:
        look(path, reader=reader, sparing=False)
    return {}


@dataclass
class Tally:
    """How many cases ended how, and the sentences of those that ended the process or were slow."""

    count: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def fuzz(
    cases: Iterator[tuple[str, bytes]], reader: str, watched: Watched, keep: Path | None = None
) -> Tally:
    """Give every case to one reader; ``keep`` gets the files of defects, deaths and slow cases."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, content) in enumerate(cases):
            path = Path(folder) / name
            path.write_bytes(content)
            start = time.perf_counter()
            how, why = _ended(watched, path, reader)
            seconds = time.perf_counter() - start
            tally.slowest_s = max(tally.slowest_s, seconds)
            tally.count[how] += 1
            if why:
                tally.deaths[f"{how}: {why}"] += 1
            if how == "defect":
                tally.defects.append(f"{reader}, case {number}, {name}: {why}")
            if seconds > SLOW_S:
                tally.slow.append(f"{reader}, case {number}, {name}: {how} after {seconds:.1f} s")
            if keep is not None and (why or seconds > SLOW_S):
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{reader}-{number}-{name}").write_bytes(content)
    return tally


def _ended(watched: Watched, path: Path, reader: str) -> tuple[str, str]:
    """How a case ended, and why where that is worth a line."""
    for whole in (False, True):
        try:
            answer = watched.ask({"path": str(path), "reader": reader, "whole": whole})
        except DiedError as died:
            return ("died when read whole" if whole else "died when looked at"), str(died)
        if "defect" in answer:
            return "defect", answer["defect"]
        if "memory" in answer:
            watched.close()
            return ("no memory when read whole" if whole else "no memory when looked at"), "memory"
        if "refused" in answer:
            return ("refused when read whole" if whole else "refused when looked at"), ""
    return "read", ""


def cases(files: list[Path], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many mutated files, the same for one seed."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    contents = [(path.name, path.read_bytes()) for path in files]
    for number in range(count):
        name, content = contents[number % len(contents)]
        yield name, mutated(content, rng)


def run() -> int:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("slides", nargs="*", type=Path, help="small real slides to change as well")
    parser.add_argument("--count", type=int, default=10_000, help="cases for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="+", default=list(READERS))
    parser.add_argument("--keep", type=Path, help="a folder for files of deaths, defects and slow cases")
    given = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        files = seeds(Path(folder)) + given.slides
        for reader in given.readers:
            watched = Watched("fuzz:main", Limits.chosen())
            start = time.perf_counter()
            tally = fuzz(cases(files, given.count, given.seed), reader, watched, given.keep)
            watched.close()
            print(f"{reader}: {given.count} cases in {time.perf_counter() - start:.0f} s, seed {given.seed}")
            for how, many in tally.count.most_common():
                print(f"  {many:7} {how}")
            print(f"  slowest {tally.slowest_s:.1f} s")
            for line in tally.slow:
                print(f"    slow: {line}")
            for why, many in tally.deaths.most_common(20):
                print(f"    {many} × {why}")
            bad += len(tally.defects)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(run())
