"""``overview.png``: the slide at a glance, with what was found drawn on it."""

import math

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw, ImageFont

__all__ = ["MAX_PX", "draw_overview", "hatched", "traced"]

MAX_PX = 1984
"""The slide's longer side, in pixels; with the words below it a picture has at most 2048."""

# Pillow's own font has no µ, ² or ≥: what is drawn is plain ASCII.
TUMOR, REVIEW, INK, PAPER = (200, 0, 0), (255, 140, 0), (40, 40, 40), (255, 255, 255)
UNKNOWN, TISSUE = (110, 110, 110), (0, 120, 140)
MARGIN_PX = 6
LEAST_WIDE_PX = 640
"""A picture is no narrower, whatever its slide is: words need room."""
UNSEEN_PX = 0.4
"""How far a drawn outline may stray: less than a pixel."""
Rings = list[list[tuple[float, float]]]
Color = tuple[int, int, int]
Corner = tuple[float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
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
    """The thumbnail with tinted outlines, and below it a scale bar, what the colours mean, and words.

    Args:
        thumbnail_YX3: the slide's bounds, RGB, at most ``MAX_PX`` on its longer side.
        polygons_N: shapely polygons in canvas pixels.
        review_N: which of them are drawn orange, as to be reviewed, and not red.
        mpp: microns per thumbnail pixel.
        px_per_canvas_px: thumbnail pixels per canvas pixel.
        caption: what the picture shows; wrapped where the slide is narrow.
    """
    height, width, _ = thumbnail_YX3.shape
    slide = Image.fromarray(thumbnail_YX3)
    on_slide = shapely.transform(polygons_N, lambda xy: xy * px_per_canvas_px)
    layers = [(_rings(on_slide[~review_N]), TUMOR), (_rings(on_slide[review_N]), REVIEW)]
    for draw in (_tint, _outline):
        for regions, color in layers:
            draw(slide, regions, color)
    wide = max(width, LEAST_WIDE_PX)
    font = ImageFont.load_default(size=max(11, min(20, wide // 60)))
    line_px = font.getbbox("(gµ)")[3] + 4
    lines = _wrapped(caption, font, wide - 2 * MARGIN_PX)
    picture = Image.new("RGB", (wide, height + int(line_px) * (1 + len(lines)) + MARGIN_PX), PAPER)
    picture.paste(slide, (0, 0))
    pen = ImageDraw.Draw(picture)
    left = _scale_bar(pen, (MARGIN_PX, height + 4), mpp, width, font)
    legend = [("tumour", TUMOR), *([("tumour, to review", REVIEW)] if review_N.any() else [])]
    for words, color in legend:
        left = _swatch(pen, (left, height + 4), words, color, font)
    for number, line in enumerate(lines, 1):
        pen.text((MARGIN_PX, height + 4 + number * line_px), line, INK, font)
    return picture


def hatched(
    thumbnail_YX3: npt.NDArray[np.uint8], unknown: shapely.Geometry | None, *, px_per_canvas_px: float
) -> npt.NDArray[np.uint8]:
    """The thumbnail with grey stripes where nothing is known (a geometry in canvas pixels)."""
    if unknown is None:
        return thumbnail_YX3
    slide = Image.fromarray(thumbnail_YX3)
    parts = _rings(shapely.get_parts(shapely.transform(unknown, lambda xy: xy * px_per_canvas_px)))
    mask, stripes = Image.new("L", slide.size), Image.new("RGB", slide.size, PAPER)
    pen = ImageDraw.Draw(mask)
    for shell, *holes in parts:
        pen.polygon(shell, fill=255)
        for hole in holes:
            pen.polygon(hole, fill=0)
    pen, step = ImageDraw.Draw(stripes), max(6, slide.width // 150)
    for x in range(-slide.height, slide.width, step):
        pen.line((x, 0, x + slide.height, slide.height), UNKNOWN, max(1, step // 3))
    slide.paste(stripes, mask=mask)
    _outline(slide, parts, UNKNOWN)
    return np.asarray(slide)


def traced(
    thumbnail_YX3: npt.NDArray[np.uint8], tissue_YX: npt.NDArray[np.bool_], *, px_per_mask_px: float
) -> npt.NDArray[np.uint8]:
    """The thumbnail with a line of one pixel along the rim of the tissue mask, which begins at its corner."""
    height, width, _ = thumbnail_YX3.shape
    part = (
        0.0,
        0.0,
        *(min(a / px_per_mask_px, b) for a, b in zip((width, height), tissue_YX.shape[::-1], strict=True)),
    )
    inside_YX = np.asarray(Image.fromarray(tissue_YX).resize((width, height), Image.Resampling.NEAREST, part))
    around_YX = np.pad(inside_YX, 1, mode="edge")
    core_YX = around_YX[:-2, 1:-1] & around_YX[2:, 1:-1] & around_YX[1:-1, :-2] & around_YX[1:-1, 2:]
    traced_YX3 = thumbnail_YX3.copy()
    traced_YX3[inside_YX & ~core_YX] = TISSUE
    return traced_YX3


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


def _tint(slide: Image.Image, regions: list[Rings], color: Color) -> None:
    """Lay a colour over the inside; the large come first, for an island may lie in a hole."""
    mask = Image.new("L", slide.size)
    pen = ImageDraw.Draw(mask)
    for shell, *holes in regions:
        pen.polygon(shell, fill=round(TINT * 255))
        for hole in holes:
            pen.polygon(hole, fill=0)
    slide.paste(Image.new("RGB", slide.size, color), mask=mask)


def _outline(slide: Image.Image, regions: list[Rings], color: Color) -> None:
    """Draw every ring in a colour on a wider line of white, to stand out from pink tissue."""
    pen = ImageDraw.Draw(slide)
    thickness = max(1, slide.width // 400)
    for ink, wide in ((PAPER, thickness + 2), (color, thickness)):
        for rings in regions:
            for ring in rings:
                pen.line(ring, ink, wide)


def _wrapped(words: str, font: Font, most_px: int) -> list[str]:
    """The words in lines that are no wider than ``most_px``, but for a word that is."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > most_px:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _scale_bar(pen: ImageDraw.ImageDraw, corner: Corner, mpp: float, width: int, font: Font) -> float:
    """A bar of a round length, at most a quarter of the slide's ``width``; where it ends with its words."""
    left, top = corner
    length_um = _round_length(width * mpp / 4)
    length = length_um / mpp
    words = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} um"  # noqa: PLR2004 - µm in a mm
    middle = top + font.getbbox("x")[3] / 2 + 1
    pen.rectangle((left, middle - 2, left + length, middle + 2), INK)
    pen.text((left + length + 8, top), words, INK, font)
    return left + length + 8 + font.getlength(words) + 3 * MARGIN_PX


def _swatch(pen: ImageDraw.ImageDraw, corner: Corner, words: str, color: Color, font: Font) -> float:
    """A patch of a class's colour, tinted and outlined as regions are, and its name; where that ends."""
    left, top = corner
    side = font.getbbox("x")[3]
    tint = tuple(round(255 + TINT * (part - 255)) for part in color)
    pen.rectangle((left, top + 1, left + 1.5 * side, top + side), tint, color, max(2, int(side) // 6))
    pen.text((left + 1.5 * side + 6, top), words, INK, font)
    return left + 1.5 * side + 6 + font.getlength(words) + 3 * MARGIN_PX


def _round_length(most_um: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not more.

    >>> [_round_length(most) for most in (999.0, 1000.0, 430.0, 7.0)]
    [500.0, 1000.0, 200.0, 5.0]
    """
    power = 10.0 ** math.floor(math.log10(most_um))
    return max(step * power for step in (1, 2, 5) if step * power <= most_um)
