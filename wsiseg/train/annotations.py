"""QuPath annotations as training data: a slide and its GeoJSON become patches with masks.

The patches are written in the COSAS layout with a ``manifest.csv``, so that they are looked
at, counted, folded and trained on like any others. Coordinates are QuPath's: level-0
pixels from the corner of the slide's bounds.
"""

import csv
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image

from wsiseg.drawn import Drawn, filled
from wsiseg.errors import DataError, GeoJSONError, OutputError, UsageError
from wsiseg.geometry import L0, Box
from wsiseg.rings import Polygons
from wsiseg.slide import Slide
from wsiseg.train.cases import LARGEST_MPP

__all__ = ["Cut", "Row", "check_classes", "cut_patches", "patches_of", "write_patches"]

FULL = 255
LIGHT = 220  # mean grey above which a patch shows glass
TISSUE = 0.05  # share of a patch that must be darker than that
NOT_IN_NAMES = frozenset('/\\:*?"<>|')


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How patches are cut: ``size_px`` pixels at ``mpp`` microns per pixel, and what they are called.

    Raises:
        UsageError: task or domain is no name of a folder, or ``mpp`` no size of a pixel.
    """

    task: str
    domain: str
    patient: str = ""
    size_px: int = 1500
    mpp: float = 0.5

    def __post_init__(self) -> None:
        for option, name in (("--task", self.task), ("--domain", self.domain)):
            if name != name.strip(" .") or not name.isprintable() or NOT_IN_NAMES & set(name) or not name:
                msg = f"{option} {name!r} becomes a folder: give a plain name such as colon"
                raise UsageError(msg)
        if not 0 < self.mpp <= LARGEST_MPP:
            msg = f"--mpp {self.mpp:g} is no size of a pixel: give microns up to {LARGEST_MPP:g}, such as 0.5"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of ``manifest.csv``; ``dataset`` is empty: in one folder, equal ids are one patient."""

    task: str
    domain: str
    image: str
    mask: str
    dataset: str
    mpp: float
    mpp_is: str
    patient_id: str
    source: str


COLUMNS = [field.name for field in fields(Row)]


def check_classes(tumour: Drawn, region: str | None) -> None:
    """Refuse annotations of which none is tumour, unless they mark nothing but regions: a slide without any.

    Raises:
        GeoJSONError: there are objects of other classes, and none of the tumour's.
    """
    others = [name for name in tumour.marks if name != region]
    if others and not len(tumour.polygons_N):
        msg = (
            f"{tumour.name} outlines no {tumour.wanted}, but has objects of class {', '.join(others)}: pass "
            "--tumor-class with the one that is tumour; of a slide without tumour, export its regions alone"
        )
        raise GeoJSONError(msg)


def patches_of(slide: Slide, regions: Polygons, cut: Cut) -> Iterator[Box[L0]]:
    """The level-0 squares that cover the regions' boxes (or the bounds, without regions), row by row.

    Squares are laid from each region's corner; the last of a row is moved back so that it ends
    where the region does, unless the region is smaller than a square.

    Raises:
        UsageError: a square is smaller than one pixel of the slide.
    """
    side = round(cut.size_px * cut.mpp / slide.info.mpp)
    if side < 1:
        msg = f"--mpp {cut.mpp:g}: a patch is smaller than one pixel of {slide.info.name}; 0.5 is usual"
        raise UsageError(msg)
    bounds = slide.info.bounds
    areas = [(0.0, 0.0, float(bounds.w), float(bounds.h))]
    if len(regions):
        areas = [(b[0], b[1], b[2], b[3]) for b in shapely.bounds(regions)]
    seen: set[tuple[int, int]] = set()
    for left, top, right, bottom in areas:
        for y in _starts(top, bottom, side):
            for x in _starts(left, right, side):
                if (x, y) not in seen:
                    seen.add((x, y))
                    yield Box(x + bounds.x, y + bounds.y, side, side)


