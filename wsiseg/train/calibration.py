"""Whether a probability of 0.7 is right seven times in ten, and the temperature that makes it so.

Each fold's logits are divided by one temperature before the sigmoid (Guo 2017, "On Calibration
of Modern Neural Networks", arXiv 1706.04599, section 4.2). Per fold, not on the mean: the mean
and the disagreement are then both made from calibrated probabilities, a fold alone calls the
same pixels tumour at 0.5 whatever the temperature, and a temperature of 1 moves no bit.

The expected calibration error pools all pixels, sorts them by tumour probability into 15 bins
of equal width, and averages, weighted by pixels, how far each bin's mean probability is from
its share of tumour.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from wsiseg.errors import BundleError

__all__ = ["BINS", "LogitCounts", "Reliability", "fit_temperature", "reliability"]

BINS = 15
REACH = 20.0
"""Logits are counted from -REACH to REACH; what lies outside counts at the end."""
STEPS = 2048
"""Bins of logits: 0.02 wide, with an edge at 0, so that no pixel changes sides at 0.5."""
COLDEST, HOTTEST = 0.05, 20.0

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Pixels by probability: how many in each of 15 bins, their probabilities added up, and the tumour."""

    pixels_N: Counts
    prob_N: Floats
    tumour_N: Counts

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            self.pixels_N + other.pixels_N, self.prob_N + other.prob_N, self.tumour_N + other.tumour_N
        )

    @property
    def ece(self) -> float:
        """The expected calibration error, 0 to 1."""
        return float(np.abs(self.prob_N - self.tumour_N).sum() / self.pixels_N.sum())


def reliability(prob_YX: npt.NDArray[np.floating], truth_YX: npt.NDArray[np.bool_]) -> Reliability:
    """Sort an image's pixels by their tumour probability.

    >>> reliability(np.array([[0.25, 0.25, 0.25, 0.25]]), np.array([[True, False, False, False]])).ece
    0.0

    Raises:
        BundleError: a probability is no number.
    """
    prob = _numbers(prob_YX)
    bin_N = np.minimum((prob * BINS).astype(np.int64), BINS - 1)
    return Reliability(
        np.bincount(bin_N, minlength=BINS),
        np.bincount(bin_N, weights=prob, minlength=BINS).astype(np.float64),
        np.bincount(bin_N[truth_YX.ravel()], minlength=BINS),
    )


def _numbers(prob_YX: npt.NDArray[np.floating]) -> Floats:
    """The pixels' probabilities in a row."""
    prob_N = prob_YX.ravel().astype(np.float64)
    if np.isnan(prob_N).any():
        msg = (
            "the networks answer with what is no number (NaN): their weights are damaged; fetch the bundle "
            "again, or train it again with a lower --learning-rate"
        )
        raise BundleError(msg)
    return prob_N


@dataclass(frozen=True, slots=True, eq=False)
class LogitCounts:
    """Pixels by logit: (2, STEPS), not tumour and tumour; all that a temperature needs to know."""

    pixels_CN: Counts

    def __add__(self, other: "LogitCounts") -> "LogitCounts":
        return LogitCounts(self.pixels_CN + other.pixels_CN)

    @classmethod
    def of(cls, prob_YX: npt.NDArray[np.floating], truth_YX: npt.NDArray[np.bool_]) -> "LogitCounts":
        """Count the logits of an image's probabilities, which no temperature has changed yet.

        Raises:
            BundleError: a probability is no number.
        """
        logit = special.logit(_numbers(prob_YX)).clip(-REACH, REACH)
        step_N = np.minimum(np.floor((logit + REACH) * (STEPS / (2 * REACH))), STEPS - 1).astype(np.int64)
        both = np.bincount(step_N + STEPS * truth_YX.ravel(), minlength=2 * STEPS)
        return cls(both.reshape(2, STEPS).astype(np.int64))

    def loss(self, temperature: float) -> float:
        """The mean cross-entropy, in nats a pixel, at a temperature."""
        logit_N = _MIDDLES / temperature
        other, tumour = self.pixels_CN
        surprise = other * np.logaddexp(0, logit_N) + tumour * np.logaddexp(0, -logit_N)
        return float(surprise.sum() / self.pixels_CN.sum())

    def at(self, temperature: float) -> Reliability:
        """The reliability these logits have at a temperature (to within the width of a step)."""
        prob_N = special.expit(_MIDDLES / temperature)
        bin_N = np.minimum((prob_N * BINS).astype(np.int64), BINS - 1)
        other, tumour = self.pixels_CN
        summed = [np.bincount(bin_N, weights=w, minlength=BINS) for w in (other + tumour, tumour)]
        prob = np.bincount(bin_N, weights=prob_N * (other + tumour), minlength=BINS).astype(np.float64)
        return Reliability(summed[0].astype(np.int64), prob, summed[1].astype(np.int64))


_MIDDLES = (np.arange(STEPS) + 0.5) * (2 * REACH / STEPS) - REACH


def fit_temperature(counted: Iterable[LogitCounts]) -> float:
    """The temperature of least cross-entropy over all pixels, to two decimals.

    The loss is convex in 1 / temperature, so there is one answer. Logits that are all right or all
    wrong have none that is finite; the nearest in 0.05 … 20 is given.
    """
    total = reduce(add, counted)
    found = optimize.minimize_scalar(
        lambda cold: total.loss(1 / cold), bounds=(1 / HOTTEST, 1 / COLDEST), method="bounded"
    )
    return round(float(1 / found.x), 2)
