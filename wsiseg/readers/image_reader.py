"""A plain picture: PNG, JPEG or flat TIFF, such as one patch cut from a slide.

It is decoded whole when it is opened. Its pixels are taken in the order in which they are
stored: an EXIF orientation is not applied, so that outlines lie on the file's own pixels.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import PIL
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from wsiseg.errors import SlideOpenError
from wsiseg.readers.content import TIFF, check_tiff
from wsiseg.readers.levels import Facts, Level, Raw, flatten, icc_said
from wsiseg.readers.resolution import UM

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = ["MOST_PX", "ImageLevels"]

MOST_PX = 100_000_000
"""The largest picture that is decoded whole: 300 MB."""
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
DEPTH_AT = 24
"""Where a PNG says its bits per sample (PNG 1.2, IHDR)."""
MODES = {"RGB", "RGBA", "L", "LA", "P", "PA"}
"""Pillow's names for 8-bit colour and grey, with and without alpha or palette."""
ROWS = 1024
"""Rows made opaque at once: a bound on memory."""


class ImageLevels:
    """A picture of one level, in memory."""

    @staticmethod
    def knows(path: Path) -> bool:
        """Whether it is a PNG, a JPEG or a TIFF."""
        return path.is_file() and _head(path).startswith((PNG, JPEG, *TIFF))

    def __init__(self, path: Path) -> None:
        with _opened(path) as picture:
            _check(path, picture)
            self._facts = _facts(picture)
            self._rgb_YX3: npt.NDArray[np.uint8] | None = _decoded(picture)

    @property
    def facts(self) -> Facts:
        """What the file says of itself."""
        return self._facts

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """The pixels ``x, y, w, h`` of the only level."""
        assert level == 0, level
        if self._rgb_YX3 is None:
            msg = "the picture is closed"
            raise OSError(msg)
        x, y, w, h = box
        return Raw(self._rgb_YX3[y : y + h, x : x + w])

    def close(self) -> None:
        """Give the memory back."""
        self._rgb_YX3 = None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(DEPTH_AT + 1)


def _opened(path: Path) -> "ImageFile":
    """The picture, of which only the header has been read."""
    head = _head(path)
    if head.startswith(PNG):
        if head[DEPTH_AT] > 8:  # noqa: PLR2004 - bits; Pillow would drop the lower half
            msg = f"{path.name} holds {head[DEPTH_AT]}-bit pixels, not 8-bit ones; save it as 8-bit RGB"
            raise SlideOpenError(msg)
        return PngImageFile(path)
    if head.startswith(JPEG):
        return JpegImageFile(path)
    check_tiff(path, series=True)
    return TiffImageFile(path)


def _check(path: Path, picture: "ImageFile") -> None:
    """Refuse, before it is decoded, what is too large or in colours of another kind."""
    width, height = picture.size
    if width * height > MOST_PX:
        msg = (
            f"{path.name} has {width} × {height} pixels; a plain picture is read up to {MOST_PX // 10**6} "
            f"megapixels: make it a tiled pyramid (`vips tiffsave {path.name} x.tif --tile --pyramid`)"
        )
        raise SlideOpenError(msg)
    if picture.mode not in MODES:
        msg = f"{path.name} stores its colours as {picture.mode}, which is not read; save it as 8-bit RGB"
        raise SlideOpenError(msg)
    if getattr(picture, "n_frames", 1) > 1:
        msg = f"{path.name} holds several pictures; save the one that is meant by itself"
        raise SlideOpenError(msg)


def _facts(picture: "ImageFile") -> Facts:
    dpi = picture.info.get("dpi")
    mpp = tuple(UM["inch"] / float(value) if value else None for value in dpi) if dpi else (None, None)
    return Facts(
        reader=f"pillow {PIL.__version__}",
        vendor=(picture.format or "image").lower(),
        levels=(Level(*picture.size),),
        bounds=None,
        mpp=(mpp[0], mpp[1]),
        mpp_source="resolution tags",
        objective=None,
        colour=icc_said(len(picture.info.get("icc_profile") or b"")),
    )


def _decoded(picture: "ImageFile") -> npt.NDArray[np.uint8]:
    """All pixels (Y, X, 3), transparency over white."""
    if isinstance(picture, JpegImageFile):
        return _strictly(picture)
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return np.array(picture)
    if picture.mode == "L" and "transparency" not in picture.info:
        return np.array(picture.convert("RGB"))
    width, height = picture.size
    rgb_YX3 = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, ROWS):
        strip = picture.crop((0, top, width, min(top + ROWS, height))).convert("RGBA")
        rgb_YX3[top : top + ROWS] = flatten(np.asarray(strip))
    return rgb_YX3


def _strictly(picture: JpegImageFile) -> npt.NDArray[np.uint8]:
    """The pixels (Y, X, 3) of a JPEG, grey or in colour; Pillow would make a picture of a damaged one.

    Raises:
        ValueError: it is damaged.
    """
    assert picture.fp is not None
    picture.fp.seek(0)
    library = import_module("simplejpeg")
    rgb_YX3: npt.NDArray[np.uint8] = library.decode_jpeg(picture.fp.read(), "RGB", strict=True)
    return rgb_YX3
