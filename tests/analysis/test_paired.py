"""Intervals and curves against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from moe.analysis import paired


def test_interval_is_students_t():
    # mean 2, standard deviation 1, t(0.975, 2) = 4.302653, so half = 4.302653 / sqrt(3)
    result = paired.interval([1.0, 2.0, 3.0])
    assert result.mean == 2.0
    assert result.half == pytest.approx(2.484138, rel=1e-6)


def test_one_value_has_no_interval():
    result = paired.interval([0.5])
    assert math.isnan(result.half)


def test_the_spread_over_seeds_is_pooled_over_models():
    """By hand: three models of two seeds; the noise is ±1/3, ∓1/3 and 0 around rows and columns."""
    base = np.array([[1.0], [2.0], [4.0]]) + np.array([0.0, 0.5])
    noise = np.array([[1, -1], [-1, 1], [0, 0]]) / 3
    # variance 4/9 over (3 - 1)(2 - 1) = 2 degrees of freedom; a difference of means has twice that
    # over two seeds; t(0.975, 2) = 4.302653
    want = 4.302653 * math.sqrt(4 / 9 / 2)

    def half(losses):
        return paired.seeds_half(dict(zip("abc", losses, strict=False)), "a", "b")

    assert half(base + noise) == pytest.approx(want, rel=1e-6)
    assert half(base) == pytest.approx(0, abs=1e-12)
    assert math.isnan(half(base[:, :1])) and math.isnan(half(base[:1]))
    assert math.isnan(half(base[:0]))


def test_a_model_that_chance_moves_more_stands_for_itself():
    """Ten models spread by 0.01, and one by 0.4: Welch's interval is its own, of one freedom."""
    rng = np.random.default_rng(0)
    calm = {f"m{i}": list(3.5 + 0.1 * i + 0.01 * rng.normal(size=2)) for i in range(10)}
    losses = {**calm, "wild": [3.7, 4.1]}
    assert paired.outliers(losses) == {"wild"} and paired.outliers(calm) == set()
    assert paired.seeds_half(losses, "m0", "m1") == paired.seeds_half(calm, "m0", "m1") < 0.05
    assert paired.seeds_half(losses, "dense", "m1") == paired.seeds_half(calm, "m0", "m1")
    # variance 0.08 over two seeds, t(0.975, 1) = 12.706; the other model adds next to nothing
    want = 12.706 * math.sqrt(0.08 / 2)
    assert paired.seeds_half(losses, "wild", "m1") == pytest.approx(want, rel=0.01)


def test_a_spread_of_ordinary_chance_sets_nobody_apart():
    """One in a thousand such studies, by the level of the test."""
    rng = np.random.default_rng(1)
    draws = rng.normal(size=(400, 12, 2))
    assert sum(bool(paired.outliers(dict(enumerate(x.tolist())))) for x in draws) <= 2


def test_pairing_cancels_what_is_common():
    """Rows differ wildly, the models by a constant: the interval has no width."""
    baseline = np.array([10.0, 500.0, 90.0, 3.0])
    result = paired.difference_over_documents(baseline - 2.0, baseline, [10] * 4)
    assert result.mean == pytest.approx(-0.2)
    assert result.half == pytest.approx(0.0, abs=1e-9)


def test_difference_of_documents_of_unequal_length_is_per_token():
    result = paired.difference_over_documents([8.0, 1.0], [10.0, 2.0], [10, 2])
    assert result.mean == pytest.approx(-3.0 / 12)


def test_the_interval_over_documents_is_the_jackknife_s():
    # Documents of 20, 10, 10 and 10 tokens change by -4, -1, +1 and +2: mean -2/50. Without one of
    # them it is 2/30, -1/40, -3/40, -4/40, which differ from their mean by 12, 1, -5, -8 / 120:
    # a variance of 3/4 * 234 / 120^2 in shares 144, 1, 25 and 64 of 234.
    documents = [16.0, 9.0, 11.0, 12.0], [20.0, 10.0, 10.0, 10.0], [20, 10, 10, 10]
    result = paired.difference_over_documents(*documents)
    assert result.mean == pytest.approx(-2 / 50)
    freedom = 234**2 / (144**2 + 1 + 25**2 + 64**2)
    t = stats.t.ppf(0.975, freedom)
    assert result.half == pytest.approx(t * math.sqrt(3 / 4 * 234) / 120, rel=1e-6)
    one = paired.difference_over_documents([8.0], [10.0], [10])
    assert math.isnan(one.half)


def test_one_document_that_decides_all_is_one_observation():
    """A hundred documents without a change add nothing to what is known of the one that changed."""
    baseline = np.full(101, 10.0)
    tokens = np.full(101, 10)
    change = np.where(np.arange(101) == 0, -5.0, 0.0)
    result = paired.difference_over_documents(baseline + change, baseline, tokens)
    assert result.half > 10 * abs(result.mean)


def test_intervals_over_documents_cover_what_they_claim_to():
    """Documents of very unequal length, each with its own difference; the truth is 0."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        length = np.ceil(10 * rng.lognormal(0, 1.5, 50))
        nll = length * rng.normal(0, 1, 50) + np.sqrt(length) * rng.normal(0, 1, 50)
        result = paired.difference_over_documents(nll, np.zeros(50), length)
        covered += abs(result.mean) <= result.half
    assert 0.94 <= covered / 400 <= 0.995


def test_first_reach_interpolates():
    steps = [100, 200, 300]
    losses = [5.0, 4.0, 3.0]
    assert paired.first_reach(steps, losses, 4.5) == 150.0
    assert paired.first_reach(steps, losses, 3.0) == 300.0
    assert paired.first_reach(steps, losses, 6.0) == 100.0
    assert math.isnan(paired.first_reach(steps, losses, 2.9))


def test_first_reach_is_the_first_time():
    assert paired.first_reach([1, 2, 3, 4], [5.0, 3.0, 5.0, 2.0], 4.0) == 1.5
