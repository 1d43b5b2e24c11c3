"""Boxes in two frames, and the one number that joins them.

Two frames of whole pixels exist, and the type says which one a box is in:

``L0``
    level-0 pixels of the slide file, origin at the top left of the file's own extent.
``Canvas``
    pixels at the resolution the network sees, origin at the top left of the slide's
    bounds. Canvas pixel *i* covers level 0 from ``origin + i * factor`` to
    ``origin + (i + 1) * factor``.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["L0", "Box", "Canvas", "Scale"]


class L0:
    """The frame of level-0 pixels (a type-level tag, never instantiated)."""


class Canvas:
    """The frame of canvas pixels (a type-level tag, never instantiated)."""


F = TypeVar("F", L0, Canvas)


@dataclass(frozen=True)  # no slots: with them Python 3.11 cannot set the generic's own attribute
class Box(Generic[F]):
    """A half-open rectangle of whole pixels in frame ``F``.

    It covers ``x <= px < x + w`` and ``y <= py < y + h``; it may begin left of or above
    the origin (a patch's margin does), and may be empty.

    >>> Box[Canvas](2, 3, 4, 5) & Box[Canvas](0, 0, 4, 4)
    Box(x=2, y=3, w=2, h=1)
    """

    x: int
    y: int
    w: int
    h: int

    def __post_init__(self) -> None:
        assert self.w >= 0, f"width {self.w} < 0"
        assert self.h >= 0, f"height {self.h} < 0"

    def __iter__(self) -> Iterator[int]:
        """Yield ``x, y, w, h``."""
        return iter((self.x, self.y, self.w, self.h))

    def __bool__(self) -> bool:
        """Whether the box holds any pixel."""
        return self.w > 0 and self.h > 0

    def __and__(self, other: "Box[F]") -> "Box[F]":
        """The pixels in both boxes; where there are none, an empty box."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        return Box(
            x,
            y,
            max(0, min(self.right, other.right) - x),
            max(0, min(self.bottom, other.bottom) - y),
        )

    def __or__(self, other: "Box[F]") -> "Box[F]":
        """The smallest box that holds both."""
        x, y = min(self.x, other.x), min(self.y, other.y)
        return Box(x, y, max(self.right, other.right) - x, max(self.bottom, other.bottom) - y)

    @property
    def right(self) -> int:
        """The first column that is no longer inside."""
        return self.x + self.w

    @property
    def bottom(self) -> int:
        """The first row that is no longer inside."""
        return self.y + self.h

    @property
    def area(self) -> int:
        """The number of pixels."""
        return self.w * self.h

    def contains(self, other: "Box[F]") -> bool:
        """Whether every pixel of ``other`` is in this box.

        >>> Box[L0](0, 0, 4, 4).contains(Box[L0](1, 1, 3, 3))
        True
        """
        return (
            self.x <= other.x
            and self.y <= other.y
            and other.right <= self.right
            and other.bottom <= self.bottom
        )

    def grown(self, by: int) -> "Box[F]":
        """The box with ``by`` pixels added on every side."""
        return Box(self.x - by, self.y - by, self.w + 2 * by, self.h + 2 * by)

    def within(self, outer: "Box[F]") -> tuple[slice, slice]:
        """The ``(rows, columns)`` at which this box lies in an array that covers ``outer``."""
        assert outer.contains(self), f"{self} is not inside {outer}"
        x, y = self.x - outer.x, self.y - outer.y
        return slice(y, y + self.h), slice(x, x + self.w)


@dataclass(frozen=True, slots=True)
class Scale:
    """How the canvas lies on level 0.

    ``factor`` is level-0 pixels per canvas pixel; ``x, y`` is the level-0 pixel at which
    canvas pixel (0, 0) begins: the slide's bounds, so that canvas × factor is QuPath's
    own coordinate.
    """

    factor: float
    x: int = 0
    y: int = 0

    def __post_init__(self) -> None:
        assert self.factor > 0, f"factor {self.factor} is not positive"

    @classmethod
    def snapped(cls, factor: float, unit: int, *, x: int = 0, y: int = 0) -> "Scale":
        """The scale nearest to ``factor`` under which ``unit`` canvas pixels are whole on level 0.

        Every box whose corners are multiples of ``unit`` then begins on a whole level-0
        pixel, so that a canvas pixel's colour cannot depend on the box it was read with.

        >>> Scale.snapped(1.4677, 128).factor * 128
        188.0
        """
        return cls(max(1, round(factor * unit)) / unit, x, y)

    def to_l0(self, box: Box[Canvas]) -> Box[L0]:
        """The smallest level-0 box that covers a canvas box.

        >>> Scale(1.5, x=10).to_l0(Box[Canvas](2, 2, 3, 3))
        Box(x=13, y=3, w=5, h=5)
        """
        x, y = math.floor(box.x * self.factor), math.floor(box.y * self.factor)
        right, bottom = math.ceil(box.right * self.factor), math.ceil(box.bottom * self.factor)
        return Box(x + self.x, y + self.y, right - x, bottom - y)

    def to_canvas(self, box: Box[L0]) -> Box[Canvas]:
        """The smallest canvas box that covers a level-0 box.

        >>> Scale(1.5, x=10).to_canvas(Box[L0](13, 3, 5, 5))
        Box(x=2, y=2, w=4, h=4)
        """
        x, y = math.floor((box.x - self.x) / self.factor), math.floor((box.y - self.y) / self.factor)
        right = math.ceil((box.right - self.x) / self.factor)
        bottom = math.ceil((box.bottom - self.y) / self.factor)
        return Box(x, y, right - x, bottom - y)
