"""``summary.csv``: a row per slide of an output folder, for a table program or statistics."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from wsiseg.errors import OutputError
from wsiseg.manifest import SlideManifest, write_whole
from wsiseg.place import alone_with

__all__ = ["COLUMNS", "SUMMARY", "Row", "facts", "read_summary", "renew", "update_summary"]

SUMMARY = "summary.csv"
COLUMNS = (
    "slide", "status", "reason", "flags", "threshold", "sure", "tumor_mm2", "tissue_mm2", "tissue_fraction",
    "polygons", "mean_probability", "disagreement", "unreadable_mm2", "mpp", "mpp_source", "seconds",
)  # fmt: skip
Row = dict[str, object]


def facts(manifest: SlideManifest) -> Row:
    """What a slide's record has for its row; all but the name and the status."""
    found = {
        **manifest.result.model_dump(exclude={"note"}),
        "reason": manifest.result.note,
        "flags": "; ".join(manifest.flags),
        "threshold": manifest.polygon_options.get("threshold"),
        "sure": manifest.more_asked,
        "polygons": manifest.counts.polygons,
        "mpp": manifest.slide.mpp,
        "mpp_source": manifest.slide.mpp_source,
        "seconds": manifest.seconds.get("total"),
    }
    return {name: _short(value) for name, value in found.items()}


def _short(value: object) -> object:
    """A figure with the digits that a table needs: six; all others stand in ``slide.json``.

    >>> _short(0.010027170181274414), _short(3), _short("a")
    (0.0100272, 3, 'a')
    """
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read_summary(out: Path) -> dict[str, Row]:
    """The rows of a folder's summary by slide; none where there is no summary.

    Raises:
        OutputError: it is not ours.
    """
    path = out / SUMMARY
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {str(row["slide"]): dict(row) for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        msg = f"{path} is not a summary of ours ({error}): move it away, or choose another folder with -o"
        raise OutputError(msg) from error


def update_summary(out: Path, rows: Mapping[str, Row]) -> None:
    """Put rows among those that are there, sorted by the slide's name (by code point).

    Another run may be at work in the same folder: the file is held while it is changed.

    Raises:
        OutputError: it is not ours, or cannot be written.
    """
    with alone_with(out / SUMMARY):
        _write(out, {**read_summary(out), **rows})


def _write(out: Path, rows: Mapping[str, Row]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    table.writeheader()
    table.writerows(rows[name] for name in sorted(rows))
    write_whole(out / SUMMARY, text.getvalue().encode())


def renew(folder: Path, manifest: SlideManifest) -> Path | None:
    """Put what a slide's record says now into the summary that has a row for it, and return where that is.

    The output folder is the nearest one above the slide's with such a summary; a failed slide's
    row stays as it is, and where there is no row there is nothing to renew.

    Raises:
        OutputError: the summary cannot be written.
    """
    for out in folder.absolute().parents:
        try:
            rows = read_summary(out)
        except OutputError:  # somebody else's file of that name
            continue
        row = rows.get(folder.absolute().relative_to(out).as_posix())
        if row is not None and row.get("status") in {"done", "skipped"}:
            update_summary(out, {str(row["slide"]): {**row, **facts(manifest)}})
            return out
    return None
