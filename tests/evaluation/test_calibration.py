"""Calibration by hand, against scikit-learn, and of predictions that are calibrated by design."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics

from moe.batch import Batch
from moe.evaluation import calibration, next_tokens
from moe.models import contract


def drawn(number=5000, sharpness=1.0, seed=0):
    """Confidences, and whether each was right: calibrated if sharpness is 1."""
    rng = np.random.default_rng(seed)
    confidence_N = rng.beta(2, 2, number)
    return confidence_N, rng.random(number) < confidence_N**sharpness


def test_by_hand():
    """Bins (0, 0.5] and (0.5, 1]: gaps |0.3 - 0.5| of two and |0.8 - 1/3| of three."""
    confidence_N, right_N = np.array([0.1, 0.5, 0.6, 0.8, 1.0]), np.array([1, 0, 1, 0, 0])
    bins = calibration.equal_width(confidence_N, right_N, 2)
    np.testing.assert_allclose(bins, [[2, 3], [0.3, 0.8], [0.5, 1 / 3]])
    assert calibration.error(bins) == pytest.approx((2 * 0.2 + 3 * (0.8 - 1 / 3)) / 5)
    even = calibration.equal_count(confidence_N, right_N, 2)
    np.testing.assert_allclose(even.number, [3, 2])
    np.testing.assert_allclose(even.confidence, [0.4, 0.9])


@pytest.mark.parametrize(
    ("binned", "strategy"),
    [(calibration.equal_width, "uniform"), (calibration.equal_count, "quantile")],
)
def test_bins_are_those_of_scikit_learn(binned, strategy):
    confidence_N, right_N = drawn(sharpness=2.0)
    bins = binned(confidence_N, right_N, 15)
    accuracy_B, confidence_B = sklearn.calibration.calibration_curve(
        right_N, confidence_N, n_bins=15, strategy=strategy
    )
    close = {"rtol": 0, "atol": 1e-12 if strategy == "uniform" else 2e-3}  # quantiles interpolate
    np.testing.assert_allclose(bins.accuracy, accuracy_B, **close)
    np.testing.assert_allclose(bins.confidence, confidence_B, **close)
    assert bins.number.sum() == len(confidence_N)


def test_brier_scores_are_those_of_scikit_learn():
    forecast_N, outcome_N = drawn(sharpness=2.0)
    parts = calibration.brier(forecast_N, outcome_N)
    assert parts.score == pytest.approx(sklearn.metrics.brier_score_loss(outcome_N, forecast_N))
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert parts.score == pytest.approx(total, abs=1e-12)
    assert parts.reliability > 0.01  # too sure by design
    assert abs(parts.within) < 0.01
    rng = np.random.default_rng(1)
    p_NC, gold_N = rng.dirichlet(np.ones(4), 300), rng.integers(4, size=300)
    want = sklearn.metrics.brier_score_loss(gold_N, p_NC, labels=range(4), scale_by_half=False)
    assert calibration.multiclass_brier(p_NC, gold_N) == pytest.approx(want)


def test_calibrated_predictions_have_the_error_of_chance_and_no_more():
    """Few are far from their confidence by chance alone; many are near it."""
    for number in (100, 20_000):
        confidence_N, right_N = drawn(number)
        found = calibration.summary(confidence_N, right_N)
        assert found["ece"] < 2.5 * found["ece_by_chance"]
        assert found["ece_by_chance"] == pytest.approx(0.9 / number**0.5, rel=0.5)
        too_sure = calibration.summary(*drawn(number, sharpness=3.0))
        assert too_sure["ece"] > 2.5 * too_sure["ece_by_chance"]
        assert too_sure["confidence"] > too_sure["accuracy"]


def test_forecasts_of_tokens_by_hand():
    """Three targets with known probabilities; padding does not count."""
    p_TV = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25], [1 / 3] * 3])
    targets_BT = np.array([[0, 1, 1, 0]])
    batch = Batch(targets_BT, targets_BT, np.array([[1, 1, 1, 0]]), targets_BT)
    model = types.SimpleNamespace(
        apply=lambda *args, **kwargs: contract.Output(jnp.log(p_TV)[None])
    )
    found = next_tokens.forecasts(model, {}, {}, batch, jax.random.key(0))
    np.testing.assert_allclose(found.confidence[0], p_TV.max(1), rtol=1e-6)
    assert found.right.tolist() == [[True, False, True, True]]
    want = [0.25 + 0.09 + 0.04, 0.01 + 0.81 + 0.64, 2 * 0.0625 + 0.25]
    np.testing.assert_allclose(found.distance[0, :3], want, rtol=1e-5)
