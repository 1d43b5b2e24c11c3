"""What the colours of a thumbnail say: glass, tissue, ink, grey or black, pixel by pixel.

H&E absorbs green most: whatever is stained has less green than red and blue together, and
that shows long before it looks coloured. A pen's blue and green absorb red most, a red pen
absorbs blue as much as green, and what is grey or black absorbs all alike. Everything is
judged against glass, and never against the slide's own contrast (as Otsu's threshold is),
for a slide may be all glass or all tissue.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Kind", "find_glass", "is_grey_scale", "kinds", "strips"]

Colours = npt.NDArray[np.float32]

STRIP_PX = 2**19
"""About so many pixels are worked on at once: a bound on memory, which moves no bit."""
FULL = 255.0

GLASS_LEAST, GLASS_CHROMA, GLASS_STAIN = 195, 16, 7.0
"""Glass is this bright in every channel, no more coloured than this, and looks no more stained."""
GLASS_SHARE, PEAK = 0.05, 4
"""Of all that may be glass, so much of one stain (give or take so many steps) is glass."""
STAINS, STAIN_STEP = 256, 0.25
"""Steps of stain that are told apart, and how large one is."""
FILL = 252
"""Channels this bright are fill, where nothing was scanned."""
USUAL_GLASS = (240.0, 240.0, 240.0)
"""Glass, where the picture shows none."""

STAINED, STAINED_SLOPE, TRACE = 3.5, 0.02, 0.5
"""How far green lies below the mean of red and blue in what is stained, were the brightest channel 255
(which is so under any lamp); more in the dark. Half of it counts at the rim of what is stained."""
COLOURED, COLOURED_SLOPE = 10.0, 0.06
"""Grey levels between the channels of what has a colour, and more in the dark."""
DARK = 45.0
"""Grey levels below glass from which what has no colour is grey."""
BLACK, BLACK_STAIN, BLACK_CHROMA = 70.0, 40.0, 0.2
"""No brighter is black, unless it looks stained, and its channels differ by this part of the brightest;"""
PITCH_BLACK = 50.0
"""and what is no brighter than this always is: a sensor's zero may be tinted."""

INK_DENSITY = 0.4
"""Optical density (natural logarithm) in red from which a blue or green may be a pen's."""
RED_OVER_GREEN, RED_OVER_BLUE, NEARLY = 1.35, 3.0, 0.95
"""Densities' ratios of blue and green pens; haematoxylin absorbs about as much red as green, and blue too."""
RED_INK_DENSITY, RED_INK_BLUE, RED_INK_RED = 0.9, 0.8, 0.35
"""A red pen's density in green, at least; in blue, at least, and in red, at most, as parts of it."""


class Kind(IntEnum):
    """What a pixel looks like; in the order of how much it tells.

    ``TRACE`` may be the rim of something stained. ``FAINT`` is stained so little that a single
    pixel proves nothing. ``PALE_INK`` is bluish or greenish: a pen's stroke runs out so, but
    mucus may look the same.
    """

    GLASS = 0
    TRACE = 1
    GREY = 2
    BLACK = 3
    FAINT = 4
    TISSUE = 5
    INK = 6
    PALE_INK = 7


def kinds(thumb_YX3: npt.NDArray[np.uint8], glass: Colours | None) -> npt.NDArray[np.uint8]:
    """The ``Kind`` of every pixel (Y, X) of a thumbnail (Y, X, 3), from the mean of its 3 × 3 square.

    Where no glass is to be seen nobody knows how the slide renders white, and so no colour is
    taken for ink: slides exist on which all glass is blue.

    >>> thumb = np.full((3, 4, 3), (90, 130, 220), np.uint8)
    >>> [Kind(kinds(thumb, glass)[0, 0]).name for glass in (np.float32([240, 240, 240]), None)]
    ['INK', 'TISSUE']
    """
    white = np.array(USUAL_GLASS, np.float32) if glass is None else glass
    found_YX = np.empty(thumb_YX3.shape[:2], np.uint8)
    for rows, nine_YX3 in _smooth(thumb_YX3):
        found_YX[rows] = _kinds(nine_YX3.astype(np.float32) / np.float32(9), white)
    if glass is None:
        found_YX[found_YX >= Kind.INK] = Kind.TISSUE
    return found_YX


def _kinds(mean_YX3: Colours, glass: Colours) -> npt.NDArray[np.uint8]:
    seen_YX3 = mean_YX3 * (np.float32(FULL) / glass)
    red_YX, green_YX, blue_YX = np.moveaxis(seen_YX3, 2, 0)
    below_YX = (FULL - (red_YX + (green_YX + blue_YX)) / 3).clip(0)
    stain_YX = _stain(seen_YX3) / (STAINED + STAINED_SLOPE * below_YX)
    coloured_YX = _most(seen_YX3) - _least(seen_YX3) > COLOURED + COLOURED_SLOPE * below_YX
    most_YX, least_YX = _most(mean_YX3), _least(mean_YX3)
    vivid_YX = (_stain(mean_YX3) >= BLACK_STAIN) & (most_YX - least_YX >= BLACK_CHROMA * most_YX)
    pale_YX = coloured_YX & (red_YX < green_YX)
    inked_YX = np.zeros_like(coloured_YX)
    inked_YX[coloured_YX] = _inked(seen_YX3[coloured_YX])
    kind_YX = np.zeros(below_YX.shape, np.uint8)
    for kind, where_YX in (
        (Kind.TRACE, stain_YX > TRACE),
        (Kind.GREY, below_YX > DARK),
        (Kind.FAINT, stain_YX > 1),
        (Kind.TISSUE, coloured_YX),
        (Kind.PALE_INK, pale_YX),
        (Kind.INK, inked_YX),
        (Kind.GLASS, least_YX >= FILL),
        (Kind.BLACK, (most_YX <= PITCH_BLACK) | ((most_YX <= BLACK) & ~vivid_YX)),
    ):
        kind_YX[where_YX] = kind
    return kind_YX


