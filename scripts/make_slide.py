"""Draw a slide: a seeded, tiled, pyramidal TIFF that looks a little like H&E.

    python scripts/make_slide.py OUT.svs --side 20000 --mpp 0.5 --disc 9000,7000,1500
    python scripts/make_slide.py OUT.tiff --side 8192 --sparse 2048,3072,4096,2048

Glass, one round of pink tissue with purple nuclei, and discs of dense purple "tumour" where
asked. With ``--tissue-of SLIDE`` the tissue is that of a real slide, a square of it repeated, instead
of drawn nuclei. It is drawn tile by tile, so memory stays flat at any size; ``--share`` stores equal tiles
once, which makes a slide of 100,000 × 100,000 pixels a matter of seconds. By default an Aperio-like
description carries the resolution. ``--sparse x,y,w,h`` writes a generic TIFF that holds
tiles only in that rectangle (grown to whole tiles), for which OpenSlide 4.0.1 and later
report bounds; the resolution then stands in the TIFF tags.

Nothing here is a specimen: it is for tests, benchmarks and demos only.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import openslide
import tifffile

TILE = 256
QUALITY = 90
GLASS = (243, 242, 244)
STROMA = (226, 160, 196)
NUCLEUS = (98, 62, 138)
TUMOUR = (128, 70, 150)
GRAIN_PX = 2048
"""Side of the noise, or of the real tissue, that is there once and repeated, in level-0 pixels."""


@dataclass(frozen=True)
class Disc:
    """A disc of tumour: centre and radius in level-0 pixels."""

    x: float
    y: float
    r: float


@dataclass(frozen=True)
class Drawing:
    """What is drawn: everything a pixel's colour depends on, all in level-0 pixels."""

    width: int
    height: int
    mpp: float = 0.5
    seed: int = 0
    glass: float = 0.4
    discs: tuple[Disc, ...] = ()
    levels: tuple[int, ...] = (1, 4, 16)
    sparse: tuple[int, int, int, int] | None = None
    tissue: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    grain: npt.NDArray[np.uint8] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grain", _grain(self.seed, self.mpp))

    @property
    def tissue_radius(self) -> float:
        """The radius at which a centred disc leaves ``glass`` of the slide uncovered."""
        if self.glass <= 0:
            return float(self.width + self.height)
        return float(np.sqrt((1 - self.glass) * self.width * self.height / np.pi))


def _grain(seed: int, mpp: float) -> npt.NDArray[np.uint8]:
    """Nuclei, 0 to 255 (Y, X), periodic, so that any level-0 pixel has one value."""
    rng = np.random.default_rng(seed)
    grain = np.zeros((GRAIN_PX, GRAIN_PX), np.uint8)
    radius = max(2.0, 3.5 / mpp)
    count = int(0.12 * GRAIN_PX**2 / (np.pi * radius**2))
    reach = int(radius * 1.5) + 1
    offset_y, offset_x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    for y, x, stretch in zip(
        rng.integers(0, GRAIN_PX, count),
        rng.integers(0, GRAIN_PX, count),
        rng.uniform(0.7, 1.4, count),
        strict=True,
    ):
        inside = (offset_x * stretch) ** 2 + (offset_y / stretch) ** 2 <= radius**2
        grain[(y + offset_y[inside]) % GRAIN_PX, (x + offset_x[inside]) % GRAIN_PX] = rng.integers(150, 256)
    return grain