def cut_patches(
    slide: Slide, tumour: Polygons, regions: Polygons, cut: Cut
) -> Iterator[tuple[Box[L0], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """Each patch's box, RGB (Y, X, 3) and mask (Y, X) of 0 and 255; those that show glass only are left out.

    With regions, what lies outside them is painted white and is no tumour: nobody looked at it.
    """
    for box in patches_of(slide, regions, cut):
        size = (cut.size_px, cut.size_px)
        rgb_YX3 = slide.read(box, size)
        if len(regions):
            inside_YX = _mask(regions, box, slide.info.bounds, cut.size_px)
            rgb_YX3 = np.where(inside_YX[..., None] > 0, rgb_YX3, np.uint8(FULL))
            mask_YX = np.minimum(_mask(tumour, box, slide.info.bounds, cut.size_px), inside_YX)
        else:
            mask_YX = _mask(tumour, box, slide.info.bounds, cut.size_px)
        if (rgb_YX3.mean(axis=2) < LIGHT).mean() >= TISSUE or mask_YX.any():
            yield box, rgb_YX3, mask_YX


def write_patches(slide: Slide, tumour: Polygons, regions: Polygons, *, cut: Cut, root: Path) -> int:
    """Write the patches below ``root`` and list them in its manifest; give their number.

    Raises:
        DataError: not one patch holds tissue. UsageError: they are too small. OutputError: a patch is
            there already, or images that no manifest of this command lists.
    """
    _check_folder(root)
    stem = Path(slide.info.name).stem
    folder = Path(cut.task) / cut.domain
    rows = []
    for box, rgb_YX3, mask_YX in cut_patches(slide, tumour, regions, cut):
        name = f"{stem}_{box.x}_{box.y}.png"
        image, mask = folder / "image" / name, folder / "mask" / name
        for path, array in ((root / image, rgb_YX3), (root / mask, mask_YX)):
            if path.exists():
                msg = f"{path} is there already: choose another folder, or remove that slide's patches first"
                raise OutputError(msg)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        row = Row(
            cut.task,
            cut.domain,
            image.as_posix(),
            mask.as_posix(),
            "",
            cut.mpp,
            "stated",
            cut.patient,
            slide.info.name,
        )
        rows.append(row)
    if not rows:
        msg = f"{slide.info.name}: no patch holds tissue or tumour; are the annotations of another slide?"
        raise DataError(msg)
    _list(root / "manifest.csv", rows)
    return len(rows)


def _check_folder(root: Path) -> None:
    """Refuse a folder whose images would be lost sight of, or whose manifest is of another kind."""
    path = root / "manifest.csv"
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.readline().rstrip("\r\n")
        if head != ",".join(COLUMNS):
            msg = f"{path} was not written by this command: write the patches into a folder of their own"
            raise OutputError(msg)
        return
    image = next((path for path in root.glob("*/*/image/*") if path.is_file()), None)
    if image:
        msg = (
            f"{root} holds images and no manifest.csv, such as {image.relative_to(root)}; one that lists the "
            "patches alone would hide them: write the patches into a folder of their own"
        )
        raise OutputError(msg)


def _list(path: Path, rows: list[Row]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerows(astuple(row) for row in rows)


def _starts(first: float, last: float, side: int) -> Iterator[int]:
    begin, end = int(np.floor(first)), int(np.ceil(last))
    count = max(1, -(-(end - begin) // side))
    for k in range(count):
        yield min(begin + k * side, max(begin, end - side))


def _mask(polygons: Polygons, box: Box[L0], bounds: Box[L0], size_px: int) -> npt.NDArray[np.uint8]:
    """A mask (Y, X) of 0 and 255 of polygons over a level-0 box; a pixel counts by its centre."""
    corner = np.array([box.x - bounds.x, box.y - bounds.y])
    in_patch = shapely.transform(polygons, lambda xy: (xy - corner) * (size_px / box.w))
    return filled(in_patch, (size_px, size_px)) * np.uint8(FULL)
