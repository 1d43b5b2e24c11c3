"""Ask a finished map again: other thresholds, other areas, in seconds, without torch or the slide."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsiseg.canvas import ProbabilityMap
from wsiseg.errors import CanvasError
from wsiseg.export import chosen, export_polygons
from wsiseg.ledger import Done, Ledger
from wsiseg.manifest import SlideManifest
from wsiseg.outlining import Outlining, changed
from wsiseg.place import LEDGER, MANIFEST, MAP, Place
from wsiseg.polygons import Regions, join, outline
from wsiseg.summary import renew

__all__ = ["SWEEP", "Swept", "outlines", "reoutline", "sweep"]

SWEEP = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""The thresholds of a sweep: 0.05 to 0.95."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one threshold would give; ``tissue_fraction`` is None where no tissue was looked for.

    ``sure`` is what a region must reach in places besides, 0 where no more than the threshold is asked.
    """

    threshold: float
    sure: float
    regions: int
    tumor_mm2: float
    tissue_fraction: float | None


def reoutline(folder: Path, given: Mapping[str, Any]) -> SlideManifest:
    """Outline a finished slide again and replace its files, one by one, then its record and its row.

    ``given`` are fields of ``PolygonOptions``; what is not given stays as it was.

    Raises:
        OutputError: the folder holds no finished slide, is being written, or cannot be.
        CanvasError: its map is damaged.
    """
    SlideManifest.read(folder / MANIFEST)  # a folder that is none of ours gets no lock beside it
    with Place(folder.absolute()).claimed():
        start = time.perf_counter()
        manifest = SlideManifest.read(folder / MANIFEST)
        how = changed(manifest, given)
        regions = outlines(folder, manifest, how)
        replacing = manifest.model_copy(update={"polygon_key": ""})
        replacing.write(folder / MANIFEST)  # should we be killed now, it speaks for no outlines
        done = export_polygons(regions, manifest, how, folder)
        seconds = {**done.seconds, "outlined again": round(time.perf_counter() - start, 3)}
        done = done.model_copy(update={"seconds": seconds})
        done.write(folder / MANIFEST)
        renew(folder, done)
    return done


def sweep(folder: Path, given: Mapping[str, Any], thresholds: Sequence[float] = SWEEP) -> Iterator[Swept]:
    """What ``reoutline`` would find at each threshold; writes nothing.

    Raises:
        OutputError: the folder holds no finished slide.
        CanvasError: its map is damaged.
    """
    manifest = SlideManifest.read(folder / MANIFEST)
    how = changed(manifest, given)
    for number, threshold in enumerate(thresholds):  # one at a time: all outlines at once fill the memory
        now = replace(how, threshold=threshold)
        regions = outlines(folder, manifest, now, trusted=number > 0)
        _, area_mm2_N = chosen(regions, manifest, now)
        tumor_mm2, tissue_mm2 = float(area_mm2_N.sum()), manifest.result.tissue_mm2
        fraction = tumor_mm2 / tissue_mm2 if tissue_mm2 else None
        yield Swept(threshold, now.more_asked, len(area_mm2_N), tumor_mm2, fraction)


def outlines(folder: Path, manifest: SlideManifest, how: Outlining, *, trusted: bool = False) -> Regions:
    """The joined outlines of a stored map; every block is held against its ledger, unless ``trusted``.

    A block that the ledger does not name held no tissue and is blank.

    Raises:
        CanvasError: a block's chunk is damaged or lost.
    """
    canvas, (least, sure) = ProbabilityMap.open(folder / MAP), how.levels_u8
    parts: list[Regions] = []
    for done in _ledger(folder, manifest):
        block = canvas.grid.block(done.row, done.column)
        if not trusted and not canvas.holds(block, done.sha256, done.unreadable):
            msg = f"{canvas.path} is damaged at {block.core}; segment the slide again with --overwrite"
            raise CanvasError(msg)
        prob_YX, spread_YX = canvas.read(block.core)
        if int(prob_YX.max()) >= least:
            x, y = block.core.x, block.core.y
            parts.append(outline(prob_YX, spread_YX, threshold_u8=least, sure_u8=sure, x=x, y=y))
    return join(parts, canvas.grid.chunk)


def _ledger(folder: Path, manifest: SlideManifest) -> list[Done]:
    path = folder / LEDGER
    if not path.exists():
        msg = f"{path} is missing, so the map cannot be trusted; segment the slide again with --overwrite"
        raise CanvasError(msg)
    with Ledger(path, manifest.settings) as ledger:
        return list(ledger.done.values())