def tissue_of(path: Path) -> npt.NDArray[np.uint8]:
    """The square (Y, X, 3) of a real slide's middle that is repeated; mirrored where the slide is smaller."""
    with openslide.OpenSlide(str(path)) as slide:
        width, height = (min(GRAIN_PX, side) for side in slide.dimensions)
        corner = ((slide.dimensions[0] - width) // 2, (slide.dimensions[1] - height) // 2)
        rgb_YX3 = np.asarray(slide.read_region(corner, 0, (width, height)).convert("RGB"))
    return np.pad(rgb_YX3, ((0, GRAIN_PX - height), (0, GRAIN_PX - width), (0, 0)), mode="symmetric")


def draw(drawing: Drawing, x: int, y: int, step: int, side: int = TILE) -> npt.NDArray[np.uint8]:
    """A tile (Y, X, 3) whose pixel (0, 0) begins at level-0 ``x, y`` and is ``step`` pixels wide."""
    px_x = x + (np.arange(side) + 0.5) * step
    px_y = y + (np.arange(side) + 0.5) * step
    tile = np.empty((side, side, 3), np.float32)
    tile[:] = GLASS
    centre_x, centre_y = drawing.width / 2, drawing.height / 2
    far = np.hypot(px_x[None, :] - centre_x, px_y[:, None] - centre_y)
    tissue = far < drawing.tissue_radius
    if tissue.any():
        rows, columns = (px_y.astype(np.int64) % GRAIN_PX), (px_x.astype(np.int64) % GRAIN_PX)
        nuclei = drawing.grain[np.ix_(rows, columns)][..., None] / 255.0
        drawn = np.array(STROMA) * (1 - nuclei) + np.array(NUCLEUS) * nuclei
        tile[tissue] = (drawn if drawing.tissue is None else drawing.tissue[np.ix_(rows, columns)])[tissue]
        for disc in drawing.discs:
            inside = np.hypot(px_x[None, :] - disc.x, px_y[:, None] - disc.y) < disc.r
            dense = np.array(TUMOUR) * (1 - nuclei / 2) + np.array(NUCLEUS) * nuclei / 2
            tile[inside] = dense[inside]
    return tile.round().astype(np.uint8)


def _side_of(x: float, y: float, r: float, tile: tuple[int, int, int]) -> bool | None:
    """Whether a tile ``x, y, side`` lies inside a circle, or outside; None where it is crossed."""
    left, top, side = tile
    near = math.hypot(max(left - x, 0, x - left - side), max(top - y, 0, y - top - side))
    far = math.hypot(max(x - left, left + side - x), max(y - top, top + side - y))
    return None if near < r <= far else far < r


def _kind(drawing: Drawing, tile: tuple[int, int, int]) -> tuple[object, ...] | None:
    """What decides a tile ``x, y, side``: the same for equal tiles; None where an edge crosses it."""
    tissue = _side_of(drawing.width / 2, drawing.height / 2, drawing.tissue_radius, tile)
    if tissue is False:
        return ("glass",)
    discs = [_side_of(disc.x, disc.y, disc.r, tile) for disc in drawing.discs]
    if tissue is None or None in discs:
        return None
    return any(discs), tile[0] % GRAIN_PX, tile[1] % GRAIN_PX


def _tiles(drawing: Drawing, step: int, shared: dict[int, int] | None = None) -> Iterator[bytes]:
    """The encoded tiles of one level, row by row; empty where a sparse slide has none.

    With ``shared`` a tile that equals an earlier one is empty too, and their two places are put there.
    """
    encoded: dict[tuple[object, ...], tuple[int, bytes]] = {}
    width, height = drawing.width // step, drawing.height // step
    corners = ((x * step, y * step) for y in range(0, height, TILE) for x in range(0, width, TILE))
    for place, (x, y) in enumerate(corners):
        if not _is_held(drawing, x, y, TILE * step):
            yield b""
            continue
        kind = _kind(drawing, (x, y, TILE * step))
        if kind in encoded:
            first, tile = encoded[kind]
            if shared is not None:
                shared[place], tile = first, b""
            yield tile
            continue
        tile = bytes(imagecodecs.jpeg_encode(draw(drawing, x, y, step), level=QUALITY))
        if kind is not None:
            encoded[kind] = place, tile
        yield tile


def _share(path: Path, shared: list[dict[int, int]]) -> None:
    """Let equal tiles of each level stand for one another: a TIFF may name the same bytes twice."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page, places in zip(tiff.pages, shared, strict=True):
            for name in ("TileOffsets", "TileByteCounts"):
                tag = page.tags[name]
                values = list(tag.value)
                for place, first in places.items():
                    values[place] = values[first]
                tag.overwrite(tuple(values))


def _is_held(drawing: Drawing, x: int, y: int, side: int) -> bool:
    if drawing.sparse is None:
        return True
    left, top, width, height = drawing.sparse
    return x < left + width and left < x + side and y < top + height and top < y + side


def write(path: Path, drawing: Drawing, *, share: bool = False) -> None:
    """Write the drawing as a tiled JPEG pyramid, one tile in memory and one of each repeated kind."""
    size = f"{drawing.width}x{drawing.height}"
    aperio = (
        f"Aperio drawing\r\n{size} [0,0 {size}] ({TILE}x{TILE}) JPEG/RGB Q={QUALITY}"
        f"|AppMag = {10 / drawing.mpp:g}|MPP = {drawing.mpp:g}"
    )
    per_cm = 10_000 / drawing.mpp
    shared: list[dict[int, int]] = [{} for _ in drawing.levels]
    with tifffile.TiffWriter(path, bigtiff=drawing.width * drawing.height > 1 << 31) as tiff:
        for level, step in enumerate(drawing.levels):
            tiff.write(
                _tiles(drawing, step, shared[level] if share else None),
                shape=(drawing.height // step, drawing.width // step, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=1 if level and drawing.sparse else 0,
                description=None if drawing.sparse else aperio,
                metadata=None,
                resolution=(per_cm / step, per_cm / step),
                resolutionunit="CENTIMETER",
            )
    if share:
        _share(path, shared)


def _numbers(text: str, count: int) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    if len(numbers) != count:
        msg = f"{count} numbers, separated by commas, are needed, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return numbers


def _disc(text: str) -> Disc:
    return Disc(*_numbers(text, 3))


def _rectangle(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _numbers(text, 4))


def main(arguments: list[str]) -> int:
    """Read the options, draw, and say what was drawn."""
    parser = argparse.ArgumentParser(description="Draw a slide that looks a little like H&E.")
    parser.add_argument("path", type=Path, help="the file to write: .svs, or .tiff with --sparse")
    parser.add_argument("--side", type=int, default=8192, help="width and height, level-0 pixels")
    parser.add_argument("--mpp", type=float, default=0.5, help="microns per level-0 pixel")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other nuclei")
    parser.add_argument("--glass", type=float, default=0.4, help="fraction without tissue, 0 to 1")
    parser.add_argument(
        "--disc", type=_disc, action="append", default=[], metavar="X,Y,R", help="a tumour, level-0 px"
    )
    parser.add_argument(
        "--sparse", type=_rectangle, metavar="X,Y,W,H", help="hold only the tiles of this rectangle"
    )
    parser.add_argument(
        "--share", action="store_true", help="store equal tiles once: a huge slide in seconds, and small"
    )
    parser.add_argument("--tissue-of", type=Path, metavar="SLIDE", help="a real slide whose tissue to repeat")
    given = parser.parse_args(arguments)
    drawing = Drawing(
        given.side,
        given.side,
        mpp=given.mpp,
        seed=given.seed,
        glass=given.glass,
        discs=tuple(given.disc),
        sparse=given.sparse,
        tissue=None if given.tissue_of is None else tissue_of(given.tissue_of),
    )
    write(given.path, drawing, share=given.share)
    print(f"{given.path}: {given.side} x {given.side} px at {given.mpp:g} um/px, {len(given.disc)} disc(s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
