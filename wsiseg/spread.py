"""What the folds say together: their mean and disagreement, summed up in whole numbers (decision 0003)."""

import numpy as np
import numpy.typing as npt

__all__ = ["FINE", "NO_NUMBERS", "mean_and_spread"]

NO_NUMBERS = "the network gives no numbers: try --fp32, or check its weights"
"""What is said of a network that does: its map would read as no tumour."""
FINE, STEP, STRIP = 65535, 257, 32
"""A fold's probability in 16 bits, how many of these a stored level takes, and rows worked on at once."""
MOST_IN_SINGLE = 32
"""So many folds' sums, and their quotients, are exact enough in single precision."""


def mean_and_spread(prob_FYX: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The folds' mean and standard deviation, (2, Y, X) uint8 = value × 255, rounded half up.

    Each fold's probability is first rounded to 16 bits and then only whole numbers are added, so
    the order of the folds cannot move a bit (decision 0003). They are held in floats, exactly; the
    mean is a quotient, which comes to no whole number that it does not reach. The
    deviation is the population's, at most 0.5.

    >>> mean_and_spread(np.array([[[0.0]], [[1.0]]], np.float32)).ravel().tolist()
    [128, 128]
    """
    folds, height, width = prob_FYX.shape
    real = np.float32 if folds <= MOST_IN_SINGLE else np.float64
    stats_CYX = np.zeros((2, height, width), np.uint8)
    for top in range(0, height, STRIP):  # in strips that stay in the processor's cache
        rows = slice(top, top + STRIP)
        fine_FYX = np.rint(prob_FYX[:, rows] * np.float32(FINE))
        total_YX = fine_FYX[0] if folds == 1 else fine_FYX.sum(axis=0, dtype=real)
        stats_CYX[0, rows] = (2 * total_YX + STEP * folds) / real(2 * STEP * folds)
        if folds > 1:
            exact_FYX = fine_FYX.astype(np.float64)  # squares are whole numbers below 2^53
            squares_YX = np.einsum("fyx,fyx->yx", exact_FYX, exact_FYX)
            variance_YX = folds * squares_YX - np.square(total_YX, dtype=np.float64)
            stats_CYX[1, rows] = np.sqrt(variance_YX) * (255 / (folds * FINE)) + 0.5
    return stats_CYX
