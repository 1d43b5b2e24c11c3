"""The folds' mean and disagreement computed where the network is: two bytes a pixel leave a GPU."""

import torch
from torch import Tensor

from wsiseg.spread import FINE

__all__ = ["fold_stats"]

LEVELS = 255


def fold_stats(prob_FBYX: Tensor) -> tuple[Tensor, Tensor]:
    """The folds' mean and standard deviation (2, B, Y, X) uint8, and whether any probability is no number.

    They are the bits of ``mean_and_spread``: all but the last root is whole numbers (decision 0003), so no
    device can round otherwise. Nothing is asked of the device, so that this may be part of a recording.

    >>> fold_stats(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))[0].flatten().tolist()
    [128, 128]
    """
    folds = len(prob_FBYX)
    fine_FBYX = torch.round(prob_FBYX * FINE).to(torch.int64)
    total_BYX = fine_FBYX.sum(dim=0)
    mean_BYX = (2 * LEVELS * total_BYX + folds * FINE) // (2 * folds * FINE)
    variance_BYX = folds * fine_FBYX.square().sum(dim=0) - total_BYX.square()
    spread_BYX = variance_BYX.double().sqrt() * (LEVELS / (folds * FINE)) + 0.5
    stats_CBYX = torch.stack([mean_BYX.to(torch.uint8), spread_BYX.to(torch.uint8)])
    return stats_CBYX, torch.isnan(prob_FBYX).any()
