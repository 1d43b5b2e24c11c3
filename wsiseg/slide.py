"""What is known of a slide, and the two members that anything readable as one must have."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsiseg.geometry import L0, Box

__all__ = ["Slide", "SlideInfo"]


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """The facts of one slide; reading them decodes no full-resolution pixel.

    Attributes:
        name: the file's name, with its ending and without its folder.
        width, height: level 0, in pixels.
        bounds: the part of level 0 that was scanned; all of it where the file does not say.
            QuPath crops to it, so its corner is QuPath's (0, 0).
        mpp: microns per level-0 pixel, the mean of x and y.
        mpp_source: where ``mpp`` comes from, in words: ``"--slide-mpp"``, ``"list"``,
            ``"openslide.mpp-x"``, ``"objective power 40"``, …
        objective: the objective's magnification, or None where the file does not say.
        downsamples: level-0 pixels per pixel of each level, from the levels' true sizes.
        vendor: the format's name as its reader spells it (``"aperio"``).
        reader: the library that opened it, with its version (``"openslide 4.0.1"``).
        fingerprint: sha256 (hex) over every byte of the file and its side-car files.
        colour: what was done to the stored colours, in words; an ICC profile is never applied.
    """

    name: str
    width: int
    height: int
    bounds: Box[L0]
    mpp: float
    mpp_source: str
    objective: float | None
    downsamples: tuple[float, ...]
    vendor: str
    reader: str
    fingerprint: str
    colour: str = "as stored"

    @property
    def extent(self) -> Box[L0]:
        """All of level 0."""
        return Box(0, 0, self.width, self.height)


class Slide(Protocol):
    """A source of pixels: facts, and one way to read.

    A slide holds open handles, so it refuses to be pickled: send the path and open it there.
    """

    @property
    def info(self) -> SlideInfo:
        """The slide's facts."""

    def read(self, box: Box[L0], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The pixels of a level-0 box, resampled once to ``size`` = (height, width).

        Returns (Y, X, 3) uint8 RGB; white wherever there is no slide, or no data in it.
        Two boxes whose corners are whole multiples of one step give the same colours where
        they overlap: a pixel does not depend on the box it was read with.

        Raises:
            SlideReadError: a part of the box cannot be decoded; names slide and region.
        """
