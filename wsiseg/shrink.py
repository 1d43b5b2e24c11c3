"""Resampling of a slide's own pixels to the canvas, five times as fast as Pillow's.

torch's anti-aliased kernel for uint8 is the same filter with weights of 15 bits instead of 22, so one
value in a few hundred differs by one grey level (decision 0013). It always begins a picture with output
pixel 0, and knows no box: here a box is put where its pixels would lie in the whole picture, modulo the
lattice. So a pixel does not depend on the box that it was read with, which is the law of ``pyramid.py``.
"""

import math
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np
import numpy.typing as npt

from wsiseg.resample import SUPPORT

__all__ = ["LATTICE", "METHOD", "shrink", "shrinks"]

METHOD = "method 2"
"""Changes whenever patches would be resampled to other bits, so that no half-done map is continued so."""
LATTICE = 128
"""Output pixels: boxes on multiples of it get the same bits where they overlap. Source and output pixels
begin together again after as many, or a whole part of that."""
COARSEST = 16
"""Source pixels per output pixel, beyond which nothing is gained."""


def shrinks(step_x: float, step_y: float) -> bool:
    """Whether ``shrink`` can take so many source pixels per output pixel: multiples of 1/128.

    >>> shrinks(188 / 128, 188 / 128), shrinks(1.4677, 1.4677), shrinks(0.5, 0.5)
    (True, False, False)
    """
    return all(1 < step <= COARSEST and (step * LATTICE).is_integer() for step in (step_x, step_y))


def shrink(
    image_YX3: npt.NDArray[np.uint8], size: tuple[int, int], *, box: tuple[float, float, float, float]
) -> npt.NDArray[np.uint8]:
    """Resample a box of an image (Y, X, 3) uint8 to ``size`` = (height, width), bilinear and anti-aliased.

    ``box`` is ``left, top, right, bottom`` in pixels of the image: ``left`` and ``top`` are whole, a step
    of ``shrinks`` lies between two outputs, and all of the image that the kernel reaches lies around it.

    >>> shrink(np.full((14, 17, 3), 7, np.uint8), (4, 6), box=(4, 4, 13, 10)).shape
    (4, 6, 3)
    """
    import torch  # noqa: PLC0415 - only where a network is run, which has loaded it

    left, top, right, bottom = box
    across, down = _Axis.of(left, right, size[1]), _Axis.of(top, bottom, size[0])
    laid_YX3 = _room(down.source, across.source)
    (there_y, here_y), (there_x, here_x) = down.moved(image_YX3.shape[0]), across.moved(image_YX3.shape[1])
    laid_YX3[there_y, there_x] = image_YX3[here_y, here_x]
    found_1CYX = torch.nn.functional.interpolate(
        torch.from_numpy(laid_YX3)[None].permute(0, 3, 1, 2),  # channels-last; numpy's [None] would hide it
        scale_factor=(1 / down.step, 1 / across.step),
        mode="bilinear",
        antialias=True,
    )
    found_YX3: npt.NDArray[np.uint8] = found_1CYX.permute(0, 2, 3, 1).numpy()[0]
    return found_YX3[down.wanted, across.wanted]


_KEPT = threading.local()
"""A thread's room for what is laid out: to ask the system for it again costs as much as to resample it."""


def _room(height: int, width: int) -> npt.NDArray[np.uint8]:
    """An array (Y, X, 3) whose values are what they happen to be; the thread's last one is it no more."""
    size = height * width * 3
    if getattr(_KEPT, "room", np.empty(0)).size < size:
        _KEPT.room = np.empty(size, np.uint8)
    room: npt.NDArray[np.uint8] = _KEPT.room
    return room[:size].reshape(height, width, 3)


@dataclass(frozen=True, slots=True)
class _Axis:
    """How a run of source pixels is laid out so that torch, which begins with output 0, sees its phase.

    torch rounds all weights to the bits that the largest leaves room for. So a whole period lies before the
    outputs that are wanted, and the end is where the last one's support ends: there are no other weights.

    Attributes:
        step: source pixels per output pixel.
        shift: from a place in the image to its place in what is laid out.
        source: pixels laid out; what no wanted output reaches is left as memory has it.
        reached: the first and the last but one of the image's pixels that outputs reach.
        wanted: the outputs that count.
    """

    step: float
    shift: int
    source: int
    reached: tuple[int, int]
    wanted: slice

    @classmethod
    def of(cls, start: float, stop: float, count: int) -> Self:
        step = (stop - start) / count
        reach = 1 + math.ceil(SUPPORT["bilinear"] * step)
        period = Fraction(step).denominator
        before = period * math.ceil(reach / (period * step))
        return cls(
            step=step,
            shift=round(before * step - start),
            source=round((before + count + 0.5) * step),
            reached=(math.floor(start) - reach, math.ceil(stop) + reach),
            wanted=slice(before, before + count),
        )

    def moved(self, length: int) -> tuple[slice, slice]:
        """Where in the layout pixels go, and where they come from in an image so many pixels long."""
        first, last = self.reached[0], min(self.reached[1], self.source - self.shift)
        assert 0 <= first < self.reached[1] <= length, f"{self.reached} of {length} pixels"
        return slice(first + self.shift, last + self.shift), slice(first, last)
