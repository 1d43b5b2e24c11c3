"""What can be said of a slide's files before a library sees them: are they files, and which bytes."""

import hashlib
import logging
import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from wsiseg.errors import SlideOpenError
from wsiseg.readers.content import TIFF

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_extent", "check_file", "fingerprint", "side_cars"]

logging.getLogger("tifffile").propagate = False  # it logs what the slide libraries judge

TILE_PX = 8192 * 8192
"""The largest tile that is taken on: 256 MiB when decoded to RGBA."""
HEADER = 8
"""Bytes at a TIFF's beginning in which no tile lies."""
PAGES = 64
"""So many directories of a TIFF are looked at."""
EXTENT_PX = 2**38
"""The largest slide that is taken on, in level-0 pixels: 13 × 13 cm at 0.25 µm."""
_MIRAX_PART = re.compile(r"^\s*(?:FILE_\d+|INDEXFILE)\s*=\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_VMS_PART = re.compile(r"^\s*(?:ImageFile|MapFile)\b[^=]*=\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)


def check_file(path: Path) -> None:
    """Refuse what is certainly no slide, without opening anything that could hang.

    Raises:
        SlideOpenError: absent, a folder, a pipe, empty, unreadable, a git-lfs pointer, a web page, a
            TIFF of giant tiles, or without a file that belongs beside it.
    """
    try:
        _check_kind(path)
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise SlideOpenError(msg) from error
    start, name = head.lstrip().lower(), path.name
    if not head:
        msg = f"{name} is empty (0 bytes); copy it again"
    elif head.startswith(b"version https://git-lfs"):
        msg = f"{name} is a git-lfs pointer, not the slide itself; run `git lfs pull`"
    elif start.startswith((b"<!doctype html", b"<html")):
        msg = f"{name} is a web page saved under a slide's name; download the slide again"
    else:
        _check_tiles(path, head)
        _check_parts(path)
        return
    raise SlideOpenError(msg)


def _check_kind(path: Path) -> None:
    """Refuse what is no file."""
    name = path.name
    if path.is_dir():
        msg = f"{name} is a folder, not a slide; give the slide files in it"
        raise SlideOpenError(msg)
    if not path.exists():
        msg = f"{path} does not exist"
        raise SlideOpenError(msg)
    if not path.is_file():
        msg = f"{name} is a pipe or a device, not a file"
        raise SlideOpenError(msg)


def _check_tiles(path: Path, head: bytes) -> None:
    """Refuse a TIFF that declares tiles too large to decode: OpenSlide would abort the process."""
    if not head.startswith(TIFF):
        return
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in islice(tiff.pages, PAGES) if page.is_tiled]
            beyond = any(_beyond(page, tiff.filehandle.size) for page in pages)
            bare = bool(pages) and tiff.pages.first is pages[0] and not any(pages[0].databytecounts)
            found = [f"{page.tilewidth} × {page.tilelength}" for page in pages if _tile_px(page) > TILE_PX]
    except Exception:  # noqa: BLE001 - whatever tifffile makes of a broken file, the slide libraries judge it
        return
    if beyond:
        msg = f"{path.name} is damaged or cut short: a tile is said to lie outside the file; copy it again"
        raise SlideOpenError(msg)
    if bare:
        msg = f"{path.name} holds none of its tiles: it was not written to its end; export or scan it again"
        raise SlideOpenError(msg)
    if found:
        msg = f"{path.name} is stored in tiles of {found[0]} pixels, too large to decode; re-save it tiled"
        raise SlideOpenError(msg)


def _beyond(page: Any, size: int) -> bool:
    """Whether a tile is said to lie in the file's header or past its end; one of no bytes lies nowhere."""
    offsets_N, counts_N = (np.asarray(one, np.uint64) for one in (page.dataoffsets, page.databytecounts))
    if len(offsets_N) != len(counts_N):
        return False
    held_N = counts_N > 0
    return bool(((offsets_N < HEADER) | (counts_N > size) | (offsets_N + counts_N > size))[held_N].any())


def _tile_px(page: Any) -> int:
    return int(page.tilewidth) * int(page.tilelength)


def _check_parts(path: Path) -> None:
    """Refuse a slide whose index names files that are not there, or are no files."""
    kind = path.suffix.lower()
    if kind == ".mrxs":
        index, pattern = path.with_suffix("") / "Slidedat.ini", _MIRAX_PART
    elif kind in {".vms", ".vmu"}:
        index, pattern = path, _VMS_PART
    else:
        return
    parts = [index]
    if index.is_file():
        parts += [index.parent / name for name in pattern.findall(index.read_text("utf-8", errors="replace"))]
    if lost := [part for part in parts if not part.is_file()]:
        some = "" if len(lost) == 1 else f" and {len(lost) - 1} others"
        where = lost[0].relative_to(path.parent)
        msg = f"{path.name} has lost {where}{some}, which belong beside it: copy the slide with all its files"
        raise SlideOpenError(msg)


def check_extent(name: str, width: int, height: int) -> None:
    """Refuse what is larger than any slide of glass: its header is damaged.

    Raises:
        SlideOpenError: more than ``EXTENT_PX`` pixels.
    """
    if width * height > EXTENT_PX:
        msg = f"{name} says that it has {width} × {height} pixels, more than any slide: its header is damaged"
        raise SlideOpenError(msg)


def side_cars(path: Path, vendor: str) -> list[Path]:
    """The files beside ``path`` that belong to the same slide, in a fixed order.

    MIRAX keeps its pixels in a folder of the same stem, DICOM one slide in a folder, VMS
    and VMU name their parts in an index. An OME-Zarr is itself a folder.
    """
    found: Iterable[Path]
    if path.is_dir():
        found = path.rglob("*")
    elif vendor == "mirax":
        found = path.with_suffix("").rglob("*")
    elif vendor == "dicom":
        found = path.parent.glob("*")
    elif path.suffix.lower() in {".vms", ".vmu"}:
        lines = path.read_text("utf-8", errors="replace").splitlines()
        values = (line.partition("=")[2].strip() for line in lines)
        found = (path.parent / value for value in values if value and "/" not in value)
    else:
        return []
    return sorted({file for file in found if file.is_file() and file != path})


def fingerprint(path: Path, vendor: str) -> str:
    """A sha256 (hex) over every byte of a slide and its side-car files.

    A slide of one file has that file's sha256, whatever its name or folder; otherwise the
    names of the side-car files count too, relative to the slide's folder. For DICOM it does
    not matter which file of the folder was given.

    Raises:
        SlideOpenError: a file cannot be read to its end.
    """
    try:
        others = side_cars(path, vendor)
        if path.is_dir():
            named = {file.relative_to(path).as_posix(): file for file in others}
        elif not others:
            return _sha256(path)
        elif vendor == "dicom":
            named = {file.name: file for file in (path, *others)}
        else:
            root = path.with_suffix("") if vendor == "mirax" else path.parent
            named = {"": path} | {file.relative_to(root).as_posix(): file for file in others}
        lines = "".join(f"{_sha256(file)}  {name}\n" for name, file in sorted(named.items()))
    except OSError as error:
        msg = f"{path.name} cannot be read to its end: {error.strerror}"
        raise SlideOpenError(msg) from error
    return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
