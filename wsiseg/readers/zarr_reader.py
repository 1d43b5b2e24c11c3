"""Slides as OME-Zarr images: NGFF 0.4 (zarr v2) and 0.5 (zarr v3), https://ngff.openmicroscopy.org.

Axes are taken in the order that the metadata names them. Of time, depth and other axes there may
be one step only, of channels three (RGB) or one (grey). A chunk that the store does not hold is
white: no data.
"""

import json
import logging
import math
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr

from wsiseg.errors import SlideOpenError
from wsiseg.readers.levels import Facts, Level, Raw, whiten
from wsiseg.readers.resolution import OME_UM, UM

__all__ = ["ZarrLevels", "is_zarr"]

log = logging.getLogger(__name__)

MARKS = ("zarr.json", ".zgroup", ".zattrs")
"""One of these lies in the folder of every zarr group."""
CHUNK_BYTES = 1 << 28
"""The largest chunk, decoded, that is taken on."""
RGB = ["FF0000", "00FF00", "0000FF"]
NAMES = {"t": "time points", "z": "focal planes", "c": "channels"}


def is_zarr(path: Path) -> bool:
    """Whether a path is the folder of a zarr group."""
    try:
        return path.is_dir() and any((path / mark).is_file() for mark in MARKS)
    except OSError:  # not to be reached: for others to say
        return False


class ZarrLevels:
    """An OME-Zarr image as zarr sees it."""

    @staticmethod
    def knows(path: Path) -> bool:
        """Whether it is the folder of a zarr group."""
        return is_zarr(path)

    def __init__(self, path: Path) -> None:
        self._closed = False
        attributes = _attributes(path)
        image = _image(path, attributes)
        self._axes = [_axis_name(axis) for axis in image["axes"]]
        _check_axes(path.name, self._axes)
        group = zarr.open_group(path, mode="r", use_consolidated=False)
        datasets = image["datasets"]
        if lost := [one["path"] for one in datasets if one["path"] not in group]:
            msg = f"{path.name} has lost its level {lost[0]!r}: copy it again"
            raise SlideOpenError(msg)
        self._arrays = [cast("zarr.Array[Any]", group[one["path"]]) for one in datasets]
        for array in self._arrays:
            _check_array(path.name, array, self._axes)
        at_x, at_y = self._axes.index("x"), self._axes.index("y")
        sizes = [Level(array.shape[at_x], array.shape[at_y]) for array in self._arrays]
        if any(b.width >= a.width or b.height >= a.height for a, b in pairwise(sizes)):
            msg = f"{path.name} has levels that do not get smaller: {sizes}; convert it again"
            raise SlideOpenError(msg)
        _check_channels(path.name, attributes)
        self._held = [
            self._held_chunks(path.name, path / one["path"], array)
            for one, array in zip(datasets, self._arrays, strict=True)
        ]
        self._facts = Facts(
            reader=f"zarr {zarr.__version__}",
            vendor=f"ome-zarr {image.get('version') or attributes.get('version', '?')}",
            levels=tuple(sizes),
            bounds=None,
            mpp=_mpp(image, self._axes),
            mpp_source="multiscales scale",
            objective=None,
        )

    @property
    def facts(self) -> Facts:
        """What the metadata says."""
        return self._facts

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """The pixels ``x, y, w, h`` of one level; white where the store holds no chunk."""
        if self._closed:
            msg = "the slide is closed"
            raise ValueError(msg)
        x, y, w, h = box
        array, held_YX = self._arrays[level], self._held[level]
        cut = {"y": slice(y, y + h), "x": slice(x, x + w), "c": slice(None)}
        read = np.asarray(array[tuple(cut.get(axis, 0) for axis in self._axes)])
        order = [axis for axis in self._axes if axis in cut]
        if "c" not in order:
            read, order = read[..., None], [*order, "c"]
        pixels_YXC = cast("npt.NDArray[np.uint8]", read).transpose([order.index(axis) for axis in "yxc"])
        if pixels_YXC.shape[2] == 1:
            pixels_YXC = np.repeat(pixels_YXC, 3, axis=2)
        rgb_YX3 = np.ascontiguousarray(pixels_YXC)
        if not held_YX.all():
            whiten(rgb_YX3, ~held_YX, self._chunk_px(array), box)
        return Raw(rgb_YX3)

    def close(self) -> None:
        """Let go of the store, which holds nothing open."""
        self._closed = True

    def _chunk_px(self, array: "zarr.Array[Any]") -> tuple[int, int]:
        stored = array.shards or array.chunks
        return stored[self._axes.index("y")], stored[self._axes.index("x")]

    def _held_chunks(self, name: str, folder: Path, array: "zarr.Array[Any]") -> npt.NDArray[np.bool_]:
        """Which chunks (rows, columns) the store holds, of any channel."""
        chunk_h, chunk_w = self._chunk_px(array)
        at_y, at_x = self._axes.index("y"), self._axes.index("x")
        shape_YX = math.ceil(array.shape[at_y] / chunk_h), math.ceil(array.shape[at_x] / chunk_w)
        held_YX = np.zeros(shape_YX, np.bool_)
        for key in _stored_keys(folder, array.ndim):
            if key[at_y] < shape_YX[0] and key[at_x] < shape_YX[1]:
                held_YX[key[at_y], key[at_x]] = True
        if not held_YX.any():
            msg = f"{name} has lost every chunk of its level {folder.name!r}: copy it again"
            raise SlideOpenError(msg)
        if not held_YX.all():
            lost = held_YX.size - int(held_YX.sum())
            log.warning(
                "%s: %d of %d chunks of level %r are not there; white", name, lost, held_YX.size, folder.name
            )
        return held_YX


