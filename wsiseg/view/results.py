"""What an output folder holds, as a closed table: whatever is not in it cannot be asked for."""

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import OutputError
from wsiseg.export import THUMBNAIL
from wsiseg.manifest import SlideManifest
from wsiseg.place import LEDGER, MANIFEST, MAP, geojson_name
from wsiseg.report import last_run, result_folders, to_review
from wsiseg.review import REVIEW, review_limit

__all__ = [
    "Entry",
    "facts",
    "inside",
    "line",
    "look",
    "manifest_of",
    "outlines_of",
    "review_of",
    "thumbnail_file",
]

Status = Literal["done", "failed", "unfinished"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One slide of the table; ``manifest`` is None where there is no result to show."""

    out: Path
    name: str
    status: Status
    note: str
    manifest: SlideManifest | None = None

    @property
    def key(self) -> str:
        """How the page asks for it: a digest of the name, which no path can be made of."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where its result lies."""
        return self.out / self.name


def look(out: Path) -> dict[str, Entry]:
    """Every slide of an output folder by its key: those that are done first, then by name.

    Raises:
        OutputError: the folder holds no finished slide, or its summary cannot be read.
    """
    entries = list(_entries(out))
    if not any(entry.manifest for entry in entries):
        others = f" ({len(entries)} failed or not finished)" if entries else ""
        msg = f"{out} holds no finished slide{others}; give the folder that wsiseg segment wrote"
        raise OutputError(msg)
    order = {"done": 0, "failed": 1, "unfinished": 2}
    return {entry.key: entry for entry in sorted(entries, key=lambda one: (order[one.status], one.name))}


def _entries(out: Path) -> Iterator[Entry]:
    failed = {name: reason for name, status, reason in last_run(out) if status == "failed"}
    seen = set()
    for folder in result_folders(out):
        name = folder.relative_to(out).as_posix()
        seen.add(name)
        try:
            manifest = SlideManifest.read(inside(out, folder / MANIFEST))
        except OutputError as error:
            yield Entry(out, name, "failed", str(error))
            continue
        note = manifest.result.note
        if name in failed:
            note = f"an older result; the last run failed: {failed[name]}"
        yield Entry(out, name, "done", note, manifest)
    for name in sorted(set(_linked(out)) - seen):
        seen.add(name)
        yield Entry(out, name, "failed", "the folder is a link, which the viewer does not follow")
    for name in sorted(set(_unfinished(out)) - seen):
        seen.add(name)
        yield Entry(
            out, name, "unfinished", failed.get(name) or "begun and not finished; segment it again to go on"
        )
    for name in sorted(set(failed) - seen):
        yield Entry(out, name, "failed", failed[name])


def _walk(out: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders of ``out`` that hold no map's chunks, each with the names of those in it."""
    for folder, below, _ in os.walk(out):
        names = sorted(below)
        below[:] = [name for name in names if not name.startswith(".") and not name.endswith(".zarr")]
        yield Path(folder), names


def _linked(out: Path) -> Iterator[str]:
    for folder, names in _walk(out):
        for name in names:
            if (folder / name).is_symlink() and (folder / name / MANIFEST).exists():
                yield (folder / name).relative_to(out).as_posix()


def _unfinished(out: Path) -> Iterator[str]:
    for folder, names in _walk(out):
        for name in names:
            stem = name.removeprefix(".").removesuffix(".partial")
            if name == f".{stem}.partial" and (folder / name / LEDGER).exists():
                yield (folder / stem).relative_to(out).as_posix()


def inside(out: Path, path: Path) -> Path:
    """The path, links followed, if it lies in ``out`` and exists.

    Raises:
        OutputError: it is not there, or a link leads out of the folder.
    """
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        msg = f"{path.name} is not there; segment the slide again with --overwrite"
        raise OutputError(msg) from error
    if not real.is_relative_to(out.resolve()):
        msg = f"{path.name} is a link that leads out of the output folder; the viewer does not follow it"
        raise OutputError(msg)
    return real


def line(entry: Entry) -> dict[str, Any]:
    """What the list of slides says of one."""
    said: dict[str, Any] = {"key": entry.key, "name": entry.name, "status": entry.status, "note": entry.note}
    if entry.manifest is not None:
        said |= {
            "tumor_mm2": entry.manifest.result.tumor_mm2,
            "regions": entry.manifest.counts.polygons,
            "review": to_review(entry.folder / REVIEW),
        }
    return said


def facts(entry: Entry) -> dict[str, Any]:
    """What the page needs to lay a slide's map and outlines: level-0 pixels from the bounds' corner.

    Raises:
        OutputError: the slide has no result, or its map is damaged.
    """
    manifest = manifest_of(entry)
    canvas = ProbabilityMap.open(inside(entry.out, entry.folder / MAP))
    slide, how, found = manifest.slide, manifest.polygon_options, manifest.result
    corner = (0, 0) if how.get("origin", "qupath") == "qupath" else slide.bounds[:2]
    return {
        "name": entry.name,
        "file": slide.name,
        "note": entry.note,
        "flags": manifest.flags,
        "width": slide.bounds[2],
        "height": slide.bounds[3],
        "corner": corner,  # what to take from the outlines' coordinates
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "map": {
            "width": manifest.canvas.width,
            "height": manifest.canvas.height,
            "factor": manifest.canvas.factor,
            "levels": canvas.depth,
        },
        "thumbnail": (entry.folder / THUMBNAIL).exists(),
        "threshold": how.get("threshold", 0.5),
        "sure": manifest.more_asked,
        "review_above": review_limit(how.get("review_above")),
        "tumor_mm2": found.tumor_mm2,
        "tissue_mm2": found.tissue_mm2,
        "tissue_fraction": found.tissue_fraction,
        "regions": manifest.counts.polygons,
        "model": manifest.model.name,
        "networks": len(manifest.model.weights),
        "finished": manifest.finished,
    }


def outlines_of(entry: Entry) -> tuple[Path, bool]:
    """The file of outlines, and whether it is gzipped.

    Raises:
        OutputError: there is none.
    """
    packed = bool(manifest_of(entry).polygon_options.get("gzip"))
    return inside(entry.out, entry.folder / geojson_name(packed=packed)), packed


def thumbnail_file(entry: Entry) -> Path:
    """The picture of the slide without outlines.

    Raises:
        OutputError: there is none.
    """
    return inside(entry.out, entry.folder / THUMBNAIL)


def review_of(entry: Entry) -> list[dict[str, Any]]:
    """The regions of ``review.csv`` in its order: id, whether to review, and the region's centre.

    Raises:
        OutputError: the list is missing or not ours.
    """
    path = inside(entry.out, entry.folder / REVIEW)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                {
                    "rank": int(row["rank"]),
                    "id": row["id"],
                    "review": row["review"] == "yes",
                    "area_mm2": float(row["area_mm2"]),
                    "mean_probability": float(row["mean_probability"]),
                    "disagreement": float(row["disagreement"]) if row["disagreement"] else None,
                    "x_px": float(row["x_px"]),
                    "y_px": float(row["y_px"]),
                }
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        msg = f"{REVIEW} cannot be read ({error}); outline the slide again with wsiseg polygons"
        raise OutputError(msg) from error


def manifest_of(entry: Entry) -> SlideManifest:
    """The slide's record.

    Raises:
        OutputError: it has no result.
    """
    if entry.manifest is None:
        msg = f"{entry.name} has no result: {entry.note}"
        raise OutputError(msg)
    return entry.manifest
