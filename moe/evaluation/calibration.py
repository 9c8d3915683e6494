"""How far a model's confidence is from how often it is right.

A prediction is the most probable answer, its confidence that probability. Perfectly calibrated
predictions of confidence p are right in a share p of all cases (Guo et al. 2017, "On Calibration of
Modern Neural Networks", section 2). With few predictions the error of even those is above zero:
`by_chance` says how far.
"""

from typing import NamedTuple

import numpy as np

BINS = 10  # BIG-bench's number (Srivastava et al. 2022, section 3.2)


class Bins(NamedTuple):
    """Predictions sorted by confidence into bins, [B]; empty bins are left out."""

    number: np.ndarray
    confidence: np.ndarray  # its mean
    accuracy: np.ndarray


class Brier(NamedTuple):
    """Its parts: score = reliability - resolution + uncertainty + within (Murphy 1973)."""

    score: float  # mean squared distance of forecast and outcome
    reliability: float  # of the bins' mean forecasts from their mean outcomes; 0 is calibrated
    resolution: float  # of the bins' mean outcomes from the mean of all; more is better
    uncertainty: float  # variance of the outcome
    within: float  # what lies inside bins (Stephenson, Coelho and Jolliffe 2008, section 2)


def equal_width(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> Bins:
    """Bins (i/B, (i+1)/B] of the confidence; the first holds 0, too."""
    which_N = np.clip(np.ceil(np.asarray(confidence_N, float) * bins).astype(int) - 1, 0, bins - 1)
    return _binned(which_N, confidence_N, right_N)


def equal_count(confidence_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> Bins:
    """Bins of as many predictions each, but for one (Nixon et al. 2019, "adaptive")."""
    order_N = np.argsort(confidence_N, kind="stable")
    which_N = np.empty(len(order_N), int)
    which_N[order_N] = np.arange(len(order_N)) * bins // len(order_N)
    return _binned(which_N, confidence_N, right_N)


def _binned(which_N, confidence_N, right_N):
    count_B = np.bincount(which_N)
    full_B = count_B > 0
    sums = (np.bincount(which_N, np.asarray(x, float)) for x in (confidence_N, right_N))
    confidence_B, accuracy_B = (x_B[full_B] / count_B[full_B] for x_B in sums)
    return Bins(count_B[full_B], confidence_B, accuracy_B)


def error(bins: Bins) -> float:
    """Expected calibration error (Naeini et al. 2015): mean distance of confidence and accuracy."""
    gap_B = np.abs(bins.accuracy - bins.confidence)
    return float((bins.number * gap_B).sum() / bins.number.sum())


def by_chance(
    confidence_N: np.ndarray, binned=equal_width, bins: int = BINS, draws: int = 200, seed: int = 0
) -> float:
    """The mean error of predictions with these confidences that are perfectly calibrated.

    Args:
      confidence_N: of the predictions.
      binned: `equal_width` or `equal_count`.
      bins: how many.
      draws: whether each prediction is right is drawn so often.
      seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    drawn = (rng.random(len(confidence_N)) < confidence_N for _ in range(draws))
    return float(np.mean([error(binned(confidence_N, right_N, bins)) for right_N in drawn]))


def brier(forecast_N: np.ndarray, outcome_N: np.ndarray, bins: int = BINS) -> Brier:
    """The Brier score of forecasts of one event, decomposed over bins of equal width.

    Args:
      forecast_N: probabilities.
      outcome_N: whether it happened.
      bins: how many.
    """
    forecast_N, outcome_N = np.asarray(forecast_N, float), np.asarray(outcome_N, float)
    found = equal_width(forecast_N, outcome_N, bins)
    share_B = found.number / found.number.sum()
    score = np.mean((forecast_N - outcome_N) ** 2)
    reliability = (share_B * (found.confidence - found.accuracy) ** 2).sum()
    resolution = (share_B * (found.accuracy - outcome_N.mean()) ** 2).sum()
    uncertainty = outcome_N.mean() * (1 - outcome_N.mean())
    within = score - (reliability - resolution + uncertainty)
    return Brier(*map(float, (score, reliability, resolution, uncertainty, within)))


def multiclass_brier(p_NC: np.ndarray, gold_N: np.ndarray) -> float:
    """Mean squared distance of the forecast of all classes and the one-hot outcome (Brier 1950)."""
    hit_NC = np.arange(p_NC.shape[1]) == np.asarray(gold_N)[:, None]
    return float(((p_NC - hit_NC) ** 2).sum(1).mean())


def summary(confidence_N: np.ndarray, right_N: np.ndarray) -> dict[str, float]:
    """All of it by name, as a row of a table; Brier's is that of "the prediction is right"."""
    parts = brier(confidence_N, right_N)
    return {
        "predictions": len(confidence_N),
        "accuracy": float(np.mean(right_N)),
        "confidence": float(np.mean(confidence_N)),
        "ece": error(equal_width(confidence_N, right_N)),
        "ece_by_chance": by_chance(confidence_N),
        "ece_equal_count": error(equal_count(confidence_N, right_N)),
        "ece_equal_count_by_chance": by_chance(confidence_N, equal_count),
        "brier": parts.score,
        **{f"brier_{name}": value for name, value in parts._asdict().items() if name != "score"},
    }
