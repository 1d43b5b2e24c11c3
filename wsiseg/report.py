"""``report.html``: a whole run on one page, for somebody who looks through a cohort.

Made from what lies in the output folder (``summary.csv``, each ``slide.json``, ``overview.png``
and ``review.csv``), so it can be made again at any time. The page is one file: pictures are
inside it, nothing is fetched.
"""

import base64
import csv
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from PIL import Image, UnidentifiedImageError

from wsiseg.errors import OutputError
from wsiseg.export import THUMBNAIL
from wsiseg.flags import BY_HAND
from wsiseg.manifest import SlideManifest, write_whole
from wsiseg.overview import shrunk
from wsiseg.place import MANIFEST, OVERVIEW
from wsiseg.review import REVIEW, REVIEW_ABOVE
from wsiseg.summary import SUMMARY

__all__ = ["REPORT", "last_run", "result_folders", "to_review", "write_report"]

REPORT = "report.html"
PICTURE_PX = 480
HEADS = (
    ("Slide", False), ("Status", False), ("Notes", False), ("Tumour, mm²", True), ("Of tissue, %", True),
    ("Regions", True), ("To review", True), ("Mean probability", True), ("Disagreement", True),
    ("µm per pixel", True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Row:
    """One slide of the page; ``manifest`` is None where it has no result."""

    name: str
    status: str
    reason: str
    manifest: SlideManifest | None
    review: int = 0


def write_report(out: Path) -> Path:
    """Write ``report.html`` for an output folder, and return where it is.

    Raises:
        OutputError: the folder holds no result and no summary, or cannot be written.
    """
    rows = sorted(_rows(out), key=lambda row: (row.status != "failed", row.name))
    if not rows:
        msg = f"{out} holds no finished slide and no {SUMMARY}; give the folder that wsiseg segment wrote"
        raise OutputError(msg)
    template = Template(Path(__file__).with_name("report_page.html").read_text(encoding="utf-8"))
    heads = (
        f'<th scope="col"{" class=number" if number else ""}><button type="button">{name}</button></th>'
        for name, number in HEADS
    )
    page = template.substitute(
        title=escape(out.absolute().name),
        summary=_summary(rows),
        limit=f"{REVIEW_ABOVE:g}",
        heads="".join(heads),
        rows="\n".join(_tr(out, row) for row in rows),
    )
    write_whole(out / REPORT, page.encode())
    return out / REPORT


def _rows(out: Path) -> Iterator[_Row]:
    """The slides with a record, and the failures of the last run; a slide stands once."""
    failed = {name: reason for name, status, reason in last_run(out) if status == "failed"}
    for name, reason in failed.items():
        older = "; an older result is still in its folder" if (out / name / MANIFEST).exists() else ""
        yield _Row(name, "failed", reason + older, None)
    for folder in result_folders(out):
        name = folder.relative_to(out).as_posix()
        if name in failed:
            continue
        try:
            manifest = SlideManifest.read(folder / MANIFEST)
        except OutputError as error:
            yield _Row(name, "failed", str(error), None)
            continue
        yield _Row(name, "done", manifest.result.note, manifest, to_review(folder / REVIEW))


def last_run(out: Path) -> list[tuple[str, str, str]]:
    """Name, status and reason of every slide of the last run; none where there is no summary."""
    try:
        with (out / SUMMARY).open(newline="", encoding="utf-8") as file:
            return [(row["slide"], row["status"], row["reason"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{out / SUMMARY} cannot be read ({error}); run wsiseg segment again to renew it"
        raise OutputError(msg) from error


def result_folders(out: Path) -> Iterator[Path]:
    """The folders of finished slides; hidden ones are being worked on, and a map is not looked into."""
    for folder, below, files in os.walk(out):
        below[:] = sorted(name for name in below if not name.startswith(".") and not name.endswith(".zarr"))
        if MANIFEST in files:
            yield Path(folder)


def to_review(path: Path) -> int:
    """The number of regions above the limit; none where the list is missing."""
    if not path.exists():
        return 0
    with path.open(newline="", encoding="utf-8") as file:
        return sum(row.get("review") == "yes" for row in csv.DictReader(file))


def _summary(rows: list[_Row]) -> str:
    done = [row.manifest for row in rows if row.manifest is not None]
    failed, some = len(rows) - len(done), sum(m.counts.polygons > 0 for m in done)
    latest = max((m.finished for m in done), default="")
    models = ", ".join(sorted({m.model.name for m in done}))
    slides = "1 slide" if len(rows) == 1 else f"{len(rows)} slides"
    words = [slides, f"{failed} failed", f"tumour outlined on {some}"]
    words += [f"model {models}"] if models else []
    words += [f"last finished {latest[:16].replace('T', ' ')} UTC"] if latest else []
    return escape("; ".join(words) + ".")


def _tr(out: Path, row: _Row) -> str:
    head = f"<br>{_links(row)}" if row.manifest else ""
    cells = [
        f'<th scope="row" data-sort="{escape(row.name)}">{_picture(out, row)}{escape(row.name)}{head}</th>'
    ]
    cells.append(f'<td class="status" data-sort="{row.status}">{row.status}</td>')
    notes = list(_notes(row))
    listed = "".join(f"<li>{_whole_options(escape(note))}</li>" for note in notes)
    cells.append(f'<td class="notes" data-sort="{escape("; ".join(notes))}"><ul>{listed}</ul></td>')
    cells += _numbers(row.manifest, row.review)
    return f'<tr class="{row.status}">{"".join(cells)}</tr>'


def _whole_options(text: str) -> str:
    """A text whose options, ``--slide-mpp`` and the like, are not broken at the end of a line.

    >>> _whole_options("pass --slide-mpp (0.25)")
    'pass <code>--slide-mpp</code> (0.25)'
    """
    return re.sub(r"--[a-z][a-z-]*", r"<code>\g<0></code>", text)


def _links(row: _Row) -> str:
    assert row.manifest is not None
    outlines = "tumor.geojson.gz" if row.manifest.polygon_options.get("gzip") else "tumor.geojson"
    links = (f'<a href="{quote(f"{row.name}/{file}")}">{file}</a>' for file in (outlines, REVIEW, MANIFEST))
    return f'<span class="small">{" ".join(links)}</span>'


def _picture(out: Path, row: _Row) -> str:
    """The overview, small, inside the page; it leads to the large one."""
    if row.manifest is None:
        return ""
    folder = out / row.name
    try:
        with Image.open(folder / OVERVIEW) as overview, Image.open(folder / THUMBNAIL) as plain:
            # the words below the slide would be too small
            small = shrunk(overview.convert("RGB").crop((0, 0, *plain.size)), PICTURE_PX)
    except (OSError, UnidentifiedImageError):
        return '<span class="small">(no overview)</span><br>'
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80, optimize=True)
    data = base64.b64encode(content.getvalue()).decode()
    words = f"{row.name}: the slide with its outlines"
    picture = f'<img src="data:image/jpeg;base64,{data}" alt="{escape(words)}">'
    return f'<a href="{quote(f"{row.name}/{OVERVIEW}")}">{picture}</a>'


def _numbers(manifest: SlideManifest | None, review: int) -> list[str]:
    """The cells after the notes; empty ones sort last."""
    if manifest is None:
        return ['<td class="number" data-sort=""></td>'] * (len(HEADS) - 3)
    found, counts, slide = manifest.result, manifest.counts, manifest.slide
    fraction = None if found.tissue_fraction is None else 100 * found.tissue_fraction
    spread = found.disagreement if len(manifest.model.weights) > 1 else None
    how = manifest.polygon_options
    sure = f", sure&nbsp;{manifest.more_asked:g}" if manifest.more_asked else ""
    threshold = f"p&nbsp;≥&nbsp;{how.get('threshold', 0):g}{sure}"
    return [
        _number(found.tumor_mm2, ".3f", f'<br><span class="small">{threshold}</span>'),
        _number(fraction, ".1f"),
        _number(counts.polygons, "d"),
        _number(review, "d"),
        _number(found.mean_probability, ".2f"),
        _number(spread, ".3f"),
        _number(slide.mpp, ".4g", f'<br><span class="small">{_source(slide.mpp_source)}</span>'),
    ]


def _source(mpp_source: str) -> str:
    """Where microns per pixel come from; the name of the file's own field only shows under the pointer."""
    said = escape(mpp_source)
    if mpp_source in BY_HAND or mpp_source.startswith("objective"):
        return _whole_options(said)
    return f'<span title="{said}">from the file</span>'


def _number(value: float | None, form: str, more: str = "") -> str:
    if value is None:
        return f'<td class="number" data-sort="">–{more}</td>'
    return f'<td class="number" data-sort="{value!r}">{value:{form}}{more}</td>'


def _notes(row: _Row) -> Iterator[str]:
    """What a reader should know before trusting the numbers."""
    if row.manifest is not None:
        yield from row.manifest.flags
    if row.reason:
        yield row.reason
