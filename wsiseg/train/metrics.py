"""How well a predicted mask fits the truth, image by image, and what can be said of many.

Dice is 2·TP / (2·TP + FP + FN), Jaccard TP / (TP + FP + FN), the COSAS score their mean.
Where truth and prediction are both empty all three are 1 (as in COSAS); where only one of
them is, all three are 0.

Intervals are from a bootstrap of patients, not of images: images of one patient are alike,
and drawing them one by one would promise more than was seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = [
    "Score",
    "Summary",
    "bootstrap",
    "by_domain",
    "groups_of",
    "named_apart",
    "paired",
    "score",
    "summary",
]

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Score:
    """One image's pixel counts: true positives, false positives, false negatives.

    ``group`` is the patient; empty where nobody knows, and then the image stands alone.
    """

    key: str
    task: str
    domain: str
    fold: str
    tp: int
    fp: int
    fn: int
    group: str = ""

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
    """``n`` scores of images of so many patients: mean and standard deviation over the scores.

    ``dice_low … dice_high`` is the bootstrap interval of the mean. An image that several folds were
    judged on has a score for each of them, and counts so often; it stays one patient, as an image of
    an unknown patient is one.
    """

    n: int
    patients: int
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


def bootstrap(
    values: Sequence[float], groups: Sequence[str] | None = None, *, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval (95 %) of the mean, from 2000 resamplings of whole groups.

    ``groups`` names each value's group; without it each value is one of its own. The mean of a
    resampling is over its values, so that large groups weigh as much as they do in the mean.

    >>> bootstrap([0.5, 0.5]), bootstrap([0.2, 0.8], ["one patient", "one patient"])
    ((0.5, 0.5), (0.5, 0.5))
    """
    rng = np.random.default_rng(seed)
    value_N = np.asarray(values, np.float64)
    _, place_N = np.unique(np.arange(len(values)) if groups is None else groups, return_inverse=True)
    size_G = np.bincount(place_N)
    sum_G = np.bincount(place_N, weights=value_N)
    drawn_DG = rng.integers(len(size_G), size=(DRAWS, len(size_G)))
    mean_D = sum_G[drawn_DG].sum(axis=1) / size_G[drawn_DG].sum(axis=1)
    low, high = np.quantile(mean_D, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def groups_of(scores: Sequence[Score]) -> list[str]:
    """What is drawn as one in a bootstrap: each image's patient, or the image where none is known."""
    return [s.group or s.key for s in scores]


def summary(scores: Sequence[Score]) -> Summary:
    """Means and spread over images (the standard deviation is the sample's, 0 for one image)."""
    dice = np.array([s.dice for s in scores])
    groups = groups_of(scores)
    low, high = bootstrap(list(dice), groups)
    return Summary(
        n=len(scores),
        patients=len(set(groups)),
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


def named_apart(scores: Sequence[Score]) -> list[Score]:
    """Scores whose keys name the fold too, so that the answers of two folds to one image are two.

    The patient stays the same, and so does an image whose patient nobody knows.
    """
    return [replace(s, key=f"{s.fold}/{s.key}", group=s.group or s.key) for s in scores]


def paired(ours: Sequence[Score], theirs: Sequence[Score]) -> tuple[int, float, float, float]:
    """How many images two runs share, and our mean Dice less theirs on them with its interval.

    Each run has one score for an image; see ``named_apart`` where several folds were judged on it.
    The differences of each image are taken first and patients drawn with all of theirs, so what
    makes an image hard for both runs does not widen the interval.

    >>> a = [Score("x", "", "", "", 1, 0, 0)]
    >>> paired(a, a)
    (1, 0.0, 0.0, 0.0)
    """
    other = {s.key: s.dice for s in theirs}
    shared = [s for s in ours if s.key in other]
    if not shared:
        return 0, float("nan"), float("nan"), float("nan")
    differences = [s.dice - other[s.key] for s in shared]
    low, high = bootstrap(differences, groups_of(shared))
    return len(differences), float(np.mean(differences)), low, high
