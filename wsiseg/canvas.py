"""The probability map on disk, and the ledger of what of it is done.

The map is an OME-Zarr 0.5 image (NGFF 0.5, https://ngff.openmicroscopy.org/0.5/) of shape
(2, Y, X) uint8 at canvas resolution, with a pyramid: channel 0 is the mean tumour
probability and channel 1 the standard deviation across folds, both times 255. One block
owns one chunk of every pyramid level, so a block is written once, by one task, without a
lock. Level 0 is never blown up to the slide's resolution.

A chunk file proves nothing by itself (a blank one is not even written): a block is done
when its line stands in the ledger.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec
from zarr.errors import BaseZarrError

from wsiseg.chunks import CHECKSUM, LEVEL, write_chunk
from wsiseg.errors import CanvasError, OutputError
from wsiseg.geometry import Box, Canvas, Scale
from wsiseg.grid import Block, Grid
from wsiseg.ngff import CHANNELS, LABELS, OMERO, multiscales

__all__ = ["CHANNELS", "ProbabilityMap", "halved"]

Map = npt.NDArray[np.uint8]
Place = tuple[int, int, int, int]
LEVEL_ZERO_ENOUGH = 512
"""The pyramid ends at the first level whose longer side is no longer than this, in pixels."""


def halved(map_CYX: Map) -> Map:
    """The map at half the resolution: means of 2 × 2 pixels, rounded half up, in integers.

    An odd last row or column counts twice, as if the map went on with it.

    >>> halved(np.array([[[0, 1, 9], [2, 3, 9]]], np.uint8)).tolist()
    [[[2, 9]]]
    """
    _, height, width = map_CYX.shape
    if height % 2 or width % 2:
        map_CYX = np.pad(map_CYX, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    pair_CYX = np.ascontiguousarray(map_CYX).view(np.uint16)  # two neighbours in a row, in either order
    sum_CYX = (pair_CYX & 255) + (pair_CYX >> 8)
    return ((sum_CYX[:, ::2] + sum_CYX[:, 1::2] + 2) >> 2).astype(np.uint8)


def _depth(grid: Grid) -> int:
    depth, side, chunk = 1, max(grid.width, grid.height), grid.chunk
    while side > LEVEL_ZERO_ENOUGH and chunk % 2 == 0 and chunk > 2:  # noqa: PLR2004 - a chunk keeps a pixel
        depth, side, chunk = depth + 1, -(-side // 2), chunk // 2
    return depth


@dataclass(frozen=True, slots=True)
class ProbabilityMap:
    """One slide's map: a folder ``probability.zarr`` and the grid it is cut by.

    Holds no open handle, so it may travel to a worker.
    """

    path: Path
    grid: Grid

    @classmethod
    def create(cls, path: Path, grid: Grid, *, scale: Scale, mpp: float, about: dict[str, Any]) -> Self:
        """Write the metadata of an empty map; ``mpp`` is µm per level-0 pixel.

        ``about`` goes into the attributes under ``wsiseg``: whatever a reader of the map
        should know without the manifest (JSON values).

        Raises:
            OutputError: the folder cannot be written.
        """
        factors = [scale.factor * 2**level for level in range(_depth(grid))]
        image = multiscales("wsiseg", scale, mpp, factors, channels=True)
        ome = {"version": "0.5", "multiscales": [image], "omero": OMERO}
        cut = {"width": grid.width, "height": grid.height, "patch": grid.patch, "margin": grid.margin}
        about = {**about, "grid": {**cut, "per_block": grid.per_block}}
        with _writable(path):
            group = zarr.create_group(path, zarr_format=3, attributes={"ome": ome, "wsiseg": about})
            for level in range(len(factors)):
                size, chunk = 2**level, grid.chunk // 2**level
                shape = (len(CHANNELS), -(-grid.height // size), -(-grid.width // size))
                _array(group, str(level), shape, (len(CHANNELS), chunk, chunk), ("c", "y", "x"))
        return cls(path, grid)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The map in a folder, with the grid it was made by.

        Raises:
            CanvasError: there is no map of ours.
        """
        try:
            attributes = zarr.open_group(path, mode="r").attrs.asdict()
            return cls(path, Grid(**cast("dict[str, Any]", attributes["wsiseg"])["grid"]))
        except (OSError, BaseZarrError, KeyError, TypeError, ValueError) as error:
            msg = f"{path} is not a wsiseg probability map ({error}); segment the slide first"
            raise CanvasError(msg) from error

    def write_tissue(self, mask_YX: npt.NDArray[np.bool_], *, scale: Scale, mpp: float) -> None:
        """Store the tissue mask as an NGFF label; ``scale.factor`` is level-0 px per mask px.

        A label has as many pyramid levels as its image (NGFF 0.5 section 3.6); a coarse pixel
        is tissue where any of it is.

        Raises:
            OutputError: the folder cannot be written.
        """
        with _writable(self.path):
            group = self._label("tissue", scale=scale, mpp=mpp)
            for level, level_YX in enumerate(_coarser(mask_YX.astype(np.uint8), self.depth)):
                chunk = (min(1024, level_YX.shape[0]), min(1024, level_YX.shape[1]))
                array = _array(group, str(level), level_YX.shape, chunk, ("y", "x"))
                array[...] = level_YX

    def add_unreadable(self, *, scale: Scale, mpp: float) -> None:
        """Make an empty NGFF label for the places of which nothing is known; as the map, block by block.

        Raises:
            OutputError: the folder cannot be written.
        """
        with _writable(self.path):
            group = self._label("unreadable", scale=scale, mpp=mpp)
            for level in range(self.depth):
                size, chunk = 2**level, self.grid.chunk // 2**level
                shape = (-(-self.grid.height // size), -(-self.grid.width // size))
                _array(group, str(level), shape, (chunk, chunk), ("y", "x"))

    def _label(self, name: str, *, scale: Scale, mpp: float) -> zarr.Group:
        """A new group below ``labels``, which lists it; one of this name makes way."""
        labels = zarr.open_group(self.path, mode="r+").require_group("labels")
        known = cast("dict[str, Any]", labels.attrs.asdict().get("ome", {})).get("labels", [])
        labels.attrs["ome"] = {"version": "0.5", "labels": sorted({*known, name})}
        factors = [scale.factor * 2**level for level in range(self.depth)]
        image = multiscales(name, scale, mpp, factors, channels=False)
        about = {"version": "0.5", "multiscales": [image], "image-label": LABELS[name]}
        return labels.create_group(name, overwrite=True, attributes={"ome": about})

    def tissue(self) -> tuple[npt.NDArray[np.bool_], float] | None:
        """The stored tissue mask (Y, X) and its µm per pixel; None where tissue was not looked for.

        Raises:
            CanvasError: the mask is damaged.
        """
        path = self.path / "labels" / "tissue"
        if not path.exists():
            return None
        with _intact(str(path)):
            about = cast("dict[str, Any]", zarr.open_group(path, mode="r").attrs["ome"])
            scale = about["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
            return np.asarray(self._array("labels/tissue/0")[...]) > 0, float(scale[-1])

    @property
    def about(self) -> dict[str, Any]:
        """What ``create`` was told."""
        return cast("dict[str, Any]", zarr.open_group(self.path, mode="r").attrs["wsiseg"])

    def write(self, block: Block, map_CYX: Map) -> str:
        """Write a block's chunk on every pyramid level, flushed; return the sha256 (hex) of level 0's.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        assert map_CYX.shape == (len(CHANNELS), block.core.h, block.core.w), (
            f"{map_CYX.shape} for {block.core}"
        )
        stored, level_CYX = [], map_CYX
        with _writable(self.path):
            for level in range(self.depth):
                side = self.grid.chunk // 2**level
                shape = len(CHANNELS), side, side
                stored.append(write_chunk(self._chunk(block, level), level_CYX, shape))
                level_CYX = halved(level_CYX)
        return hashlib.sha256(stored[0]).hexdigest()

    def write_unreadable(self, block: Block, places: Iterable[Box[Canvas]]) -> None:
        """Mark places of a block, in canvas pixels, as ones of which nothing is known.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        row, column = block.index
        with _writable(self.path):
            for level, level_YX in enumerate(_coarser(_marked(block, places), self.depth)):
                chunk = self.grid.chunk // 2**level
                path = self.path / "labels" / "unreadable" / str(level) / "c" / str(row) / str(column)
                write_chunk(path, level_YX, (chunk, chunk))

    def unreadable(self, box: Box[Canvas]) -> npt.NDArray[np.bool_]:
        """The canvas pixels (Y, X) of a box of which nothing is known.

        Raises:
            CanvasError: a stored chunk is damaged.
        """
        if not (self.path / "labels" / "unreadable").exists():
            return np.zeros((box.h, box.w), np.bool_)
        with _intact(f"{self.path} at {box}"):
            return np.asarray(self._array("labels/unreadable/0")[box.y : box.bottom, box.x : box.right]) > 0

    def read(self, box: Box[Canvas], level: int = 0) -> Map:
        """The map (2, Y, X) in a box, given in the pixels of a pyramid level.

        Raises:
            CanvasError: a stored chunk is damaged (each carries a checksum).
        """
        with _intact(f"{self.path} at {box}"):
            found = self._array(str(level))[:, box.y : box.bottom, box.x : box.right]
            return np.asarray(found, np.uint8)

    def holds(self, block: Block, sha256: str, unreadable: Iterable[Place] = ()) -> bool:
        """Whether a block's stored chunk is the one the ledger speaks of, and intact on every level.

        So must be its mark of the places ``(x, y, w, h)`` that could not be decoded.
        """
        row, column = block.index
        first = self._chunk(block, 0)
        try:
            if hashlib.sha256(first.read_bytes() if first.exists() else b"").hexdigest() != sha256:
                return False
            level_CYX = self.read(block.core)
            marked_YX = _marked(block, (Box(*place) for place in unreadable))
            if not np.array_equal(self.unreadable(block.core), marked_YX):
                return False
            for level in range(1, self.depth):
                level_CYX, side = halved(level_CYX), self.grid.chunk // 2**level
                height, width = level_CYX.shape[1:]
                if not np.array_equal(
                    self.read(Box(column * side, row * side, width, height), level), level_CYX
                ):
                    return False
        except (CanvasError, OSError):
            return False
        return True

    def sweep(self) -> None:
        """Take away what a process that was killed while it wrote a chunk left half-written.

        Raises:
            OutputError: it cannot be taken away.
        """
        with _writable(self.path):
            for stray in self.path.rglob("*.partial"):
                stray.unlink()

    @property
    def depth(self) -> int:
        """The number of pyramid levels."""
        return _depth(self.grid)

    def _chunk(self, block: Block, level: int) -> Path:
        """The file of a block's chunk on a pyramid level."""
        row, column = block.index
        return self.path / str(level) / "c" / "0" / str(row) / str(column)

    def _array(self, name: str) -> zarr.Array[Any]:
        return zarr.open_array(self.path / name, mode="r", zarr_format=3)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Make a sentence of what the disk raises where something cannot be stored."""
    try:
        yield
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror or error}"
        raise OutputError(msg) from error


@contextmanager
def _intact(what: str) -> Iterator[None]:
    """Make a sentence of what zarr raises where something stored is damaged or lost."""
    try:
        yield
    except (OSError, BaseZarrError, RuntimeError, ValueError, LookupError, TypeError) as error:
        msg = f"{what} is damaged ({error}); segment the slide again with --overwrite"
        raise CanvasError(msg) from error


def _marked(block: Block, places: Iterable[Box[Canvas]]) -> Map:
    """A block's core (Y, X), 1 in the places and 0 elsewhere."""
    marked_YX = np.zeros((block.core.h, block.core.w), np.uint8)
    for place in places:
        marked_YX[place.within(block.core)] = 1
    return marked_YX


def _coarser(mask_YX: Map, depth: int) -> Iterator[Map]:
    """A mask of 0 and 1 on every pyramid level: a coarse pixel is 1 where any of it is."""
    for _ in range(depth):
        yield mask_YX
        mask_YX = (halved(255 * mask_YX[None])[0] > 0).astype(np.uint8)


def _array(
    group: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], axes: tuple[str, ...]
) -> zarr.Array[Any]:
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype="uint8",
        fill_value=0,
        compressors=[ZstdCodec(level=LEVEL, checksum=CHECKSUM)],
        dimension_names=axes,
    )
