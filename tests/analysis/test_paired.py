"""Intervals and curves against numbers worked out by hand."""

import math

import numpy as np
import pytest

from moe.analysis import paired


def test_interval_is_students_t():
    # mean 2, standard deviation 1, t(0.975, 2) = 4.302653, so half = 4.302653 / sqrt(3)
    result = paired.interval([1.0, 2.0, 3.0])
    assert result.mean == 2.0
    assert result.half == pytest.approx(2.484138, rel=1e-6)


def test_one_value_has_no_interval():
    result = paired.interval([0.5])
    assert math.isnan(result.half)


def test_pairing_cancels_what_is_common():
    """Rows differ wildly, the models by a constant: the interval has no width."""
    baseline = np.array([10.0, 500.0, 90.0, 3.0])
    result = paired.difference_over_documents(baseline - 2.0, baseline, [10] * 4, [0, 1, 2, 3])
    assert result.mean == pytest.approx(-0.2)
    assert result.half == pytest.approx(0.0, abs=1e-9)


def test_difference_of_rows_of_unequal_length_is_per_token():
    result = paired.difference_over_documents([8.0, 1.0], [10.0, 2.0], [10, 2], [0, 1])
    assert result.mean == pytest.approx(-3.0 / 12)


def test_rows_of_one_document_count_once():
    # Documents of 20, 10 and 10 tokens change by -4, -1, +1: mean -0.1, so they exceed it by
    # -2, 0 and 2; error sqrt(3 / 2 * 8) / 40, t(0.975, 2) = 4.302653.
    result = paired.difference_over_documents(
        [8.0, 8.0, 9.0, 11.0], [10.0] * 4, [10] * 4, [7, 7, 2, 3]
    )
    assert result.mean == pytest.approx(-0.1)
    assert result.half == pytest.approx(4.302653 * math.sqrt(12) / 40, rel=1e-6)
    copies = paired.difference_over_documents(
        np.repeat([8.0, 8.0, 9.0, 11.0], 50), [10.0] * 200, [10] * 200, np.repeat([7, 7, 2, 3], 50)
    )
    assert copies.half == pytest.approx(result.half)
    one = paired.difference_over_documents([8.0, 8.0], [10.0] * 2, [10] * 2, [5, 5])
    assert math.isnan(one.half)


def test_first_reach_interpolates():
    steps, losses = [100, 200, 300], [5.0, 4.0, 3.0]
    assert paired.first_reach(steps, losses, 4.5) == 150.0
    assert paired.first_reach(steps, losses, 3.0) == 300.0
    assert paired.first_reach(steps, losses, 6.0) == 100.0
    assert math.isnan(paired.first_reach(steps, losses, 2.9))


def test_first_reach_is_the_first_time():
    assert paired.first_reach([1, 2, 3, 4], [5.0, 3.0, 5.0, 2.0], 4.0) == 1.5
