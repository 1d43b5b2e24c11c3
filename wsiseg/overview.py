"""``overview.png``: the slide at a glance, with what was found drawn on it."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = ["MAX_PX", "Mark", "draw_overview", "hatched", "shrunk", "traced"]

MAX_PX = 1984
"""The slide's longer side, in pixels; with the words below it a picture has at most 2048."""

# Pillow's own font has no µ, ² or ≥: what is drawn is plain ASCII, "^2" a small 2 above the line.
TUMOR, REVIEW, INK, PAPER = (200, 0, 0), (255, 170, 0), (40, 40, 40), (255, 255, 255)
UNKNOWN, TISSUE = (110, 110, 110), (0, 120, 140)
MARGIN_PX, GAP_PX = 6, 8
LEAST_WIDE_PX = 640
"""A picture is no narrower, whatever its slide is: words need room."""
UNSEEN_PX = 0.4
"""How far a drawn outline may stray: less than a pixel."""
Rings = list[list[tuple[float, float]]]
Color = tuple[int, int, int]
Corner = tuple[float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Mark = Literal["tissue", "unreadable"]
Kind = Literal["tumour", "review", "tissue", "unreadable"]
TINT = 0.16
"""How much of the class's colour lies over a region: seen when small, and the tissue still shows."""


def draw_overview(
    thumbnail_YX3: npt.NDArray[np.uint8],
    polygons_N: npt.NDArray[np.object_],
    review_N: npt.NDArray[np.bool_],
    *,
    mpp: float,
    marks: Sequence[Mark],
    caption: str,
) -> Image.Image:
    """The thumbnail with tinted outlines, and below it a scale bar, what the colours mean, and words.

    Args:
        thumbnail_YX3: the slide's bounds, RGB, at most ``MAX_PX`` on its longer side.
        polygons_N: shapely polygons in thumbnail pixels.
        review_N: which of them are drawn orange, as to be reviewed, and not red.
        mpp: microns per thumbnail pixel.
        marks: what ``traced`` and ``hatched`` have drawn on the thumbnail before.
        caption: what the picture shows; wrapped where the slide is narrow.
    """
    height, width, _ = thumbnail_YX3.shape
    slide = Image.fromarray(thumbnail_YX3)
    layers = [(_rings(polygons_N[~review_N]), TUMOR), (_rings(polygons_N[review_N]), REVIEW)]
    for draw in (_tint, _outline):
        for regions, color in layers:
            draw(slide, regions, color)
    wide = max(width, LEAST_WIDE_PX)
    font = ImageFont.load_default(size=max(11, min(20, wide // 60)))
    line_px = font.getbbox("(gµ)")[3] + 4
    lines = _wrapped(caption, font, wide - 2 * MARGIN_PX)
    picture = Image.new("RGB", (wide, height + int(line_px) * (1 + len(lines)) + MARGIN_PX), PAPER)
    picture.paste(slide, (0, 0))
    pen, top = ImageDraw.Draw(picture), height + 4
    left = _scale_bar(pen, (MARGIN_PX, top), mpp, width, font)
    for words, kind in _key(review_N, marks):
        left = _swatch(pen, (left, top), words, kind, font)
    for number, line in enumerate(lines, 1):
        _write(pen, (MARGIN_PX, top + number * line_px), line, font)
    return picture


def shrunk(overview: Image.Image, most_px: int) -> Image.Image:
    """An overview no larger than ``most_px``, its outlines wide enough to be seen there too."""
    large = overview.convert("RGB")
    small = large.copy()
    small.thumbnail((most_px, most_px))
    rgb_YX3 = np.asarray(large)
    for color in (TUMOR, REVIEW):
        line = Image.fromarray(np.where((rgb_YX3 == color).all(axis=2), np.uint8(255), np.uint8(0)))
        met = line.resize(small.size, Image.Resampling.BOX).point(lambda part: 255 if part else 0)
        small.paste(color, mask=met.filter(ImageFilter.MaxFilter(3)))
    return small


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
    length, words = length_um / mpp, f"{length_um / 1000:g} mm"
    middle = top + font.getbbox("x")[3] / 2 + 1
    pen.rectangle((left, middle - 2, left + length, middle + 2), INK)
    pen.text((left + length + GAP_PX, top), words, INK, font)
    return left + length + GAP_PX + font.getlength(words) + 3 * MARGIN_PX


def _key(review_N: npt.NDArray[np.bool_], marks: Sequence[Mark]) -> list[tuple[str, Kind]]:
    """What each line and colour in the picture is called."""
    called = {"tissue": "tissue looked at", "unreadable": "unreadable"}
    review: list[tuple[str, Kind]] = [("tumour, to review", "review")] if review_N.any() else []
    return [("tumour", "tumour"), *review, *((called[mark], mark) for mark in marks)]


def _swatch(pen: ImageDraw.ImageDraw, corner: Corner, words: str, kind: Kind, font: Font) -> float:
    """A patch that looks like what it stands for, and its name; where that ends."""
    left, top = corner
    side = font.getbbox("x")[3]
    box = (left, top + 1, left + 1.5 * side, top + side)
    if kind == "tissue":
        pen.rectangle(box, PAPER, TISSUE)
    elif kind == "unreadable":
        for x in range(0, int(1.5 * side), 4):
            pen.line((left + x, box[1], min(left + x + side, box[2]), box[3]), UNKNOWN)
        pen.rectangle(box, None, UNKNOWN)
    else:
        color = TUMOR if kind == "tumour" else REVIEW
        tint = tuple(round(255 + TINT * (part - 255)) for part in color)
        pen.rectangle(box, tint, color, max(2, int(side) // 6))
    pen.text((left + 1.5 * side + GAP_PX, top), words, INK, font)
    return left + 1.5 * side + GAP_PX + font.getlength(words) + 3 * MARGIN_PX


def _write(pen: ImageDraw.ImageDraw, corner: Corner, words: str, font: Font) -> None:
    """A line of words; where they say ``^2`` a small 2 stands above the line."""
    left, top = corner
    above = ImageFont.load_default(size=max(8, 0.62 * font.getbbox("x")[3]))
    for number, part in enumerate(words.split("^2")):
        if number:
            pen.text((left, top), "2", INK, above)
            left += above.getlength("2")
        pen.text((left, top), part, INK, font)
        left += font.getlength(part)


def _round_length(most_um: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not more.

    >>> [_round_length(most) for most in (999.0, 1000.0, 430.0, 7.0)]
    [500.0, 1000.0, 200.0, 5.0]
    """
    power = 10.0 ** math.floor(math.log10(most_um))
    return max(step * power for step in (1, 2, 5) if step * power <= most_um)
