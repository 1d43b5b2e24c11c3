"""Image and mask files as arrays, and why some of them are refused."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from wsiseg.errors import DataError

__all__ = ["read_mask", "read_rgb", "some"]

NAMED = 6  # files or values that a message names before it counts the rest


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """An image as (Y, X, 3) uint8 RGB; transparency is laid over white.

    Raises:
        DataError: the file is missing, damaged or no image, or has more than 8 bits a channel.
    """
    picture = _opened(path)
    if picture.mode[0] in "IF":
        msg = f"{path} has more than 8 bits a channel ({picture.mode}): save it as RGB with 8 bits"
        raise DataError(msg)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """A mask as (Y, X) uint8, 0 or 255: tumour is whatever is not 0 in any channel.

    COSAS masks have one or three channels and values 0/1 or 0/255 (an alpha channel is ignored).
    Other values may be classes, an edge that was smoothed or what JPEG made of it: nobody said
    that they are tumour.

    Raises:
        DataError: the file is missing, damaged, no image, or holds other values.
    """
    values = np.asarray(_opened(path))
    if values.ndim > len("YX"):
        colours = values.shape[2] - (values.shape[2] in {2, 4})
        values = values[..., :colours]
    if not any(np.isin(values, (0, high)).all() for high in (1, 255)):
        found = some(f"{value:g}" for value in np.unique(values))
        lossy = ", as PNG, for JPEG changes values" if path.suffix.lower() in {".jpg", ".jpeg"} else ""
        msg = f"{path} holds the values {found}: save it with 0 (no tumour) and 255 (tumour) only{lossy}"
        raise DataError(msg)
    if values.ndim > len("YX"):
        values = values.max(axis=2)
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


def some(names: Iterable[str]) -> str:
    """Names with commas between, and how many more there are after the first few."""
    every = list(names)
    more = len(every) - NAMED
    return ", ".join(every[:NAMED]) + (f" and {more} more" if more > 0 else "")
