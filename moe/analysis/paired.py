"""Paired comparisons: the same seed gives two models the same data and shared initial weights.

So differences and ratios are taken within a seed first, and only then averaged: what is common to
both cancels. Intervals over seeds are Student's t, of one pair (`interval`) or with the spread of
many models together (`pooled_half`).
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


def pooled_half(losses) -> float:
    """Half width of the 95% interval of the difference of two models' means over seeds.

    A few seeds tell the spread of one pair badly, those of many models together tell it well: a
    loss is taken as its model's part plus its seed's part plus noise, as large for all models
    (randomized blocks, Box, Hunter and Hunter 2005, chapter 4). Models that differ in how much
    chance moves them break it.

    Args:
      losses: [models, seeds], the same seeds for each model.

    Returns:
      NaN with a single model, or with fewer than two seeds.
    """
    losses = np.asarray(losses, float)
    models, seeds = losses.shape
    freedom = (models - 1) * (seeds - 1)
    if freedom < 1:
        return math.nan
    noise = losses - losses.mean(1, keepdims=True) - losses.mean(0) + losses.mean()
    error = math.sqrt(2 / seeds * np.square(noise).sum() / freedom)
    return float(stats.t.ppf(0.975, freedom) * error)


def difference_over_documents(nll_X, baseline_X, tokens_X) -> Interval:
    """The difference of two models' loss in nats per token, with its interval over documents.

    Sequences of one document are alike, so a document is one observation. The error is the
    jackknife's, which leaves out one document at a time (Efron and Tibshirani 1993, chapter 11). A
    few long ones can carry most of it, and then it is known only roughly: Student's t has as many
    degrees of freedom as documents share the variance evenly, 1 / sum of squared shares, and at
    most one less than documents.

    Args:
      nll_X, baseline_X: sum of nats of each document of the same test set, in the same order.
      tokens_X: tokens of each document.

    Returns:
      An interval of sampling the test set, for one pair of models. It says nothing of other
      seeds.
    """
    change, tokens = np.subtract(nll_X, baseline_X), np.asarray(tokens_X, float)
    mean, n = float(change.sum() / tokens.sum()), len(tokens)
    if n < 2:
        return Interval(mean, math.nan)
    without = (change.sum() - change) / (tokens.sum() - tokens)
    squares = np.square(without - without.mean())
    if not squares.any():
        return Interval(mean, 0.0)
    error = math.sqrt((n - 1) / n * squares.sum())
    freedom = min(n - 1, squares.sum() ** 2 / np.square(squares).sum())
    return Interval(mean, float(stats.t.ppf(0.975, freedom) * error))


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
