"""The port: what a slide library must give, and all of it that differs between libraries.

A module of this folder wraps one library as a ``Levels``. Choosing the level, mapping
boxes, resampling and errors are done once, in ``pyramid.py``, so that every library gives
the same pixels for the same tissue.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from wsiseg.geometry import L0, Box

__all__ = ["Facts", "Level", "Levels", "OpenLevels", "Raw", "flatten", "number"]


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

    ``mpp`` is microns per level-0 pixel along x and y, ``mpp_source`` the name of the
    property it comes from; None where the file does not say.
    """

    reader: str
    vendor: str
    levels: tuple[Level, ...]
    bounds: Box[L0] | None
    mpp: tuple[float | None, float | None]
    mpp_source: str
    objective: float | None


class Raw(NamedTuple):
    """``pixels`` (Y, X, 3) uint8 whose first one lies at level pixel ``x, y`` plus ``dx, dy``."""

    pixels: npt.NDArray[np.uint8]
    dx: float = 0.0
    dy: float = 0.0


class Levels(Protocol):
    """A slide as one library sees it: facts, and reading of one level."""

    foreign: tuple[type[Exception], ...]
    """What the library raises when it cannot read."""

    @property
    def facts(self) -> Facts:
        """What the file says of itself."""

    def read_level(self, level: int, box: tuple[int, int, int, int]) -> Raw:
        """The pixels ``x, y, w, h`` of one level, in its own pixels, inside its extent.

        RGB composited over the slide's own background colour, else over white.
        """

    def close(self) -> None:
        """Give the file back."""


OpenLevels = Callable[[Path], Levels]
"""Opens a slide with one library; raises ``SlideOpenError``."""


WHITE = (255, 255, 255)


def flatten(
    rgba_YX4: npt.NDArray[np.uint8], background: tuple[int, int, int] = WHITE
) -> npt.NDArray[np.uint8]:
    """RGBA (Y, X, 4) composited over a colour: (Y, X, 3).

    >>> flatten(np.array([[[0, 0, 0, 0], [9, 8, 7, 255]]], np.uint8)).tolist()
    [[[255, 255, 255], [9, 8, 7]]]
    """
    rgb, alpha = rgba_YX4[..., :3], rgba_YX4[..., 3:]
    if (alpha == 255).all():  # noqa: PLR2004 - opaque
        return np.ascontiguousarray(rgb)
    weight = alpha.astype(np.uint32)
    return ((rgb * weight + np.array(background, np.uint32) * (255 - weight) + 127) // 255).astype(np.uint8)


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
