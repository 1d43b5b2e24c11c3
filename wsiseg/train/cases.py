"""Labelled images and where they come from: the COSAS layout, with or without a manifest.

``<root>/<task>/<domain>/{image,mask}/<stem>.*``; ``<root>/manifest.csv``, where there is
one, names the pairs and adds microns per pixel, patient, data set, licence and source.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from wsiseg.errors import DataError

__all__ = ["Case", "limited", "read_cases", "read_mask", "read_rgb", "tasks_of"]

LARGEST_MPP = 10.0
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Case:
    """One image with its mask.

    Attributes:
        key: the image's path below the data folder, with forward slashes; unique.
        image, mask: the files.
        task, domain: COSAS' two folders: what is varied, and which value of it (an organ, a scanner).
        mpp: microns per pixel of the image; ``mpp_is`` says how that is known.
        patient: the patient or specimen; empty where unknown.
        dataset: the scope of ``patient``; the domain where the manifest does not say.
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

    @property
    def group(self) -> tuple[str, str]:
        """What must never be split: a patient of a data set, or the image where none is known."""
        return (self.dataset or self.domain, self.patient or self.key)


def read_cases(root: Path, *, image_mpp: float) -> tuple[Case, ...]:
    """Every case below a data folder, each of its files decoded once, ordered by key.

    ``image_mpp`` is taken for images of which no manifest says their microns per pixel.

    Raises:
        DataError: there are none, or some cannot be used; the message lists every one with its reason.
    """
    if not root.is_dir():
        msg = f"{root} is no folder: --data takes the folder that holds <task>/<domain>/image and mask"
        raise DataError(msg)
    manifest = root / "manifest.csv"
    listed = _from_manifest(root, manifest) if manifest.is_file() else _from_folders(root, image_mpp)
    twice = [key for key, count in Counter(case.key for case in listed).items() if count > 1]
    wrong = [f"{key}: the manifest lists it more than once" for key in twice]
    found: list[Case] = []
    with ThreadPoolExecutor(4) as pool:
        for case, checked in zip(listed, pool.map(_checked, listed), strict=True):
            if isinstance(checked, str):
                wrong.append(f"{case.key}: {checked}")
            else:
                found.append(checked)
    if wrong:
        msg = f"{len(wrong)} of {len(listed)} cases in {root} cannot be used:\n  " + "\n  ".join(wrong)
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


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """An image as (Y, X, 3) uint8 RGB; transparency is laid over white.

    Raises:
        DataError: the file is missing, damaged or no image.
    """
    picture = _opened(path)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """A mask as (Y, X) uint8, 0 or 255: tumour is whatever is not 0 in any channel.

    COSAS masks have one or three channels and values 0/1 or 0/255 (an alpha channel is ignored).

    Raises:
        DataError: the file is missing, damaged or no image.
    """
    values = np.asarray(_opened(path))
    if values.ndim > len("YX"):
        colours = values.shape[2] - (values.shape[2] in {2, 4})
        values = values[..., :colours].max(axis=2)
    return np.where(values > 0, np.uint8(255), np.uint8(0))


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except FileNotFoundError as error:
        msg = f"{path} is missing"
        raise DataError(msg) from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        msg = f"{path} cannot be decoded ({error})"
        raise DataError(msg) from error


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


def _from_manifest(root: Path, manifest: Path) -> list[Case]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            return [_row(root, row, number) for number, row in enumerate(csv.DictReader(file), 2)]
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{manifest} is no CSV file in UTF-8: {error}"
        raise DataError(msg) from error


def _row(root: Path, row: Mapping[str, str], number: int) -> Case:
    try:
        return Case(
            key=row["image"],
            image=root / row["image"],
            mask=root / row["mask"],
            task=row["task"],
            domain=row["domain"],
            mpp=float(row["mpp"]),
            mpp_is=row.get("mpp_is") or "stated",
            patient=row.get("patient_id") or "",
            dataset=row.get("dataset") or row["domain"],
            licence=row.get("licence") or "not stated",
            source=row.get("source") or "not stated",
            organ=row.get("organ") or "not stated",
            lab=row.get("scanner_or_lab") or "not stated",
            meaning=row.get("label_meaning") or "tumour",
        )
    except KeyError as error:
        msg = f"{root / 'manifest.csv'} has no column {error}: needed are task, domain, image, mask, mpp"
        raise DataError(msg) from error
    except (TypeError, ValueError) as error:
        msg = f"{root / 'manifest.csv'}, line {number}: {error}"
        raise DataError(msg) from error


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
