"""Choices that move, and routers that collapse."""

import warnings

import numpy as np
import pytest

from moe.evaluation import routing
from moe.routing import ROUTERS


def test_agreement_is_of_sets_and_leaves_out_nobody():
    """One layer: token 0 keeps both in another order, token 1 one of two, token 2 is padding."""
    before = np.array([[[[0, 1], [2, 3], [4, 4]]]])
    after = np.array([[[[1, 0], [3, 0], [4, 4]]]])
    assert routing.agreement(before, after, 4) == [0.75]
    assert routing.agreement(before, before, 4) == [1.0]


def record(step, load_LE, k=1.0):
    return {"step": step, "load_LE": load_LE, "realised_k_L": [k] * len(load_LE)}


EVEN = [0.25] * 4
IDLE = [0.5, 0.25, 0.25, 0.0]
HEAVY = [0.6, 0.2, 0.1, 0.1]


@pytest.mark.parametrize(
    ("load_E", "k", "reason"),
    [
        (EVEN, 1, None),
        (IDLE, 1, "1 of 4 experts get no token"),
        (HEAVY, 1, "expert 0 gets 60% of the load"),
        ([0.49, 0.2, 0.2, 0.11], 2, "expert 0 gets 49% of the load"),  # nearly every token
        ([0.5, 0.5], 2, None),  # every token has both experts
        ([0.6, 0.4], 1, None),  # of two, one has more than half
        ([0.8, 0.2], 1, "expert 0 gets 80% of the load"),
        ([1.0], 1, None),
    ],
)
def test_what_a_collapse_is(load_E, k, reason):
    assert routing.collapse(np.array(load_E), k) == reason


def test_a_collapse_that_lasts_is_warned_of_once():
    watch = routing.CollapseMonitor(20, ROUTERS["top_k"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in (10, 20):
            watch.update(record(step, [EVEN, IDLE]))
    with pytest.warns(routing.CollapseWarning, match="MoE layer 1 has collapsed: since step 10 1"):
        watch.update(record(30, [EVEN, IDLE]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.update(record(40, [EVEN, IDLE]))


def test_a_collapse_that_heals_is_not():
    watch = routing.CollapseMonitor(20, ROUTERS["top_k"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step, load_E in ((10, HEAVY), (20, EVEN), (30, HEAVY), (40, IDLE)):
            watch.update(record(step, [load_E]))


def test_advice_is_what_the_router_can_use():
    assert routing.advice(ROUTERS["top_k"]).startswith("Raise experts.balance_weight, or lower opt")
    assert routing.advice(ROUTERS["base"]).startswith("Lower optimizer.learning_rate, or lower exp")
    assert routing.advice(ROUTERS["hash"]).startswith("Take a router that balances itself")
