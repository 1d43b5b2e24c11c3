"""How well a predicted mask fits the truth, image by image, and what can be said of many.

Dice is 2·TP / (2·TP + FP + FN), Jaccard TP / (TP + FP + FN), the COSAS score their mean.
Where truth and prediction are both empty all three are 1 (as in COSAS); where only one of
them is, all three are 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Score", "Summary", "bootstrap", "by_domain", "paired", "score", "summary"]

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Score:
    """One image's pixel counts: true positives, false positives, false negatives."""

    key: str
    task: str
    domain: str
    fold: str
    tp: int
    fp: int
    fn: int

    @property
    def dice(self) -> float:
        """2·TP / (2·TP + FP + FN); 1 where there is nothing to find and nothing was found.

        >>> Score("", "", "", "", tp=3, fp=1, fn=1).dice, Score("", "", "", "", 0, 0, 0).dice
        (0.75, 1.0)
        """
        whole = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / whole if whole else 1.0

    @property
    def jaccard(self) -> float:
        """TP / (TP + FP + FN); 1 where there is nothing to find and nothing was found."""
        whole = self.tp + self.fp + self.fn
        return self.tp / whole if whole else 1.0

    @property
    def cosas(self) -> float:
        """The mean of Dice and Jaccard, by which COSAS ranks."""
        return (self.dice + self.jaccard) / 2


@dataclass(frozen=True, slots=True)
class Summary:
    """Scores of ``n`` images: mean and standard deviation over images, bootstrap interval of the mean."""

    n: int
    dice_mean: float
    dice_std: float
    dice_low: float
    dice_high: float
    jaccard_mean: float
    cosas_mean: float


def score(predicted_YX: npt.NDArray[np.bool_], truth_YX: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """TP, FP and FN, in pixels.

    >>> score(np.array([[True, True]]), np.array([[True, False]]))
    (1, 1, 0)
    """
    both = int(np.count_nonzero(predicted_YX & truth_YX))
    return both, int(np.count_nonzero(predicted_YX)) - both, int(np.count_nonzero(truth_YX)) - both


def bootstrap(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """The percentile interval (95 %) of the mean, from 2000 resamplings of the images.

    >>> bootstrap([0.5, 0.5])
    (0.5, 0.5)
    """
    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.asarray(values), (DRAWS, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def summary(scores: Sequence[Score]) -> Summary:
    """Means and spread over images (the standard deviation is the sample's, 0 for one image)."""
    dice = np.array([s.dice for s in scores])
    low, high = bootstrap(list(dice))
    return Summary(
        n=len(scores),
        dice_mean=float(dice.mean()),
        dice_std=float(dice.std(ddof=1)) if len(dice) > 1 else 0.0,
        dice_low=low,
        dice_high=high,
        jaccard_mean=float(np.mean([s.jaccard for s in scores])),
        cosas_mean=float(np.mean([s.cosas for s in scores])),
    )


def by_domain(scores: Sequence[Score]) -> dict[str, Summary]:
    """A summary for each domain, in order of their names."""
    domains = sorted({s.domain for s in scores})
    return {domain: summary([s for s in scores if s.domain == domain]) for domain in domains}


def paired(ours: Sequence[Score], theirs: Sequence[Score]) -> tuple[int, float, float, float]:
    """How many images two runs share, and our mean Dice less theirs on them with its interval.

    >>> a = [Score("x", "", "", "", 1, 0, 0)]
    >>> paired(a, a)
    (1, 0.0, 0.0, 0.0)
    """
    other = {s.key: s.dice for s in theirs}
    differences = [s.dice - other[s.key] for s in ours if s.key in other]
    if not differences:
        return 0, float("nan"), float("nan"), float("nan")
    low, high = bootstrap(differences)
    return len(differences), float(np.mean(differences)), low, high
