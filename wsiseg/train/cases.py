"""Labelled images and where they come from: the COSAS layout, with or without a manifest.

``<root>/<task>/<domain>/{image,mask}/<stem>.*``; ``<root>/manifest.csv``, where there is
one, names the pairs and adds microns per pixel, patient, data set, licence and source.
"""

import csv
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsiseg.errors import DataError
from wsiseg.train.decode import read_mask, read_rgb, some

__all__ = ["Case", "limited", "read_cases", "read_mask", "read_rgb", "tasks_of"]

log = logging.getLogger(__name__)

LARGEST_MPP = 10.0
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
NEEDED = ("task", "domain", "image", "mask", "mpp")  # columns of a manifest


@dataclass(frozen=True, slots=True)
class Case:
    """One image with its mask.

    Attributes:
        key: the image's path below the data folder, with forward slashes; unique.
        image, mask: the files.
        task, domain: COSAS' two folders: what is varied, and which value of it (an organ, a scanner).
        mpp: microns per pixel of the image; ``mpp_is`` says how that is known.
        patient: the patient or specimen; empty where unknown.
        dataset: the scope of ``patient``; ``dataset_is`` is "assumed" where the manifest does not say and
            this is but the domain's name.
        licence, source, organ, lab, meaning: as the manifest gives them (``meaning``: of a mask's 255).
        empty: whether the mask holds no tumour.
    """

    key: str
    image: Path
    mask: Path
    task: str
    domain: str
    mpp: float
    mpp_is: str
    patient: str = ""
    dataset: str = ""
    licence: str = "not stated"
    source: str = "not stated"
    organ: str = "not stated"
    lab: str = "not stated"
    meaning: str = "tumour"
    empty: bool = False
    dataset_is: str = "stated"

    @property
    def group(self) -> tuple[str, str]:
        """What must never be split: a patient of a data set, or the image where none is known.

        Where no data set is stated, patients of one name are one, whatever their domain and task.

        >>> scans = [Case("", Path(), Path(), "t", d, 0.5, "", "p1", d, dataset_is="assumed") for d in "ab"]
        >>> scans[0].group == scans[1].group
        True
        """
        if self.patient:
            return (self.scope, self.patient)
        return (self.dataset or self.domain, self.key)

    @property
    def scope(self) -> str:
        """The data set that is stated; empty where none is."""
        return self.dataset if self.dataset_is == "stated" else ""


def read_cases(root: Path, *, image_mpp: float) -> tuple[Case, ...]:
    """Every case below a data folder, each of its files decoded once, ordered by key.

    ``image_mpp`` is taken for images of which no manifest says their microns per pixel. Files that
    are left out are warned of, once for each domain.

    Raises:
        DataError: there are none, or some cannot be used; the message lists every one with its reason.
    """
    if not root.is_dir():
        msg = f"{root} is no folder: --data takes the folder that holds <task>/<domain>/image and mask"
        raise DataError(msg)
    manifest = root / "manifest.csv"
    if manifest.is_file():
        listed, wrong = _from_manifest(root, manifest)
        if not wrong:  # the image of a row that cannot be read is none that was forgotten
            _warn_unlisted(listed)
    else:
        listed, wrong = _from_folders(root, image_mpp), []
        _warn_left_out(root)
    total = len(listed) + len(wrong)
    wrong += _listed_twice(listed) + _half_scoped(listed)
    found: list[Case] = []
    with ThreadPoolExecutor(4) as pool:
        for case, checked in zip(listed, pool.map(_checked, listed), strict=True):
            if isinstance(checked, str):
                wrong.append(f"{case.key}: {checked}")
            else:
                found.append(checked)
    if wrong:
        msg = f"{len(wrong)} of {total} cases in {root} cannot be used:\n  " + "\n  ".join(wrong)
        raise DataError(msg)
    if not found:
        msg = f"{root} holds no case: expected <task>/<domain>/image/NAME.png beside mask/NAME.png"
        raise DataError(msg)
    return tuple(sorted(found, key=lambda case: case.key))


def tasks_of(cases: tuple[Case, ...]) -> tuple[str, ...]:
    """The tasks there are, in order of their names."""
    return tuple(sorted({case.task for case in cases}))


