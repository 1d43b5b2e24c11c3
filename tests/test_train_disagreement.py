"""Disagreement against error: areas under the curve at their corners, and a limit that was planted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.train.disagreement import area_under_curve, auc_interval, curve, draw_curve, review_limit

RNG = np.random.default_rng(0)
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=25)


@given(PAIRS)
def test_the_area_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, bool]]) -> None:
    spread, wrong = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    found = area_under_curve(spread, wrong)
    wins = [(w > r) + 0.5 * (w == r) for w in spread[wrong] for r in spread[~wrong]]
    if wins:
        assert found == pytest.approx(np.mean(wins))
    else:
        assert np.isnan(found)


def test_a_constant_disagreement_is_worth_as_much_as_chance() -> None:
    wrong = RNG.random(50) < 0.4
    assert area_under_curve(np.full(50, 0.2), wrong) == 0.5
    assert review_limit(np.full(50, 0.2), wrong, [str(i) for i in range(50)]) is None


def test_weights_count_as_so_many_of_the_same() -> None:
    spread, wrong = np.array([0.1, 0.3, 0.3, 0.2]), np.array([False, True, False, True])
    copies = np.array([3, 2, 1, 4])
    assert area_under_curve(spread, wrong, copies.astype(float)) == pytest.approx(
        area_under_curve(np.repeat(spread, copies), np.repeat(wrong, copies))
    )


def test_the_interval_holds_the_area_and_patients_widen_it() -> None:
    wrong = RNG.random(200) < 0.5
    spread = RNG.normal(0.2, 0.05, 200) + 0.05 * wrong
    alone = [f"{i:03}" for i in range(200)]
    low, high = auc_interval(spread, wrong, alone)
    assert low < area_under_curve(spread, wrong) < high
    whole = auc_interval(np.repeat(spread, 4), np.repeat(wrong, 4), [n for n in alone for _ in range(4)])
    assert whole == pytest.approx((low, high), abs=1e-9)


def test_a_planted_limit_is_found() -> None:
    spread = RNG.uniform(0, 0.4, 600)
    wrong = (spread > 0.17) ^ (RNG.random(600) < 0.05)
    limit = review_limit(spread, wrong, [str(i) for i in range(600)])
    assert limit == pytest.approx(0.17, abs=0.02)


def test_nothing_is_said_about_a_limit_from_a_handful_of_regions() -> None:
    spread, wrong = np.linspace(0, 0.4, 12), np.arange(12) > 5
    assert review_limit(spread, wrong, [str(i) for i in range(12)]) is None


@given(PAIRS)
def test_the_curve_has_everything_in_it_once_in_order(pairs: list[tuple[int, bool]]) -> None:
    spread, wrong = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    steps = curve(spread, wrong)
    assert sum(s.count for s in steps) == len(pairs)
    assert sum(s.count * s.wrong for s in steps) == pytest.approx(wrong.sum())
    assert [s.spread for s in steps] == sorted(s.spread for s in steps)


def test_nothing_found_gives_an_empty_curve_that_can_be_drawn() -> None:
    nothing = np.empty(0)
    assert curve(nothing, nothing.astype(bool)) == []
    assert np.isnan(area_under_curve(nothing, nothing.astype(bool)))
    assert draw_curve([], "title", None).width > 0


def test_the_curve_is_drawn_as_high_as_it_is_wrong() -> None:
    high = []
    for wrong in (False, True):
        picture = np.asarray(draw_curve(curve(np.full(8, 0.2), np.full(8, wrong)), "title", None))
        high.append(np.argwhere((picture == (31, 119, 180)).all(axis=2))[:, 0].mean())
    assert high[0] - high[1] == pytest.approx(280, abs=2)
