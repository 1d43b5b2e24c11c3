"""Flip single bits in the stored chunks of a map and in a file of weights, and see each one found.

    python scripts/flip_bits.py --flips 2000

A flip that changes no pixel (a bit of the container that nothing depends on) is counted apart.
Ends with 1 where a flip that changes something went unseen.
"""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zarr

from wsiseg.bundle import BundleSpec, FoldFile, verify_files
from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import BundleError
from wsiseg.geometry import Scale
from wsiseg.grid import Grid


def flip(flips: int) -> int:
    """Flip single bits in the stored chunks of a map and in a file of weights; how many went unseen."""
    rng, seen, idle = np.random.default_rng(0), {"chunks": 0, "weights": 0}, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = Grid(1100, 700, 280, 12, 2)
        canvas = ProbabilityMap.create(folder / "map", grid, scale=Scale(1.0), mpp=0.5, about={})
        blocks = {block.index: block for block in grid}
        hashes = {}
        for index, block in blocks.items():
            coarse_CYX = rng.integers(0, 256, (2, -(-block.core.h // 16), -(-block.core.w // 16)), np.uint8)
            map_CYX = coarse_CYX.repeat(16, 1).repeat(16, 2)[:, : block.core.h, : block.core.w]
            hashes[index] = canvas.write(block, map_CYX)
        chunks = sorted(path for path in canvas.path.rglob("*") if "c" in path.parts and path.is_file())
        for number in range(flips):
            path = chunks[number % len(chunks)]
            row, column = int(path.parent.name), int(path.name)
            level = zarr.open_array(canvas.path / path.relative_to(canvas.path).parts[0], mode="r")
            where = (0, row, column)
            sound = np.asarray(level.blocks[where])
            with flipped(path, rng):
                if not canvas.holds(blocks[row, column], hashes[row, column]):
                    seen["chunks"] += 1
                else:  # a bit of the container that no pixel depends on
                    idle += np.array_equal(np.asarray(level.blocks[where]), sound)
            assert canvas.holds(blocks[row, column], hashes[row, column])
        weights = folder / "fold-1.safetensors"
        weights.write_bytes(rng.bytes(100_000))
        fold = FoldFile(file=weights.name, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
        spec = BundleSpec(name="noise", encoder="mit_b0", folds=(fold,), licence="none", trained_on="nothing")
        for _ in range(flips):
            with flipped(weights, rng):
                try:
                    verify_files(folder, spec)
                except BundleError:
                    seen["weights"] += 1
        verify_files(folder, spec)
    print(
        f"{len(chunks)} chunks on {canvas.depth} levels: {seen['chunks']} of {flips} flipped bits found",
        end="",
    )
    print(f", {idle} changed no pixel" if idle else "")
    print(f"weights: {seen['weights']} of {flips} flipped bits found")
    return 2 * flips - sum(seen.values()) - idle


@contextmanager
def flipped(path: Path, rng: np.random.Generator) -> Iterator[None]:
    """A file with one bit, any of all, turned; put back afterwards."""
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
    path.write_bytes(damaged)
    yield
    path.write_bytes(sound)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flips", type=int, default=2000, help="of chunks, and as many of weights")
    return min(1, flip(parser.parse_args().flips))


if __name__ == "__main__":
    sys.exit(main())
