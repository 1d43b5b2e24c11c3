"""Calibration: a planted temperature is found, and a calibrated predictor has no error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from wsiseg.device import choose_device
from wsiseg.ensemble import TorchPredictor
from wsiseg.errors import BundleError
from wsiseg.model import build_network
from wsiseg.train.calibration import LogitCounts, fit_temperature, reliability

PROBS = arrays(np.float32, (5, 7), elements=st.floats(0, 1, width=32))
TRUTHS = arrays(np.bool_, (5, 7))


def drawn(temperature: float, count: int = 400_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities from logits that are ``temperature`` times what they should be, and the truth."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 2, (1, count))
    return special.expit(logit * temperature), rng.random((1, count)) < special.expit(logit)


def test_a_calibrated_predictor_has_no_calibration_error() -> None:
    assert reliability(*drawn(1)).ece < 0.003


def test_one_that_is_too_sure_has_the_error_that_the_definition_gives() -> None:
    prob, truth = np.full((1, 100), 0.9), np.arange(100)[None] < 60
    assert reliability(prob, truth).ece == pytest.approx(0.3)


@pytest.mark.parametrize("planted", [0.5, 1.0, 1.7, 3.0])
def test_a_planted_temperature_is_recovered(planted: float) -> None:
    prob, truth = drawn(planted)
    counts = LogitCounts.of(prob, truth)
    assert fit_temperature([counts]) == pytest.approx(planted, rel=0.02)
    assert counts.at(planted).ece < 0.004
    if planted != 1:
        assert counts.at(1).ece > 0.03
        assert counts.loss(planted) < counts.loss(1)


@given(PROBS, TRUTHS)
def test_images_may_be_pooled_in_any_cut(prob: np.ndarray, truth: np.ndarray) -> None:
    whole, parts = reliability(prob, truth), [reliability(prob[s], truth[s]) for s in np.s_[:2, 2:]]
    assert (parts[0] + parts[1]).ece == pytest.approx(whole.ece)
    counts = LogitCounts.of(prob[:2], truth[:2]) + LogitCounts.of(prob[2:], truth[2:])
    assert np.array_equal(counts.pixels_CN, LogitCounts.of(prob, truth).pixels_CN)
    assert whole.pixels_N.sum() == counts.pixels_CN.sum() == prob.size


def test_counted_logits_have_the_reliability_of_their_probabilities() -> None:
    prob, truth = drawn(1.5)
    assert LogitCounts.of(prob, truth).at(1).ece == pytest.approx(reliability(prob, truth).ece, abs=5e-4)


@given(PROBS, TRUTHS)
def test_no_temperature_moves_a_counted_pixel_across_one_half(prob: np.ndarray, truth: np.ndarray) -> None:
    counts = LogitCounts.of(prob, truth).pixels_CN
    assert counts[:, 1024:].sum() == (prob.astype(np.float64) >= 0.5).sum()


def networks() -> tuple[list[np.ndarray], np.ndarray]:
    """The answers of one network at temperatures 1 (twice: said, and left out) and 2.5, and its logits."""
    network = build_network("mit_b0", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    rgb_BYX3 = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    cpu = choose_device("cpu")
    plain = TorchPredictor([network], cpu, batch=1, fp32=True)(rgb_BYX3)
    others = [TorchPredictor([network], cpu, batch=1, fp32=True, temperature=t) for t in (1.0, 2.5)]
    return [plain, *(other(rgb_BYX3) for other in others)], special.logit(plain.astype(np.float64))


def test_a_temperature_divides_a_folds_logits_and_one_moves_no_bit() -> None:
    (plain, one, hot), logit = networks()
    assert np.array_equal(plain, one)
    assert np.abs(special.logit(hot.astype(np.float64)) - logit / 2.5).max() < 1e-4
    assert np.array_equal(plain >= 0.5, hot >= 0.5)
    assert np.abs(plain - hot).max() > 0


def test_networks_that_answer_with_no_number_are_refused() -> None:
    prob, truth = np.array([[0.5, np.nan]], np.float32), np.array([[True, False]])
    for count in (reliability, LogitCounts.of):
        with pytest.raises(BundleError, match=r"NaN.*fetch the bundle again, or train it again"):
            count(prob, truth)
