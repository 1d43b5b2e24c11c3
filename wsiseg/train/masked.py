"""Pretraining without labels: paint hidden cells of a picture from what lies around them.

After SimMIM (Xie et al. 2022, arXiv 2111.09886), on a pyramid: cells of the input are blanked,
the Feature Pyramid Network with a head for three colours fills them in, and the squared error
over the blanked cells is the loss.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiseg.model import Network

__all__ = ["Masked"]

CELL = 32  # pixels a side: the coarsest features have this stride
HIDDEN = 0.5


class Masked(nn.Module):
    """Takes RGB (B, 3, Y, X) in 0 … 255, sides whole cells; gives the loss. Trains the network's body."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        head = cast("Any", network.body).segmentation_head
        colours = nn.Conv2d(head[0].in_channels, 3, kernel_size=1)
        network.body.segmentation_head = nn.Sequential(colours, nn.UpsamplingBilinear2d(scale_factor=4))
        self.network = network

    @property
    def encoder(self) -> nn.Module:
        """What is wanted of all this."""
        return cast("nn.Module", self.network.body.encoder)

    def forward(self, rgb: Tensor) -> Tensor:
        """The mean squared error, in normalised colours, where the picture was hidden."""
        seen = (rgb - self.network.mean) / self.network.std
        count, _, height, width = seen.shape
        cells = torch.rand(count, 1, height // CELL, width // CELL, device=rgb.device) < HIDDEN
        hidden = functional.interpolate(cells.float(), scale_factor=CELL)
        blank = seen.mean((2, 3), keepdim=True)
        guess = self.network.body(torch.where(hidden > 0, blank, seen))
        error = (guess.float() - seen).square().mean(1, keepdim=True)
        return cast("Tensor", (error * hidden).sum() / hidden.sum().clamp(min=1))