def _most(rgb_YX3: Any) -> Any:
    """The brightest channel; numpy's own maximum along so short an axis takes ten times as long."""
    return np.maximum(np.maximum(rgb_YX3[..., 0], rgb_YX3[..., 1]), rgb_YX3[..., 2])


def _least(rgb_YX3: Any) -> Any:
    """The darkest channel."""
    return np.minimum(np.minimum(rgb_YX3[..., 0], rgb_YX3[..., 1]), rgb_YX3[..., 2])


def _stain(rgb_YX3: Colours) -> Colours:
    """How far green lies below the mean of red and blue, where the brightest channel is made 255."""
    below_YX = (rgb_YX3[..., 0] + rgb_YX3[..., 2]) * np.float32(0.5) - rgb_YX3[..., 1]
    stain_YX: Colours = below_YX * (FULL / np.maximum(_most(rgb_YX3), 1))
    return stain_YX


def _inked(seen_N3: Colours) -> npt.NDArray[np.bool_]:
    """Where the light that passes is that of a pen's ink and not of H&E."""
    red_N, green_N, blue_N = -np.log(seen_N3.clip(1, FULL) / np.float32(FULL)).T
    cold_N = (red_N >= RED_OVER_GREEN * green_N) | (
        (red_N >= NEARLY * green_N) & (red_N >= RED_OVER_BLUE * blue_N)
    )
    warm_N = (blue_N >= RED_INK_BLUE * green_N) & (red_N <= RED_INK_RED * green_N)
    inked_N: npt.NDArray[np.bool_] = (cold_N & (red_N >= INK_DENSITY)) | (
        warm_N & (green_N >= RED_INK_DENSITY)
    )
    return inked_N


def find_glass(thumb_YX3: npt.NDArray[np.uint8]) -> Colours | None:
    """The colour of the glass (3,): the least stained that is common among what may be glass; or None.

    Not the commonest, for faint tissue may cover more of a slide than glass does; nor the
    brightest, for the lamp may stand over the tissue.
    """
    count_S, sum_SC = np.zeros(STAINS, np.int64), np.zeros((STAINS, 3), np.int64)
    for _, nine_YX3 in _smooth(thumb_YX3):
        least_YX = _least(nine_YX3)
        neutral_YX = _most(nine_YX3) - least_YX <= 9 * GLASS_CHROMA
        some_N3 = nine_YX3[neutral_YX & (least_YX >= 9 * GLASS_LEAST) & (least_YX < 9 * FILL)]
        stain_N = _stain(some_N3.astype(np.float32)) / np.float32(STAIN_STEP)
        bin_N = np.clip(np.floor(stain_N) + STAINS // 2, 0, STAINS - 1).astype(np.intp)
        count_S += np.bincount(bin_N, minlength=STAINS)
        for channel in range(3):
            weights = some_N3[:, channel].astype(np.float64)  # whole numbers: exact in any order
            sum_SC[:, channel] += np.bincount(bin_N, weights, STAINS).astype(np.int64)
    near_S = np.convolve(count_S, np.ones(2 * PEAK + 1, np.int64), "same")
    common = np.flatnonzero(near_S >= max(1, GLASS_SHARE * count_S.sum()))
    if not len(common):
        return None
    peak = int(common[0])
    while peak + 1 < STAINS and near_S[peak + 1] > near_S[peak]:
        peak += 1
    here = slice(max(0, peak - PEAK), peak + PEAK + 1)
    glass: Colours = (sum_SC[here].sum(axis=0) / (9 * count_S[here].sum())).astype(np.float32)
    return None if float(_stain(glass)) > GLASS_STAIN else glass


def is_grey_scale(thumb_YX3: npt.NDArray[np.uint8]) -> bool:
    """Whether a picture has no colour at all, so that darkness alone must tell tissue from glass."""
    return bool(
        (thumb_YX3[..., 0] == thumb_YX3[..., 1]).all() and (thumb_YX3[..., 1] == thumb_YX3[..., 2]).all()
    )


def strips(picture: npt.NDArray[Any]) -> Iterator[slice]:
    """The rows of a picture (Y, X, …) in strips of about ``STRIP_PX`` pixels."""
    height, width = picture.shape[:2]
    step = max(1, STRIP_PX // max(1, width))
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _smooth(thumb_YX3: npt.NDArray[np.uint8]) -> Iterator[tuple[slice, npt.NDArray[np.uint16]]]:
    """Strips of rows, with the exact sum over each pixel's 3 × 3 square; the rim is repeated outwards."""
    for strip in strips(thumb_YX3):
        rows = np.clip(np.arange(strip.start - 1, strip.stop + 1), 0, len(thumb_YX3) - 1)
        wide_YX3 = np.pad(thumb_YX3[rows].astype(np.uint16), ((0, 0), (1, 1), (0, 0)), "edge")
        three_YX3 = wide_YX3[:-2] + wide_YX3[1:-1] + wide_YX3[2:]
        yield strip, three_YX3[:, :-2] + three_YX3[:, 1:-1] + three_YX3[:, 2:]
