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
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec
from zarr.errors import BaseZarrError

from wsiseg.errors import CanvasError, OutputError
from wsiseg.geometry import Box, Canvas, Scale
from wsiseg.grid import Block, Grid
from wsiseg.ngff import CHANNELS, OMERO, multiscales

__all__ = ["CHANNELS", "ProbabilityMap", "halved"]

Map = npt.NDArray[np.uint8]
LEVEL_ZERO_ENOUGH = 512
"""The pyramid ends at the first level whose longer side is no longer than this, in pixels."""


def halved(map_CYX: Map) -> Map:
    """The map at half the resolution: means of 2 × 2 pixels, rounded half up, in integers.

    An odd last row or column counts twice, as if the map went on with it.

    >>> halved(np.array([[[0, 1, 9], [2, 3, 9]]], np.uint8)).tolist()
    [[[2, 9]]]
    """
    _, height, width = map_CYX.shape
    even = np.pad(map_CYX, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge").astype(np.uint16)
    total = even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


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
        image = multiscales("tumor probability", scale, mpp, factors, channels=True)
        ome = {"version": "0.5", "multiscales": [image], "omero": OMERO}
        cut = {"width": grid.width, "height": grid.height, "patch": grid.patch, "margin": grid.margin}
        about = {**about, "grid": {**cut, "per_block": grid.per_block}}
        try:
            group = zarr.create_group(path, zarr_format=3, attributes={"ome": ome, "wsiseg": about})
            for level in range(len(factors)):
                size, chunk = 2**level, grid.chunk // 2**level
                shape = (len(CHANNELS), -(-grid.height // size), -(-grid.width // size))
                _array(group, str(level), shape, (len(CHANNELS), chunk, chunk), ("c", "y", "x"))
        except OSError as error:
            raise _unwritable(path, error) from error
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
        try:
            labels = zarr.open_group(self.path, mode="r+").create_group(
                "labels", overwrite=True, attributes={"ome": {"version": "0.5", "labels": ["tissue"]}}
            )
            factors = [scale.factor * 2**level for level in range(self.depth)]
            image = multiscales("tissue", scale, mpp, factors, channels=False)
            colors = [{"label-value": 1, "rgba": [0, 160, 80, 96]}]
            about = {"version": "0.5", "multiscales": [image], "image-label": {"colors": colors}}
            group = labels.create_group("tissue", attributes={"ome": about})
            level_YX = mask_YX.astype(np.uint8)
            for level in range(self.depth):
                chunk = (min(1024, level_YX.shape[0]), min(1024, level_YX.shape[1]))
                array = _array(group, str(level), level_YX.shape, chunk, ("y", "x"))
                array[...] = level_YX
                level_YX = (halved(255 * level_YX[None])[0] > 0).astype(np.uint8)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def tissue(self) -> npt.NDArray[np.bool_]:
        """The stored tissue mask (Y, X)."""
        return np.asarray(self._array("labels/tissue/0")[...]) > 0

    @property
    def about(self) -> dict[str, Any]:
        """What ``create`` was told."""
        return cast("dict[str, Any]", zarr.open_group(self.path, mode="r").attrs["wsiseg"])

    def write(self, block: Block, map_CYX: Map) -> str:
        """Write a block's chunk on every pyramid level, flushed to disk; return level 0's sha256 (hex).

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        assert map_CYX.shape == (len(CHANNELS), block.core.h, block.core.w), (
            f"{map_CYX.shape} for {block.core}"
        )
        row, column = block.index
        level_CYX = map_CYX
        try:
            for level in range(_depth(self.grid)):
                chunk = self.grid.chunk // 2**level
                rows = slice(row * chunk, row * chunk + level_CYX.shape[1])
                columns = slice(column * chunk, column * chunk + level_CYX.shape[2])
                self._array(str(level), "r+")[:, rows, columns] = level_CYX
                _flush(self.path / str(level) / "c" / "0" / str(row) / str(column))
                level_CYX = halved(level_CYX)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return _sha256(map_CYX)

    def read(self, box: Box[Canvas], level: int = 0) -> Map:
        """The map (2, Y, X) in a box, given in the pixels of a pyramid level.

        Raises:
            CanvasError: a stored chunk is damaged (each carries a checksum).
        """
        try:
            found = self._array(str(level))[:, box.y : box.bottom, box.x : box.right]
        except (OSError, BaseZarrError, RuntimeError, ValueError) as error:
            msg = f"{self.path} is damaged at {box} ({error}); segment the slide again with --overwrite"
            raise CanvasError(msg) from error
        return np.asarray(found, np.uint8)

    def holds(self, block: Block, sha256: str) -> bool:
        """Whether a block's stored chunk is the one the ledger speaks of, and intact on every level."""
        row, column = block.index
        try:
            level_CYX = self.read(block.core)
            if _sha256(level_CYX) != sha256:
                return False
            for level in range(1, self.depth):
                level_CYX, side = halved(level_CYX), self.grid.chunk // 2**level
                height, width = level_CYX.shape[1:]
                if not np.array_equal(
                    self.read(Box(column * side, row * side, width, height), level), level_CYX
                ):
                    return False
        except CanvasError:
            return False
        return True

    def sweep(self) -> None:
        """Take away what a process that was killed while it wrote a chunk left half-written.

        Raises:
            OutputError: it cannot be taken away.
        """
        try:
            for stray in self.path.rglob("*.partial"):
                stray.unlink()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    @property
    def depth(self) -> int:
        """The number of pyramid levels."""
        return _depth(self.grid)

    def _array(self, name: str, mode: Any = "r") -> zarr.Array[Any]:
        return zarr.open_array(self.path / name, mode=mode, zarr_format=3)


def _array(
    group: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], axes: tuple[str, ...]
) -> zarr.Array[Any]:
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        dtype="uint8",
        fill_value=0,
        compressors=[ZstdCodec(level=1, checksum=True)],
        dimension_names=axes,
    )


def _sha256(map_CYX: Map) -> str:
    return hashlib.sha256(np.ascontiguousarray(map_CYX).tobytes()).hexdigest()


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {error.strerror or error}")


def _flush(path: Path) -> None:
    """Flush a file and the folder entry that names it; a blank chunk has no file."""
    for part in (path, path.parent, path.parent.parent):
        if part.exists():
            handle = os.open(part, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
