"""Random changes of a crop that leave its label true.

Geometry (where to cut, how large, how turned) is drawn here and applied when the crop is
resampled, once; glass, blur and JPEG follow; colour is changed on the device, batch by batch.
Every random number comes from the generator handed in.
"""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter
from torch import Tensor

__all__ = [
    "ColourShift",
    "Window",
    "draw_colour",
    "draw_glass",
    "draw_window",
    "lay_glass",
    "shift_colour",
    "soiled",
    "turned",
]

# Haematoxylin, eosin, DAB: optical density of each in R, G, B (Ruifrok and Johnston 2001).
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


@dataclass(frozen=True, slots=True)
class Window:
    """What to cut from an image: left, top and side in its pixels; right-angle turns; mirrored or not."""

    x: float
    y: float
    side: float
    turns: int
    mirrored: bool


def draw_window(
    rng: np.random.Generator, size: tuple[int, int], *, crop: int, scale_jitter: float, flips: bool
) -> Window:
    """A random window in an image of ``size`` = (height, width) pixels.

    Its side is ``crop`` times a factor between 1/(1 + j) and 1 + j. Along an axis on which the image
    is smaller than the window, the window reaches outside it at random on both sides.
    """
    side = crop * float(np.exp(rng.uniform(-1, 1) * np.log1p(scale_jitter)))
    y, x = (rng.uniform(min(0.0, length - side), max(0.0, length - side)) for length in size)
    turns, mirrored = (int(rng.integers(4)), bool(rng.integers(2))) if flips else (0, False)
    return Window(x, y, side, turns, mirrored)


def turned(array_YX: npt.NDArray[np.uint8], window: Window) -> npt.NDArray[np.uint8]:
    """An array (Y, X) or (Y, X, 3) turned and mirrored as the window says."""
    array_YX = np.rot90(array_YX, window.turns)
    return array_YX[:, ::-1] if window.mirrored else array_YX


def draw_glass(rng: np.random.Generator, crop: int) -> npt.NDArray[np.bool_]:
    """Where a crop (Y, X) is empty glass: a rectangle that may stick out of it, or all but that rectangle.

    A patch of a slide is often mostly glass, and has glass at its border; training images hold hardly any.
    """
    (high, wide), rows = rng.uniform(0.2, 1, 2) * crop, np.arange(crop) + 0.5
    y, x = rng.uniform(-high / 2, crop - high / 2), rng.uniform(-wide / 2, crop - wide / 2)
    inside_YX = np.outer((rows >= y) & (rows < y + high), (rows >= x) & (rows < x + wide))
    return inside_YX if rng.integers(2) else ~inside_YX


def lay_glass(
    crop: tuple[npt.NDArray[np.uint8], ...], glass_YX: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], ...]:
    """RGB, mask and what counts of a crop, partly under glass: no tumour there, and that counts."""
    rgb_YX3, mask_YX, counted_YX = (array.copy() for array in crop)
    white = 255 if rng.integers(3) else rng.uniform(228, 255)
    rgb_YX3[glass_YX] = np.clip(white + rng.uniform(-3, 3, 3), 0, 255).astype(np.uint8)
    mask_YX[glass_YX] = 0
    counted_YX[glass_YX] = 255
    return rgb_YX3, mask_YX, counted_YX


def soiled(
    rgb_YX3: npt.NDArray[np.uint8], rng: np.random.Generator, *, blur: float, jpeg: int
) -> npt.NDArray[np.uint8]:
    """RGB blurred by up to ``blur`` pixels and stored as JPEG of quality ``jpeg`` or more; each at times."""
    picture = Image.fromarray(rgb_YX3)
    if blur and rng.integers(2):
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, blur)))
    if jpeg and rng.integers(2):
        stored = io.BytesIO()
        picture.save(stored, "JPEG", quality=int(rng.integers(jpeg, 96)))
        picture = Image.open(stored)
    return np.asarray(picture)


@dataclass(frozen=True, slots=True)
class ColourShift:
    """Random factors for a batch; each (B, …), drawn for every crop on its own.

    ``light`` (B, 3) are brightness, contrast and saturation; ``stain`` (B, 3) scales each
    stain's density and ``wash`` (B, 3) adds to it.
    """

    light: Tensor
    stain: Tensor
    wash: Tensor


def draw_colour(rng: np.random.Generator, count: int, *, colour: float, stain: float) -> ColourShift:
    """Random colour factors for ``count`` crops, uniform in 1 ± ``colour`` and 1 ± ``stain``."""

    def uniform(spread: float) -> Tensor:
        return torch.from_numpy(rng.uniform(-spread, spread, (count, 3)).astype(np.float32))

    return ColourShift(1 + uniform(colour), 1 + uniform(stain), uniform(stain / 4))


def shift_colour(rgb: Tensor, shift: ColourShift) -> Tensor:
    """RGB (B, 3, Y, X) in 0 … 255 with its stains and its light changed; float32, same range."""
    light, stain, wash = (t.to(rgb.device) for t in (shift.light, shift.stain, shift.wash))
    stains = torch.tensor(STAINS, device=rgb.device)
    stains = stains / stains.norm(dim=1, keepdim=True)
    density = -torch.log((rgb.float() + 1) / 256)
    # density = amounts @ stains: to amounts, scaled and shifted, and back, as one matrix per crop.
    mix = stains.inverse()[None] @ torch.diag_embed(stain) @ stains[None]
    density = torch.einsum("bcyx,bcd->bdyx", density, mix) + (wash @ stains)[..., None, None]
    rgb = (256 * torch.exp(-density) - 1).clamp(0, 255)
    brightness, contrast, saturation = light[:, :, None, None, None].unbind(1)
    rgb = rgb * brightness
    mean = rgb.mean((1, 2, 3), keepdim=True)
    rgb = mean + (rgb - mean) * contrast
    grey = rgb.mean(1, keepdim=True)
    return (grey + (rgb - grey) * saturation).clamp(0, 255)
