"""The rule for learning rates: recovered where it is known, refused where nobody can know."""

import itertools
import math

import pytest

from moe.analysis import learning_rates
from moe.errors import UserError

RATES = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)


def pilots(rule):
    """Losses that are parabolas about the rule's rates."""
    models = itertools.product((32, 64, 128), (1, 16))
    return [
        {
            "d_model": width, "experts": experts, "learning_rate": rate,
            "test_nll": 3 + 0.1 * math.log(rate / rule.of(width, experts)) ** 2,
        }
        for width, experts in models
        for rate in RATES
    ]  # fmt: skip


def test_a_known_rule_is_found():
    rule = learning_rates.Rule(0.012, -0.7, -0.2)
    assert learning_rates.rule(pilots(rule)) == pytest.approx(rule)
    text = learning_rates.table(pilots(rule))
    assert "rate = 0.0120 (width / 64)^-0.70 E^-0.200" in text and "| 128 | 16 |" in text


def test_a_rate_at_an_edge_is_refused():
    with pytest.raises(UserError, match=r"the lowest loss is at 0.064, an edge of the pilots"):
        learning_rates.rule(pilots(learning_rates.Rule(0.1, 0.0, 0.0)))
