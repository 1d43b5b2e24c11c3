"""What can be said of a slide's files before a library sees them: are they files, and which bytes."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from wsiseg.errors import SlideOpenError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_file", "fingerprint", "side_cars"]


def check_file(path: Path) -> None:
    """Refuse what is certainly no slide, without opening anything that could hang.

    Raises:
        SlideOpenError: absent, a folder, a pipe, empty, unreadable, a git-lfs pointer, a web page.
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
        return
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