def limited(cases: tuple[Case, ...], per_domain: int | None) -> tuple[Case, ...]:
    """At most ``per_domain`` cases of each domain, spread evenly over it; all of them for None."""
    if per_domain is None:
        return cases
    kept: list[Case] = []
    for domain in sorted({(case.task, case.domain) for case in cases}):
        own = [case for case in cases if (case.task, case.domain) == domain]
        count = min(per_domain, len(own))
        kept.extend(own[i * len(own) // count] for i in range(count))
    return tuple(sorted(kept, key=lambda case: case.key))


def _checked(case: Case) -> Case | str:
    try:
        if not 0 < case.mpp <= LARGEST_MPP:
            return f"its mpp is {case.mpp}, expected microns per pixel up to {LARGEST_MPP:g}"
        mask = read_mask(case.mask)
        height, width = read_rgb(case.image).shape[:2]
    except DataError as error:
        return str(error)
    if mask.shape != (height, width):
        return f"its mask is {mask.shape[1]}×{mask.shape[0]}, the image {width}×{height}"
    return replace(case, empty=not mask.any())


def _from_manifest(root: Path, manifest: Path) -> tuple[list[Case], list[str]]:
    """The cases of the rows that say enough, and what is wrong with each of the others."""
    found: list[Case] = []
    wrong: list[str] = []
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            _check_columns(manifest, rows.fieldnames or ())
            for row in rows:
                read = _row(root, row)
                if isinstance(read, str):
                    wrong.append(f"{manifest.name}, line {rows.line_num}: {read}")
                else:
                    found.append(read)
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{manifest} is no CSV file in UTF-8: {error}"
        raise DataError(msg) from error
    return found, wrong


def _check_columns(manifest: Path, columns: Sequence[str]) -> None:
    missing = [repr(name) for name in NEEDED if name not in columns]
    if len(columns) == 1:
        msg = f"{manifest} has one column, {columns[0]!r}: save it with commas between its columns"
        raise DataError(msg)
    if missing:
        msg = f"{manifest} has no column {', '.join(missing)}: needed are {', '.join(NEEDED)}"
        raise DataError(msg)


def _row(root: Path, row: Mapping[str | Any, str | Any]) -> Case | str:
    """The case of a row, or what is wrong with the row."""
    if any(row.get(None, ())):
        return "it has more values than the header has columns: put values that hold commas in quotes"
    if None in row.values():
        count = sum(value is not None for value in row.values())
        return (
            f"it has {count} values and the header {len(row)} columns: write a comma for each empty value too"
        )
    blank = [name for name in NEEDED if not row[name].strip()]
    if blank:
        return f"{' and '.join(blank)} must not be empty"
    try:
        mpp = float(row["mpp"])
    except ValueError:
        return f"its mpp is {row['mpp']!r}, expected a number of microns per pixel"
    return Case(
        key=row["image"],
        image=root / row["image"],
        mask=root / row["mask"],
        task=row["task"],
        domain=row["domain"],
        mpp=mpp,
        mpp_is=row.get("mpp_is") or "stated",
        patient=row.get("patient_id") or "",
        dataset=row.get("dataset") or row["domain"],
        dataset_is="stated" if row.get("dataset") else "assumed",
        licence=row.get("licence") or "not stated",
        source=row.get("source") or "not stated",
        organ=row.get("organ") or "not stated",
        lab=row.get("scanner_or_lab") or "not stated",
        meaning=row.get("label_meaning") or "tumour",
    )


def _listed_twice(cases: Sequence[Case]) -> list[str]:
    counts = Counter(case.key for case in cases)
    return [f"{key}: the manifest lists it more than once" for key, count in counts.items() if count > 1]


def _half_scoped(cases: Sequence[Case]) -> list[str]:
    """A complaint for each case whose patient's name has a data set elsewhere: is that the same patient?"""
    scopes: dict[str, set[str]] = {}
    for case in cases:
        if case.patient and case.scope:
            scopes.setdefault(case.patient, set()).add(case.scope)
    return [
        f"{case.key}: patient {case.patient} has no dataset here, but is of "
        f"{some(sorted(scopes[case.patient]))} in another row: fill in dataset"
        for case in cases
        if not case.scope and case.patient in scopes
    ]


def _from_folders(root: Path, image_mpp: float) -> list[Case]:
    return [
        Case(
            key=image.relative_to(root).as_posix(),
            image=image,
            mask=_mask_of(image),
            task=image.parts[-4],
            domain=image.parts[-3],
            mpp=image_mpp,
            mpp_is="assumed",
            dataset=image.parts[-3],
            dataset_is="assumed",
        )
        for image in _images(root)
    ]


def _images(root: Path) -> Iterator[Path]:
    for path in sorted(root.glob("*/*/image/*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            yield path


def _mask_of(image: Path) -> Path:
    folder = image.parents[1] / "mask"
    found = [folder / (image.stem + suffix) for suffix in IMAGE_SUFFIXES]
    return next((path for path in found if path.is_file()), folder / f"{image.stem}.png")


def _warn_unlisted(cases: Sequence[Case]) -> None:
    """Warn of images that lie beside images of the manifest, but are not in it."""
    known = {path for case in cases for path in (case.image, case.mask)}
    suffixes = {*IMAGE_SUFFIXES, *(case.image.suffix.lower() for case in cases)}
    unlisted: dict[str, list[str]] = {}
    for folder, domain in {case.image.parent: f"{case.task}/{case.domain}" for case in cases}.items():
        names = [
            path.name for path in _files(folder) if path not in known and path.suffix.lower() in suffixes
        ]
        unlisted.setdefault(domain, []).extend(names)
    for domain, names in sorted(unlisted.items()):
        if names:
            log.warning(
                "%s: images that manifest.csv does not list are left out: %d (%s); add a row for each, "
                "or move them elsewhere",
                domain,
                len(names),
                some(names),
            )


def _warn_left_out(root: Path) -> None:
    """Warn of what lies in the folders of images and masks and is neither."""
    for folder in sorted(path for path in root.glob("*/*") if path.is_dir()):
        images, masks = _files(folder / "image"), _files(folder / "mask")
        domain = folder.relative_to(root).as_posix()
        others = [path.name for path in images if path.suffix.lower() not in IMAGE_SUFFIXES]
        if others:
            log.warning(
                "%s: files in image that are no PNG, JPEG or TIFF are left out: %d (%s); save them as PNG",
                domain,
                len(others),
                some(others),
            )
        stems = {path.stem for path in images}
        lone = [path.name for path in masks if path.stem not in stems]
        if lone:
            log.warning(
                "%s: masks without an image of their name are left out: %d (%s); add the images, "
                "or remove the masks",
                domain,
                len(lone),
                some(lone),
            )


def _files(folder: Path) -> list[Path]:
    """The files of a folder in order of their names, but for those that a file manager hides there."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name not in {"Thumbs.db", "desktop.ini"}
    )
