"""``overview.png``: the slide at a glance, with what was found drawn on it."""

import math

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw, ImageFont

__all__ = ["MAX_PX", "draw_overview"]

MAX_PX = 2048
"""The longer side of the picture, in pixels."""

# Pillow's own font has no µ, ² or ≥: what is drawn is plain ASCII.
TUMOR, INK, PAPER = (200, 0, 0), (40, 40, 40), (255, 255, 255)


def draw_overview(
    thumbnail_YX3: npt.NDArray[np.uint8],
    polygons_N: npt.NDArray[np.object_],
    *,
    mpp: float,
    px_per_canvas_px: float,
    caption: str,
) -> Image.Image:
    """The thumbnail with outlines, a scale bar and a line of words below it.

    Args:
        thumbnail_YX3: the slide's bounds, RGB, at most ``MAX_PX`` on its longer side.
        polygons_N: shapely polygons in canvas pixels.
        mpp: microns per thumbnail pixel.
        px_per_canvas_px: thumbnail pixels per canvas pixel.
        caption: what the picture shows, one line.
    """
    height, width, _ = thumbnail_YX3.shape
    size = max(11, min(28, width // 60))
    font = ImageFont.load_default(size=size)
    strip = 2 * size + 8
    picture = Image.new("RGB", (width, height + strip), PAPER)
    picture.paste(Image.fromarray(thumbnail_YX3), (0, 0))
    pen = ImageDraw.Draw(picture)
    rings = shapely.get_rings(polygons_N) if len(polygons_N) else ()
    thickness = max(1, width // 500)
    for ring in rings:
        pen.line(
            list(map(tuple, shapely.get_coordinates(ring) * px_per_canvas_px)),
            TUMOR,
            thickness,
            joint="curve",
        )
    _scale_bar(pen, width, height, mpp, font)
    pen.text((6, height + strip // 2 + 2), caption, INK, font)
    return picture


def _scale_bar(
    pen: ImageDraw.ImageDraw,
    width: int,
    top: int,
    mpp: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """A bar of a round length, at most a quarter of the picture, under the slide."""
    length_um = _round_length(width * mpp / 4)
    length = length_um / mpp
    words = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} um"  # noqa: PLR2004 - µm in a mm
    pen.rectangle((6, top + 8, 6 + length, top + 12), INK)
    pen.text((14 + length, top + 2), words, INK, font)


def _round_length(most_um: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not more.

    >>> [_round_length(most) for most in (999.0, 1000.0, 430.0, 7.0)]
    [500.0, 1000.0, 200.0, 5.0]
    """
    power = 10.0 ** math.floor(math.log10(most_um))
    return max(step * power for step in (1, 2, 5) if step * power <= most_um)
