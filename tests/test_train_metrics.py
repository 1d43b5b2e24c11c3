"""Scores: the definitions, at their corners too."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsiseg.train.calibration import reliability
from wsiseg.train.evaluate import Judged, as_json
from wsiseg.train.metrics import Score, bootstrap, by_domain, named_apart, paired, score, summary

MASKS = arrays(np.bool_, (4, 5))
COUNTS = st.integers(0, 50)
SCORES = st.lists(
    st.builds(
        Score, st.uuids().map(str), st.just("t"), st.sampled_from("ab"), st.just("1"), COUNTS, COUNTS, COUNTS
    ),
    min_size=1,
    max_size=12,
)


def of(predicted: np.ndarray, truth: np.ndarray) -> Score:
    return Score("", "", "", "", *score(predicted, truth))


@given(MASKS)
def test_a_model_that_predicts_the_truth_scores_one(truth: np.ndarray) -> None:
    found = of(truth, truth)
    assert (found.dice, found.jaccard, found.cosas) == (1, 1, 1)


@given(MASKS)
def test_a_model_that_predicts_nothing_scores_one_on_empty_images_only(truth: np.ndarray) -> None:
    expected = 0.0 if truth.any() else 1.0
    found = of(np.zeros_like(truth), truth)
    assert (found.dice, found.jaccard, found.cosas) == (expected, expected, expected)


@given(MASKS, MASKS)
def test_dice_and_jaccard_agree_with_set_sizes(a: np.ndarray, b: np.ndarray) -> None:
    one, two = set(np.flatnonzero(a)), set(np.flatnonzero(b))
    found = of(a, b)
    if one | two:
        assert found.dice == pytest.approx(2 * len(one & two) / (len(one) + len(two)))
        assert found.jaccard == pytest.approx(len(one & two) / len(one | two))
    assert found.dice == pytest.approx(2 * found.jaccard / (1 + found.jaccard))


@given(SCORES)
def test_the_domains_make_up_the_whole(scores: list[Score]) -> None:
    whole, parts = summary(scores), by_domain(scores).values()
    assert sum(p.n for p in parts) == whole.n
    assert sum(p.n * p.dice_mean for p in parts) == pytest.approx(whole.n * whole.dice_mean)
    assert whole.dice_low - 1e-9 <= whole.dice_mean <= whole.dice_high + 1e-9


@given(SCORES)
def test_a_run_compared_with_itself_differs_by_nothing(scores: list[Score]) -> None:
    assert paired(scores, scores) == (len(scores), 0, 0, 0)


def test_a_bootstrap_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = [bootstrap(list(rng.normal(0.7, 0.2, 40)), seed=i) for i in range(200)]
    held = np.mean([low <= 0.7 <= high for low, high in drawn])
    assert 0.88 <= held <= 0.99


def test_patients_are_drawn_whole() -> None:
    rng = np.random.default_rng(1)
    patient = rng.normal(0.6, 0.2, 20)
    alone = bootstrap(list(patient))
    copied, names = list(np.repeat(patient, 5)), [f"p{i:02}" for i in np.repeat(np.arange(20), 5)]
    assert bootstrap(copied, names) == pytest.approx(alone)  # five copies of an image tell nothing new
    low, high = bootstrap(copied)
    assert high - low < 0.6 * (alone[1] - alone[0])


@given(SCORES)
def test_an_image_without_a_patient_stands_alone(scores: list[Score]) -> None:
    known = [replace(s, group=s.key) for s in scores]
    assert summary(known) == summary(scores)
    one = [replace(s, group="p") for s in scores]
    assert summary(one).patients == 1
    assert summary(one).dice_low == summary(one).dice_high


def test_runs_are_compared_on_the_images_they_share() -> None:
    ours = [Score(k, "t", "d", "1", tp, 1, 1) for k, tp in (("a", 1), ("b", 3), ("only ours", 0))]
    theirs = [Score(k, "t", "d", "1", tp, 1, 1) for k, tp in (("b", 1), ("a", 1))]
    n, difference, low, high = paired(ours, theirs)
    assert n == 2
    assert difference == pytest.approx((0 + 0.25) / 2)
    assert low <= difference <= high


def answer(found: Score) -> Judged:
    return Judged(found, reliability(np.array([[0.5]]), np.array([[True]])))


def test_the_answers_of_several_folds_to_one_image_are_paired_fold_by_fold() -> None:
    before = [Score("a", "t", "d", fold, tp, 50, 50) for fold, tp in (("1", 50), ("2", 0))]
    after = [replace(s, tp=s.tp // 2, fn=s.fn + s.tp - s.tp // 2) for s in before]
    n, drop, low, high = paired(named_apart(before), named_apart(after))
    assert n == 2
    assert drop == pytest.approx(summary(before).dice_mean - summary(after).dice_mean)
    told = as_json([answer(s) for s in before], "b", "folds", shifts={"dark": [answer(s) for s in after]})
    assert told["shifts"]["dark"]["drop"] == drop
    assert low == high  # one image of an unknown patient is one, however many folds were judged on it
