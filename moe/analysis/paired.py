"""Paired comparisons: the same seed gives two models the same data and shared initial weights.

So differences and ratios are taken within a seed first, and only then averaged: what is common to
both cancels. Intervals are Student's t over seeds.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean with its 95% confidence interval; half is NaN when one value is all there is."""

    mean: float
    half: float

    def __str__(self):
        return (
            f"{self.mean:+.4f} ± {self.half:.4f}" if self.half == self.half else f"{self.mean:+.4f}"
        )


def interval(values) -> Interval:
    """Mean and half width of the 95% t interval of independent values (one per seed)."""
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return Interval(float(values.mean()), math.nan)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)
    return Interval(float(values.mean()), float(half))


def difference_over_documents(nll_R, baseline_R, tokens_R, document_R) -> Interval:
    """The difference of two models' loss in nats per token, with its interval over documents.

    Rows of one document are alike, so they count as one observation: the interval is that of a
    ratio of totals over clusters (Cochran 1977, "Sampling techniques", chapter 9A).

    Args:
      nll_R, baseline_R: sum of nats of each row (sequence) of the same test set, in the same order.
      tokens_R: real tokens of each row.
      document_R: the document of each row.

    Returns:
      An interval of sampling the test set, for one pair of models. It says nothing of other
      seeds; with several seeds use `interval` over them.
    """
    tokens_R, change_R = np.asarray(tokens_R, float), np.subtract(nll_R, baseline_R)
    mean = change_R.sum() / tokens_R.sum()
    _, cluster_R = np.unique(document_R, return_inverse=True)
    excess = np.bincount(cluster_R, weights=change_R - mean * tokens_R)
    n = len(excess)
    if n < 2:
        return Interval(float(mean), math.nan)
    error = math.sqrt(n / (n - 1) * (excess**2).sum()) / tokens_R.sum()
    return Interval(float(mean), float(stats.t.ppf(0.975, n - 1) * error))


def first_reach(steps, losses, target: float) -> float:
    """The step at which a loss curve first comes down to the target; NaN if it never does.

    Linear between the evaluations on both sides.
    """
    previous = None
    for step, loss in zip(steps, losses, strict=True):
        if loss <= target:
            if previous is None:
                return float(step)
            fraction = (previous[1] - target) / (previous[1] - loss)
            return float(previous[0] + fraction * (step - previous[0]))
        previous = step, loss
    return math.nan
