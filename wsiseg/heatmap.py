"""``heatmap.ome.tif``: the stored map as a picture that QuPath opens beside the slide.

QuPath does not yet read OME-Zarr 0.5, hence an OME-TIFF: uint8, tiled, with the map's own
pyramid, one page per channel. Its pixel (0, 0) is the corner of the slide's bounds, which is
QuPath's (0, 0), and its physical pixel size is the canvas'.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsiseg.canvas import CHANNELS, ProbabilityMap
from wsiseg.errors import OutputError
from wsiseg.geometry import Box, Canvas

__all__ = ["HEATMAP", "write_heatmap"]

HEATMAP = "heatmap.ome.tif"
TILE_PX = 512
COLORS_RGBA = (0xC80000FF, 0x0064C8FF)
UM_PER_CM = 10_000


def write_heatmap(path: Path, canvas: ProbabilityMap, *, mpp: float) -> None:
    """Write the map as a pyramidal OME-TIFF; ``mpp`` is µm per canvas pixel.

    It is written row of tiles by row of tiles, and appears under its name when it is whole.

    Raises:
        CanvasError: the map is damaged.
        OutputError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with tifffile.TiffWriter(partial, bigtiff=True, ome=False) as tiff:
            for level in range(canvas.depth):
                _write_level(tiff, canvas, level, mpp * 2**level)
        partial.replace(path)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror or error}"
        raise OutputError(msg) from error
    finally:
        partial.unlink(missing_ok=True)


def _write_level(tiff: Any, canvas: ProbabilityMap, level: int, mpp: float) -> None:
    """Append one pyramid level: the first as pages, the others as sub-images of these."""
    size = 2**level
    width, height = -(-canvas.grid.width // size), -(-canvas.grid.height // size)
    first: dict[str, Any] = {
        "description": _ome_xml(width, height, mpp),
        "subifds": canvas.depth - 1,
        "software": "wsiseg",
    }
    tiff.write(
        _tiles(canvas, level, width, height),
        shape=(len(CHANNELS), height, width),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        photometric="minisblack",
        compression="zlib",
        resolution=(UM_PER_CM / mpp, UM_PER_CM / mpp),
        resolutionunit="CENTIMETER",
        metadata=None,
        **(first if level == 0 else {"subfiletype": 1}),
    )


def _tiles(canvas: ProbabilityMap, level: int, width: int, height: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The tiles of a level, channel by channel and row by row; those at the rim are smaller."""
    for channel in range(len(CHANNELS)):
        for y in range(0, height, TILE_PX):
            strip_YX = canvas.read(Box[Canvas](0, y, width, min(TILE_PX, height - y)), level)[channel]
            for x in range(0, width, TILE_PX):
                yield np.ascontiguousarray(strip_YX[:, x : x + TILE_PX])


def _ome_xml(width: int, height: int, mpp: float) -> str:
    """The least that OME-XML 2016-06 asks for; no name, no date, no random id."""
    channels = "".join(
        f'<Channel ID="Channel:0:{number}" Name="{name}" SamplesPerPixel="1" Color="{_signed(rgba)}"/>'
        for number, (name, rgba) in enumerate(zip(CHANNELS, COLORS_RGBA, strict=True))
    )
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{schema} {schema}/ome.xsd" Creator="wsiseg">'
        '<Image ID="Image:0" Name="wsiseg"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
        f'SizeX="{width}" SizeY="{height}" SizeC="{len(CHANNELS)}" SizeZ="1" SizeT="1" '
        f'PhysicalSizeX="{mpp!r}" PhysicalSizeY="{mpp!r}">{channels}'
        f'<TiffData IFD="0" PlaneCount="{len(CHANNELS)}"/></Pixels></Image></OME>'
    )


def _signed(rgba: int) -> int:
    """A colour as OME-XML writes it: 32 bits with a sign.

    >>> _signed(0xFF0000FF)
    -16776961
    """
    value: int = struct.unpack(">i", struct.pack(">I", rgba))[0]
    return value
