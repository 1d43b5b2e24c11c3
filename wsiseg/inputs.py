"""Which slides a command means: files, folders, patterns and lists, each with the name of its result."""

import csv
import glob
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsiseg.errors import UsageError
from wsiseg.location import Location, Remote, located, printable
from wsiseg.place import MAP
from wsiseg.readers.zarr_reader import is_zarr

__all__ = ["SlideInput", "find_slides", "name_outputs", "read_slide_list"]

log = logging.getLogger(__name__)

SUFFIXES = {
    ".bif", ".czi", ".kfb", ".mrxs", ".ndpi", ".qptiff", ".scn", ".sdpc", ".svs", ".svslide", ".tif", ".tiff",
    ".vms", ".vmu",
}  # fmt: skip
"""What is taken for a slide in a folder, beside folders called ``.zarr``; what is named outright is tried."""


@dataclass(frozen=True, slots=True)
class SlideInput:
    """One slide of a batch: its file, the name of its result, and its mpp where somebody said it."""

    path: Location
    name: str
    mpp: float | None = None
    mpp_source: str = "--slide-mpp"


def find_slides(
    paths: Sequence[Location], *, recursive: bool = False, slide_list: str | None = None
) -> list[SlideInput]:
    """Every slide that files, folders, patterns and a list name, each once.

    Raises:
        UsageError: there is none, the list cannot be understood, or two results have one name.
    """
    listed = [] if slide_list is None else read_slide_list(Path(slide_list))
    known = {_place(slide.path) for slide in listed}
    found: dict[Location, Location] = {}
    for path in paths:
        for one in _expanded(path, recursive=recursive):
            if _place(one) not in known:
                found.setdefault(_place(one), one)
    files = list(found.values())
    slides = listed + [SlideInput(path, name) for path, name in zip(files, name_outputs(files), strict=True)]
    if not slides:
        msg = "no slide was named: give files, folders, or --slide-list"
        raise UsageError(msg)
    twice = [name for name, count in Counter(slide.name for slide in slides).items() if count > 1]
    if twice:
        msg = f"several slides would be written to {twice[0]!r}: give them names in a --slide-list"
        raise UsageError(msg)
    return slides


def name_outputs(paths: Sequence[Location]) -> list[str]:
    """A result name for every slide: its stem, or its path below the common folder where stems collide.

    >>> name_outputs([Path("a/x.svs"), Path("b/x.svs"), Path("b/y.svs")])
    ['a/x', 'b/x', 'y']
    >>> name_outputs([Path("a/x.svs"), Path("a/x.tif")])
    ['x.svs', 'x.tif']
    """
    names = [printable(path.stem) for path in paths]
    count = Counter(names)
    folders = [_place(path).parts[:-1] for path in paths]
    shared = 0
    while all(len(parts) > shared for parts in folders) and len({parts[shared] for parts in folders}) == 1:
        shared += 1
    longer = [
        "/".join((*map(printable, parts[shared:]), name)) for parts, name in zip(folders, names, strict=True)
    ]
    named = [long if count[name] > 1 else name for name, long in zip(names, longer, strict=True)]
    again = Counter(named)
    return [
        name + printable(path.suffix) if again[name] > 1 else name
        for name, path in zip(named, paths, strict=True)
    ]


def read_slide_list(path: Path) -> list[SlideInput]:
    """The slides of a CSV file with the columns ``path`` and, where wanted, ``mpp`` and ``name``.

    Paths count from the folder of the list; URLs are taken as they are.

    Raises:
        UsageError: it cannot be read, or a line makes no sense; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} cannot be read as CSV: {error}"
        raise UsageError(msg) from error
    if not rows or "path" not in rows[0]:
        msg = f"{path} lists no slide: its first line must be path,mpp,name (the last two if wanted)"
        raise UsageError(msg)
    files = [_beside(path, row["path"] or "") for row in rows]
    return [
        _listed(row, file, name, f"{path}, line {number}")
        for number, (row, file, name) in enumerate(zip(rows, files, name_outputs(files), strict=True), 2)
    ]


def _beside(table: Path, said: str) -> Location:
    where = located(said)
    return where if isinstance(where, Remote) else table.parent / where


def _listed(row: dict[str, str], file: Location, stem: str, where: str) -> SlideInput:
    name, said = (row.get("name") or "").strip() or stem, (row.get("mpp") or "").strip()
    parts = PurePosixPath(name).parts
    if not row["path"] or name.startswith("/") or any(part.startswith(".") for part in parts):
        msg = f"{where}: a path is needed, and a name that stays inside the output folder, not {name!r}"
        raise UsageError(msg)
    try:
        mpp = float(said) if said else None
    except ValueError:
        mpp = math.nan
    if mpp is not None and not 0 < mpp < math.inf:
        msg = f"{where}: mpp is {said!r}; give microns per level-0 pixel, such as 0.25, or leave it empty"
        raise UsageError(msg)
    return SlideInput(file, name, mpp, "the slide list")


def _expanded(path: Location, *, recursive: bool) -> Iterator[Location]:
    """The slides that one argument means, in the order of their names."""
    if isinstance(path, Remote):
        yield path
    elif os.path.isdir(path) and not is_zarr(path):  # noqa: PTH112 - False where pathlib raises: EACCES
        try:
            inside = sorted(path.rglob("*") if recursive else path.iterdir())
        except OSError as error:
            msg = f"{path} cannot be read: {error.strerror}"
            raise UsageError(msg) from error
        slides = [one for one in inside if _is_slide(one.relative_to(path), one)]
        if not slides:
            deeper = "" if recursive else "; --recursive looks in its folders too"
            msg = f"{path} holds no slide that is known by its ending{deeper}"
            raise UsageError(msg)
        if any(one.suffix.lower() == ".dcm" for one in inside):
            log.warning("%s holds DICOM files, which are left out: name one file of each slide", path)
        yield from slides
    elif not os.path.exists(path) and glob.has_magic(str(path)):  # noqa: PTH110
        matched = sorted(Path(one) for one in glob.glob(str(path), recursive=recursive))  # noqa: PTH207
        if not matched:
            msg = f"no file matches {path}"
            raise UsageError(msg)
        for one in matched:
            yield from _expanded(one, recursive=recursive) if one.is_dir() else (one,)
    else:
        yield path


def _is_slide(relative: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    if path.is_dir():
        return not hidden and path.suffix.lower() == ".zarr" and path.name != MAP and is_zarr(path)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _place(path: Location) -> Location:
    """A path without ``..``, links kept: two spellings of one place are one."""
    if isinstance(path, Remote):
        return path
    return Path(os.path.abspath(path))  # noqa: PTH100 - pathlib folds .. only together with links
