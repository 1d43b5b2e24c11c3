"""The port: what a slide library must give, and all of it that differs between libraries.

A module of this folder wraps one library as a ``Levels``. Choosing the level, mapping
boxes, resampling and errors are done once, in ``pyramid.py``, so that every library gives
the same pixels for the same tissue.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from wsiseg.geometry import L0, Box
from wsiseg.readers.resolution import ome_mpp

__all__ = [
    "Facts",
    "Level",
    "Levels",
    "OpenLevels",
    "Raw",
    "Reader",
    "bounds_in",
    "first_level0",
    "flatten",
    "flatten_weighed",
    "icc_said",
    "number",
    "whiten",
    "with_ome_mpp",
]

Box4 = tuple[int, int, int, int]
"""``x, y, w, h`` in the pixels of one level."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid: its size in its own pixels.

    ``whole`` says that a read begins exactly on the pixel asked for; where it does not, the
    library interpolates and ``Raw`` carries the difference.
    """

    width: int
    height: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What the library says of a slide, unjudged.

    ``reader`` is the library and its version (``"openslide 4.0.1"``), which becomes part of
    the job's key. ``mpp`` is microns per level-0 pixel along x and y, ``mpp_source`` the name
    of the property it comes from; None where the file does not say. ``colour`` tells what
    was done to the stored colours, and what was not.
    """

    reader: str
    vendor: str
    levels: tuple[Level, ...]
    bounds: Box[L0] | None
    mpp: tuple[float | None, float | None]
    mpp_source: str
    objective: float | None
    colour: str = "as stored"


class Raw(NamedTuple):
    """``pixels`` (Y, X, 3) uint8 whose first one lies at level pixel ``x, y`` plus ``dx, dy``."""

    pixels: npt.NDArray[np.uint8]
    dx: float = 0.0
    dy: float = 0.0


class Levels(Protocol):
    """A slide as one library sees it: facts, and reading of one level."""

    @property
    def facts(self) -> Facts:
        """What the file says of itself."""

    def read_level(self, level: int, box: Box4) -> Raw:
        """The pixels ``x, y, w, h`` of one level, in its own pixels, inside its extent.

        RGB composited over the slide's own background colour, else over white. Whatever it raises
        (but want of memory) says that these cannot be decoded.
        """

    def close(self) -> None:
        """Give the file back."""


OpenLevels = Callable[[Path], Levels]
"""Opens a slide with one library; whatever it raises says that it cannot."""


class Reader(Protocol):
    """One library, as the registry knows it: a class of ``Levels`` with a static ``knows`` is one."""

    def knows(self, path: Path) -> bool:
        """Whether a file or folder is of a format that this reader takes on, be it readable or not.

        It is asked of any file at all: it looks at a few bytes or the ending, and does not raise.
        """

    def __call__(self, path: Path) -> Levels:
        """Open a slide; ``open_slide`` makes a sentence of what it raises, but for a ``SlideOpenError``."""


WHITE = (255, 255, 255)


def flatten(rgba_YX4: npt.NDArray[np.uint8], background: tuple[int, ...] = WHITE) -> npt.NDArray[np.uint8]:
    """RGBA (Y, X, 4) composited over a colour: (Y, X, 3).

    >>> flatten(np.array([[[0, 0, 0, 0], [9, 8, 7, 255]]], np.uint8)).tolist()
    [[[255, 255, 255], [9, 8, 7]]]
    """
    rgb, alpha = rgba_YX4[..., :3], rgba_YX4[..., 3:]
    if (alpha == 255).all():  # noqa: PLR2004 - opaque
        return np.ascontiguousarray(rgb)
    weight = alpha.astype(np.uint32)
    return ((rgb * weight + np.array(background, np.uint32) * (255 - weight) + 127) // 255).astype(np.uint8)


def flatten_weighed(
    rgba_YX4: npt.NDArray[np.uint8], background: tuple[int, ...] = WHITE
) -> npt.NDArray[np.uint8]:
    """The same for colours that hold their alpha already (TIFF 6.0, "associated").

    >>> flatten_weighed(np.array([[[50, 50, 50, 128]]], np.uint8)).tolist()
    [[[177, 177, 177]]]
    """
    alpha = rgba_YX4[..., 3:].astype(np.uint16)
    behind = (np.array(background, np.uint16) * (255 - alpha) + 127) // 255
    return np.minimum(rgba_YX4[..., :3] + behind, 255).astype(np.uint8)


def whiten(
    rgb_YX3: npt.NDArray[np.uint8], absent_YX: npt.NDArray[np.bool_], piece: tuple[int, int], box: Box4
) -> None:
    """Make white what lies in tiles or chunks (of ``piece`` = (h, w) pixels) that the file does not hold."""
    x, y, w, h = box
    rows, columns = np.arange(y, y + h) // piece[0], np.arange(x, x + w) // piece[1]
    rgb_YX3[absent_YX[np.ix_(rows, columns)]] = WHITE


def bounds_in(properties: Mapping[str, Any], library: str) -> Box[L0] | None:
    """The scanned part of level 0; None where OpenSlide's four properties, or tiffslide's, do not all say.

    >>> bounds_in({f"x.bounds-{side}": "5" for side in ("x", "y", "width", "height")}, "x")
    Box(x=5, y=5, w=5, h=5)
    """
    sides = [properties.get(f"{library}.bounds-{side}") for side in ("x", "y", "width", "height")]
    return None if None in sides else Box(*(int(str(side)) for side in sides))


def first_level0(at: int, downsample: float) -> int:
    """The first level-0 pixel which a library that rounds down takes for level pixel ``at``.

    >>> first_level0(3, 2.0005)
    7
    """
    found = int(at * downsample)
    while int(found / downsample) < at:
        found += 1
    return found


def with_ome_mpp(facts: Facts, xml: str) -> Facts:
    """The same facts with the resolution of an OME-XML, which counts before that of resolution tags."""
    stated = ome_mpp(xml)
    return facts if None in stated else replace(facts, mpp=stated, mpp_source="OME PhysicalSizeX")


def icc_said(size: int) -> str:
    """What is said of an embedded colour profile of so many bytes."""
    return f"as stored; the ICC profile in the file ({size} bytes) is not applied" if size else "as stored"


def number(text: object) -> float | None:
    """A property as a finite number; None where it is absent or no number.

    >>> number("0.499"), number("nan"), number(None)
    (0.499, None, None)
    """
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
