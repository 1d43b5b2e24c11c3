"""Pretraining without labels: learn to see what another encoder sees.

Feature regression (FitNets, Romero et al. 2015, arXiv 1412.6550) at strides 8, 16 and 32: a 1×1
convolution maps our features to the teacher's, each of whose channels is brought to mean 0 and
standard deviation 1 over the batch, so that every channel weighs the same.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsiseg.model import Network

__all__ = ["Distilled"]

LEVELS = (3, 4, 5)  # of an encoder's features: strides 8, 16, 32
OUTLIER = 5.0  # standard deviations: a channel that hardly ever speaks must not shout


class Distilled(nn.Module):
    """Takes RGB (B, 3, Y, X) in 0 … 255; gives the loss. Trains the network's encoder alone."""

    encoder: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, teacher: Network) -> None:
        super().__init__()
        student, master = cast("Any", network.body).encoder, cast("Any", teacher.body).encoder
        self.encoder = student
        self.register_buffer("mean", network.mean, persistent=False)
        self.register_buffer("std", network.std, persistent=False)
        pairs = [(student.out_channels[i], master.out_channels[i]) for i in LEVELS]
        self.heads = nn.ModuleList([nn.Conv2d(ours, theirs, 1) for ours, theirs in pairs])
        self.master = [master.requires_grad_(requires_grad=False).eval()]  # in a list: not saved, not trained

    def forward(self, rgb: Tensor) -> Tensor:
        """The mean squared error of the features, mean over the levels."""
        seen = (rgb - self.mean) / self.std
        with torch.no_grad():
            targets = self.master[0].to(rgb.device)(seen)
        features = self.encoder(seen)
        errors = []
        for head, level in zip(self.heads, LEVELS, strict=True):
            wanted = functional.batch_norm(targets[level].float(), None, None, training=True)
            guess = head(features[level]).float()
            errors.append(functional.mse_loss(guess, wanted.clamp(-OUTLIER, OUTLIER)))
        return torch.stack(errors).mean()
