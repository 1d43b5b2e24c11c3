"""One chunk of a stored map: written as zarr would write it, and flushed to the disk.

zarr opens an array, plans and hands a chunk from thread to thread in 7 ms of processor time; a block
has one on every level of the pyramid. Here it takes the compression and three system calls. The
bytes are zarr's own (a test compares them), and zarr reads them.
"""

import os
import uuid
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

__all__ = ["CHECKSUM", "LEVEL", "write_chunk"]

LEVEL, CHECKSUM = 1, True
"""Of zstd: the quickest, and with a checksum, without which a flipped bit passes."""


def write_chunk(path: Path, held: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> bytes:
    """Write the chunk of ``shape`` that holds ``held`` in its first corner and 0 elsewhere; return its bytes.

    A chunk that is all 0 is no file, as with zarr. The file appears whole, under its name, or not at all.

    Raises:
        OSError: it cannot be written; what stood there before is still there.
    """
    stored = b""
    if held.any():
        stored = bytes(Zstd(level=LEVEL, checksum=CHECKSUM).encode(_padded(held, shape)))
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, stored)
    else:
        path.unlink(missing_ok=True)
    for folder in (path.parent, path.parent.parent):
        if folder.exists():
            _flush(folder)
    return stored


def _padded(held: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    if held.shape == shape:
        return np.ascontiguousarray(held)
    chunk = np.zeros(shape, np.uint8)
    chunk[tuple(map(slice, held.shape))] = held
    return chunk


def _write_whole(path: Path, content: bytes) -> None:
    """Write under a name that no other process takes, flush, and rename."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _flush(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
