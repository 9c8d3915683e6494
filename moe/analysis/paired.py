"""Paired comparisons: the same seed gives two models the same data and shared initial weights.

So differences and ratios are taken within a seed first, and only then averaged: what is common to
both cancels. Intervals over seeds are Student's t, of one pair (`interval`) or with the spread of
many models together (`seeds_half`).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

SMOOTHED = 5  # evaluations


class Interval(NamedTuple):
    """A mean with its 95% confidence interval; half is NaN when one value is all there is."""

    mean: float
    half: float

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value; NaN when one value is all there is."""
        return self.mean - self.half, self.mean + self.half

    def __str__(self):
        return (
            f"{self.mean:+.4f} ± {self.half:.4f}" if self.half == self.half else f"{self.mean:+.4f}"
        )


def interval(values: ArrayLike) -> Interval:
    """Mean and half width of the 95% t interval of independent values (one per seed)."""
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return Interval(float(values.mean()), math.nan)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)
    return Interval(float(values.mean()), float(half))


def gain_kept(
    own: Mapping[int, float], whole: Mapping[int, float], base: Mapping[int, float]
) -> Interval | None:
    """The share of a gain that is left; None if there was none with every seed.

    Args:
      own: the loss of what is left, by seed.
      whole: that of what gained.
      base: that of what was gained over.
    """
    seeds = [seed for seed in own if seed in whole and seed in base]
    gains = [base[seed] - whole[seed] for seed in seeds]
    if not seeds or min(gains) <= 0:
        return None
    left = [base[seed] - own[seed] for seed in seeds]
    return interval([a / b for a, b in zip(left, gains, strict=True)])


def kept_text(
    own: Mapping[int, dict],
    whole: Mapping[int, dict],
    base: Mapping[int, dict],
    key: str,
    form: str,
) -> str:
    """`gain_kept` of records by seed, with its interval if there is one.

    Args:
      own, whole, base: as of `gain_kept`, each a record that has the loss.
      key: the loss's field.
      form: how a number is written, as ".0%".
    """
    losses = [{seed: one[key] for seed, one in runs.items()} for runs in (own, whole, base)]
    share = gain_kept(*losses)
    if share is None:
        return "no gain"
    half = f" ± {share.half:{form}}" if share.half == share.half else ""
    return f"{share.mean:{form}}{half}"


def seeds_half(losses: dict[str, list[float]], one: str, other: str) -> float:
    """Half width of the 95% interval of the difference of two models' means over seeds.

    A few seeds tell the spread of one pair badly, those of many models together tell it well: a
    loss is taken as its model's part plus its seed's part plus noise, as large for all models
    (randomized blocks, Box, Hunter and Hunter 2005, chapter 4). But a model that is one of the
    `outliers` has its own spread, known from its own seeds alone (Welch 1947).

    Args:
      losses: the models whose spread is pooled; of each one loss a seed, the same seeds for all.
      one, other: of the models, or others, which are taken to have the pooled spread.

    Returns:
      NaN with fewer than two models, or fewer than two seeds.
    """
    alone = outliers(losses)
    together = np.array([values for name, values in losses.items() if name not in alone], float)
    if len(together) < 2 or together.shape[1] < 2:
        return math.nan
    models, seeds = together.shape
    freedom = (models - 1) * (seeds - 1)
    noise = together - together.mean(1, keepdims=True) - together.mean(0) + together.mean()
    pooled = np.square(noise).sum() / freedom, freedom
    if not alone & {one, other}:
        return _half(2 * pooled[0] / seeds, freedom)
    own = {name: (np.var(losses[name], ddof=1), seeds - 1) for name in alone}
    parts = [own.get(name, pooled) for name in (one, other)]
    squared = sum(v for v, _ in parts) / seeds
    welch = squared**2 / sum((v / seeds) ** 2 / f for v, f in parts)
    return _half(squared, welch)


def _half(squared_error, freedom):
    return float(stats.t.ppf(0.975, freedom) * math.sqrt(squared_error))


def outliers(losses: dict[str, list[float]]) -> set[str]:
    """Models that chance moves more than the others: F test of each against the rest.

    At p < 0.001, divided by the number of models (Bonferroni).
    """
    values = np.array(list(losses.values()), float)
    if len(values) < 3 or values.shape[1] < 2:
        return set()
    models, seeds = values.shape
    noise = values - values.mean(1, keepdims=True)
    noise -= np.median(noise, axis=0)  # what a seed does to all
    squares = np.square(noise).sum(1)
    rest = (squares.sum() - squares) / (models - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.f.sf(squares / rest, seeds - 1, (models - 1) * (seeds - 1))
    return {name for name, small in zip(losses, p < 0.001 / models, strict=True) if small}


def difference_over_documents(
    nll_X: ArrayLike, baseline_X: ArrayLike, tokens_X: ArrayLike
) -> Interval:
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
    change = np.subtract(nll_X, baseline_X)
    tokens = np.asarray(tokens_X, float)
    mean = float(change.sum() / tokens.sum())
    n = len(tokens)
    if n < 2:
        return Interval(mean, math.nan)
    without = (change.sum() - change) / (tokens.sum() - tokens)
    squares = np.square(without - without.mean())
    if not squares.any():
        return Interval(mean, 0.0)
    error = math.sqrt((n - 1) / n * squares.sum())
    freedom = min(n - 1, squares.sum() ** 2 / np.square(squares).sum())
    return Interval(mean, float(stats.t.ppf(0.975, freedom) * error))


def smoothed(steps: Sequence[float], losses: Sequence[float]) -> tuple[list, list]:
    """A curve whose points are means of `SMOOTHED` neighbours, in both coordinates.

    The first crossing of a noisy curve flatters. A curve shorter than twice that stays as it is.
    """
    window = SMOOTHED if len(steps) >= 2 * SMOOTHED else 1
    kernel = np.full(window, 1 / window)
    smooth = functools.partial(np.convolve, kernel, mode="valid")
    return smooth(steps).tolist(), smooth(losses).tolist()


def first_reach(steps: Sequence[float], losses: Sequence[float], target: float) -> float:
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
