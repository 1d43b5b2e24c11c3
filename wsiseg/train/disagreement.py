"""Whether folds that disagree are wrong more often, and from which disagreement on to look again.

A region that was found is wrong when less than half of it is tumour; a pixel is wrong when it is
on the wrong side of the threshold. How well disagreement tells wrong from right is the area
under the ROC curve: the chance that of one wrong and one right the wrong one has the larger
disagreement. 0.5 is chance. Intervals draw whole patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from wsiseg.train.metrics import LEVEL

__all__ = ["Step", "area_under_curve", "auc_interval", "curve", "draw_curve", "review_limit"]

DRAWS = 1000
LEAST = 10
"""Fewer wrong or right ones than this say nothing about a limit."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the curve: the ``count`` with a disagreement near ``spread``, and how many were wrong."""

    spread: float
    wrong: float
    count: int


def area_under_curve(spread_N: Floats, wrong_N: Flags, weight_N: Floats | None = None) -> float:
    """The chance that a wrong one has the larger disagreement; ties count half. NaN where all are alike.

    >>> area_under_curve(np.array([0.1, 0.2, 0.3]), np.array([False, False, True]))
    1.0
    """
    level_N, place_N = np.unique(spread_N, return_inverse=True)
    weight = np.ones(len(spread_N)) if weight_N is None else weight_N
    wrong_L = np.bincount(place_N, weights=weight * wrong_N, minlength=len(level_N)).astype(np.float64)
    right_L = np.bincount(place_N, weights=weight * ~wrong_N, minlength=len(level_N)).astype(np.float64)
    return _auc(wrong_L, right_L)


def _auc(wrong_L: Floats, right_L: Floats) -> float:
    """The same from counts at each level of disagreement, lowest first."""
    pairs = wrong_L.sum() * right_L.sum()
    below_L = np.cumsum(right_L) - right_L / 2
    return float((wrong_L * below_L).sum() / pairs) if pairs else float("nan")


def auc_interval(
    spread_N: Floats, wrong_N: Flags, groups: Sequence[str], weight_N: Floats | None = None, *, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval (95 %) of the area, from 1000 resamplings of whole groups."""
    level_N, place_N = np.unique(spread_N, return_inverse=True)
    names, group_N = np.unique(groups, return_inverse=True)
    weight = np.ones(len(spread_N)) if weight_N is None else weight_N
    count_GCL = np.zeros((len(names), 2, len(level_N)))
    np.add.at(count_GCL, (group_N, wrong_N.astype(np.int64), place_N), weight)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        times_G = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        right_L, wrong_L = np.tensordot(times_G, count_GCL, 1)
        found.append(_auc(wrong_L, right_L))
    sound = [value for value in found if np.isfinite(value)]
    if not sound:
        return float("nan"), float("nan")
    low, high = np.quantile(sound, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def curve(spread_N: Floats, wrong_N: Flags, steps: int = 8) -> list[Step]:
    """Error against disagreement: equally many in each step, the least disagreement first; may be empty."""
    order = np.argsort(spread_N, kind="stable")
    parts = [part for part in np.array_split(order, max(1, min(steps, len(order)))) if len(part)]
    return [Step(float(spread_N[p].mean()), float(wrong_N[p].mean()), len(p)) for p in parts]


def review_limit(spread_N: Floats, wrong_N: Flags, groups: Sequence[str]) -> float | None:
    """The disagreement above which most wrong and fewest right regions lie (Youden's J), in hundredths.

    None where there are fewer than ten of either, or where the area under the curve is not
    better than chance with its whole interval: disagreement then says nothing worth a limit.
    """
    if min(wrong_N.sum(), (~wrong_N).sum()) < LEAST or auc_interval(spread_N, wrong_N, groups)[0] <= 0.5:  # noqa: PLR2004 - chance
        return None
    limits = np.arange(0, 0.5, 0.01)
    above_LN = spread_N[None] > limits[:, None]
    gain_L = above_LN[:, wrong_N].mean(axis=1) - above_LN[:, ~wrong_N].mean(axis=1)
    return round(float(limits[int(gain_L.argmax())]), 2)


def draw_curve(steps: Sequence[Step], title: str, limit: float | None) -> Image.Image:
    """The curve as a picture: disagreement to the right (0 to 0.5), share wrong upwards (0 to 1)."""
    left, top, width, height = 60, 40, 480, 280
    ink, grey, blue, red = (40, 40, 40), (200, 200, 200), (31, 119, 180), (214, 39, 40)
    picture = Image.new("RGB", (left + width + 30, top + height + 50), (255, 255, 255))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    pen.text((8, 10), title, ink, font)

    def at(spread: float, wrong: float) -> tuple[float, float]:
        return left + width * spread / 0.5, top + height * (1 - wrong)

    for fifth in range(6):
        pen.line((*at(0, fifth / 5), *at(0.5, fifth / 5)), grey)
        pen.text((left - 30, at(0, fifth / 5)[1] - 8), f"{fifth / 5:.1f}", ink, font)
        pen.text((at(fifth / 10, 0)[0], top + height + 6), f"{fifth / 10:.1f}", ink, font, anchor="ma")
    pen.text((left + width / 2, top + height + 26), "disagreement of the folds", ink, font, anchor="ma")
    if limit is not None:
        pen.line((*at(limit, 0), *at(limit, 1)), red, 2)
    line = [at(step.spread, step.wrong) for step in steps]
    if len(line) > 1:
        pen.line(line, blue, 2)
    for x, y in line:
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), blue)
    return picture
