"""Random changes of a crop that leave its label true.

Geometry (where to cut, how large, how turned) is drawn here and applied when the crop is
resampled, once; colour is changed on the device, batch by batch. Every random number comes
from the generator handed in.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["ColourShift", "Window", "draw_colour", "draw_window", "shift_colour", "turned"]

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