def _attributes(path: Path) -> dict[str, Any]:
    """The OME metadata of a group: under ``ome`` since 0.5, bare before."""
    if (path / "zarr.json").is_file():
        attributes = json.loads((path / "zarr.json").read_bytes()).get("attributes", {})
    elif (path / ".zattrs").is_file():
        attributes = json.loads((path / ".zattrs").read_bytes())
    else:
        attributes = {}
    found: dict[str, Any] = attributes.get("ome", attributes)
    return found


def _image(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    """The first multiscale image of a group, which is the one meant where nothing is said."""
    if "multiscales" in attributes and "image-label" not in attributes:
        image: dict[str, Any] = next(iter(attributes["multiscales"]), {})
        if image.get("axes") and image.get("datasets"):
            return image
        msg = f"{path.name} names no image, or one without axes or levels, in its metadata; convert it again"
        raise SlideOpenError(msg)
    if "bioformats2raw.layout" in attributes:
        msg = f"{path.name} holds several images; give the one that is the slide, such as {path.name}/0"
    elif "plate" in attributes or "well" in attributes:
        msg = f"{path.name} is a plate of wells, not a slide; give one image of it"
    elif "image-label" in attributes:
        msg = f"{path.name} is a label image, not a slide"
    else:
        msg = f"{path.name} is a zarr without an OME-Zarr image in it"
    raise SlideOpenError(msg)


def _axis_name(axis: object) -> str:
    """An axis's name in small letters: an object since 0.4, a bare name before."""
    return str(axis["name"] if isinstance(axis, dict) else axis).lower()


def _check_axes(name: str, axes: list[str]) -> None:
    if len(set(axes)) < len(axes) or not {"y", "x"} <= set(axes):
        msg = f"{name} has the axes {axes}, not one y and one x; convert it again"
        raise SlideOpenError(msg)


def _check_array(name: str, array: "zarr.Array[Any]", axes: list[str]) -> None:
    """Refuse what is not one plane of 8-bit RGB or grey, or stored in huge pieces."""
    if array.ndim != len(axes):
        msg = f"{name} has {array.ndim} dimensions but names the axes {axes}; convert it again"
        raise SlideOpenError(msg)
    if array.dtype != np.uint8:
        msg = f"{name} holds {array.dtype} pixels, not 8-bit ones; convert it as 8-bit RGB"
        raise SlideOpenError(msg)
    for axis, count in zip(axes, array.shape, strict=True):
        if count == 0 or (count > 1 and axis not in "yxc") or (axis == "c" and count not in {1, 3}):
            what = NAMES.get(axis, f"steps along {axis}")
            msg = f"{name} holds {count} {what}; convert one plane of it as 8-bit RGB"
            raise SlideOpenError(msg)
    if math.prod(array.chunks) > CHUNK_BYTES:
        msg = f"{name} is stored in chunks of {array.chunks}, too large to decode; make them smaller"
        raise SlideOpenError(msg)


def _check_channels(name: str, attributes: dict[str, Any]) -> None:
    """Refuse channels that the rendering settings (``omero``) do not paint red, green and blue."""
    channels = attributes.get("omero", {}).get("channels", [])
    colours = [str(one.get("color", "")).upper().removeprefix("#") for one in channels]
    if len(colours) == len(RGB) and all(colours) and colours != RGB:
        labels = ", ".join(str(one.get("label", "?")) for one in channels)
        msg = f"{name} holds the channels {labels}, not red, green and blue: it is not brightfield"
        raise SlideOpenError(msg)


def _mpp(image: dict[str, Any], axes: list[str]) -> tuple[float | None, float | None]:
    """Microns per pixel of the first level along x and y; None where scale or unit is missing."""
    transforms = [*image["datasets"][0].get("coordinateTransformations", [])]
    transforms += image.get("coordinateTransformations", [])
    scales = [one["scale"] for one in transforms if one.get("type") == "scale"]

    def along(axis: str) -> float | None:
        at = axes.index(axis)
        said = image["axes"][at]
        named = str(said.get("unit")) if isinstance(said, dict) else ""
        unit = UM.get(named.lower(), OME_UM.get(named))
        return None if unit is None or not scales else math.prod(float(one[at]) for one in scales) * unit

    return along("x"), along("y")


def _stored_keys(folder: Path, axes: int) -> Iterator[tuple[int, ...]]:
    """The indices of the chunks in an array's folder, whichever way their names are written."""
    for place, _, files in os.walk(folder):
        inner = Path(place).relative_to(folder).parts
        for file in files:
            parts = [*inner, *file.split(".")]
            if parts[0] == "c":
                parts = parts[1:]
            if len(parts) == axes and all(part.isdecimal() for part in parts):
                yield tuple(int(part) for part in parts)
