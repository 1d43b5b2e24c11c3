"""``overview.png``: the slide at a glance, with what was found drawn on it."""

import math

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw, ImageFont

__all__ = ["MAX_PX", "draw_overview"]

MAX_PX = 1984
"""The slide's longer side, in pixels; with the words below it a picture has at most 2048."""

# Pillow's own font has no µ, ² or ≥: what is drawn is plain ASCII.
TUMOR, REVIEW, INK, PAPER = (200, 0, 0), (255, 140, 0), (40, 40, 40), (255, 255, 255)
UNSEEN_PX = 0.4
"""How far a drawn outline may stray: less than a pixel."""
Rings = list[list[tuple[float, float]]]
TINT = 0.16
"""How much of the class's colour lies over a region: seen when small, and the tissue still shows."""


def draw_overview(
    thumbnail_YX3: npt.NDArray[np.uint8],
    polygons_N: npt.NDArray[np.object_],
    review_N: npt.NDArray[np.bool_],
    *,
    mpp: float,
    px_per_canvas_px: float,
    caption: str,
) -> Image.Image:
    """The thumbnail with tinted outlines, a scale bar and a line of words below it.

    Args:
        thumbnail_YX3: the slide's bounds, RGB, at most ``MAX_PX`` on its longer side.
        polygons_N: shapely polygons in canvas pixels.
        review_N: which of them are drawn orange, as to be reviewed, and not red.
        mpp: microns per thumbnail pixel.
        px_per_canvas_px: thumbnail pixels per canvas pixel.
        caption: what the picture shows, one line.
    """
    height, width, _ = thumbnail_YX3.shape
    size = max(11, min(28, width // 60))
    font = ImageFont.load_default(size=size)
    strip = 2 * size + 8
    slide = Image.fromarray(thumbnail_YX3)
    on_slide = shapely.transform(polygons_N, lambda xy: xy * px_per_canvas_px)
    layers = [(_rings(on_slide[~review_N]), TUMOR), (_rings(on_slide[review_N]), REVIEW)]
    for draw in (_tint, _outline):
        for regions, color in layers:
            draw(slide, regions, color)
    picture = Image.new("RGB", (width, height + strip), PAPER)
    picture.paste(slide, (0, 0))
    pen = ImageDraw.Draw(picture)
    _scale_bar(pen, width, height, mpp, font)
    pen.text((6, height + strip // 2 + 2), caption, INK, font)
    return picture


def _rings(polygons_N: npt.NDArray[np.object_]) -> list[Rings]:
    """Each polygon's shell and holes with no more corners than can be seen; the large polygons first."""
    if len(polygons_N) == 0:
        return []
    ring_R, owner_R = shapely.get_rings(polygons_N, return_index=True)
    simple_R = shapely.simplify(ring_R, UNSEEN_PX, preserve_topology=False)
    simple_R = np.where(shapely.is_empty(simple_R), ring_R, simple_R)
    regions: list[Rings] = [[] for _ in polygons_N]
    for ring, owner in zip(simple_R, owner_R.tolist(), strict=True):
        regions[owner].append([(x, y) for x, y in shapely.get_coordinates(ring).tolist()])
    return [regions[i] for i in np.argsort(-shapely.area(polygons_N), kind="stable").tolist()]


def _tint(slide: Image.Image, regions: list[Rings], color: tuple[int, int, int]) -> None:
    """Lay a colour over the inside; the large come first, for an island may lie in a hole."""
    mask = Image.new("L", slide.size)
    pen = ImageDraw.Draw(mask)
    for shell, *holes in regions:
        pen.polygon(shell, fill=round(TINT * 255))
        for hole in holes:
            pen.polygon(hole, fill=0)
    slide.paste(Image.new("RGB", slide.size, color), mask=mask)


def _outline(slide: Image.Image, regions: list[Rings], color: tuple[int, int, int]) -> None:
    """Draw every ring in a colour on a wider line of white, to stand out from pink tissue."""
    pen = ImageDraw.Draw(slide)
    thickness = max(1, slide.width // 400)
    for ink, wide in ((PAPER, thickness + 2), (color, thickness)):
        for rings in regions:
            for ring in rings:
                pen.line(ring, ink, wide)


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
