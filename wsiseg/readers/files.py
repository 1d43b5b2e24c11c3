"""What can be said of a slide's files before a library sees them: are they files, and which bytes."""

import hashlib
import logging
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import tifffile

from wsiseg.errors import SlideOpenError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_file", "fingerprint", "side_cars"]

logging.getLogger("tifffile").propagate = False  # it logs what the slide libraries judge

TILE_PX = 8192 * 8192
"""The largest tile that is taken on: 256 MiB when decoded to RGBA."""
PAGES = 64
"""So many directories of a TIFF are looked at."""


def check_file(path: Path) -> None:
    """Refuse what is certainly no slide, without opening anything that could hang.

    Raises:
        SlideOpenError: absent, a folder, a pipe, empty, unreadable, a git-lfs pointer, a web page, a
            TIFF of giant tiles.
    """
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
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        msg = f"{name} cannot be read: {error.strerror}"
        raise SlideOpenError(msg) from error
    start = head.lstrip().lower()
    if not head:
        msg = f"{name} is empty (0 bytes); copy it again"
    elif head.startswith(b"version https://git-lfs"):
        msg = f"{name} is a git-lfs pointer, not the slide itself; run `git lfs pull`"
    elif start.startswith((b"<!doctype html", b"<html")):
        msg = f"{name} is a web page saved under a slide's name; download the slide again"
    else:
        _check_tiles(path, head)
        return
    raise SlideOpenError(msg)


def _check_tiles(path: Path, head: bytes) -> None:
    """Refuse a TIFF that declares tiles too large to decode: OpenSlide would abort the process."""
    if not head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return
    try:
        with tifffile.TiffFile(path) as tiff:
            sizes = [(page.tilewidth, page.tilelength) for page in islice(tiff.pages, PAGES) if page.is_tiled]
    except Exception:  # noqa: BLE001 - whatever tifffile makes of a broken file, the slide libraries judge it
        return
    if found := [f"{width} × {height}" for width, height in sizes if width * height > TILE_PX]:
        msg = f"{path.name} is stored in tiles of {found[0]} pixels, too large to decode; re-save it tiled"
        raise SlideOpenError(msg)


def side_cars(path: Path, vendor: str) -> list[Path]:
    """The files beside ``path`` that belong to the same slide, in a fixed order.

    MIRAX keeps its pixels in a folder of the same stem, DICOM one slide in a folder, VMS
    and VMU name their parts in an index.
    """
    found: Iterable[Path]
    if vendor == "mirax":
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
        if not others:
            return _sha256(path)
        if vendor == "dicom":
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
