"""The matcher: two models of equal FLOPs, and dense ones of several times as many."""

import dataclasses

import pytest

from moe import flops
from tests import tiny
from tests.test_flops import B, dense

SIZE = {"batch": B, "length": 32}

WIDE = {"d_model": 32, "d_head": 16, "d_ff": 128}


@pytest.mark.parametrize("by", ["executed", "ideal"])
@pytest.mark.parametrize("adjust", ["experts", "dense"])
@pytest.mark.parametrize("k", [1, 2])
def test_match(by, adjust, k):
    model = tiny.model(**WIDE, experts=tiny.moe_config(d_ff=100, k=k, capacity_factor=1.25))
    got = flops.match(dense(**WIDE), model, by=by, adjust=adjust, **SIZE)
    assert got.residual < 0.01
    cost = [flops.per_token(x, B, 32, by) for x in (got.dense, got.sparse)]
    assert cost == [got.dense_flops, got.sparse_flops]
    assert abs(cost[1] / cost[0] - 1) == got.residual
    fixed, free = (got.dense, got.sparse) if adjust == "experts" else (got.sparse, got.dense)
    assert fixed == (dense(**WIDE) if adjust == "experts" else model)
    want = model if adjust == "experts" else dense(**WIDE)
    if adjust == "experts":
        assert (
            dataclasses.replace(free, experts=dataclasses.replace(free.experts, d_ff=100)) == want
        )
    else:
        assert dataclasses.replace(free, d_ff=128) == want


def test_match_is_exact_where_it_can_be():
    """Ideal, K = 1: an expert as wide as the dense layer it replaces; K = 2: half of it."""
    for k in (1, 2):
        model = tiny.model(**WIDE, experts=tiny.moe_config(d_ff=7, k=k))
        got = flops.match(dense(**WIDE), model, by="ideal", **SIZE)
        assert got.sparse.experts.d_ff == 128 // k and got.residual == 0


def test_executed_charges_padding_to_the_experts():
    """At capacity 2 an expert may be at most half as wide, less what the router costs."""
    model = tiny.model(**WIDE, experts=tiny.moe_config(d_ff=7, capacity_factor=2.0))
    got = flops.match(dense(**WIDE), model, **SIZE)
    router = tiny.E / 4  # 2 D E of router against 4 D of a slot's column, at 2 slots a token
    assert got.sparse.experts.d_ff == 64 - router


def test_match_charges_what_accumulation_recomputes():
    """Both models then cost more, a forward pass of four thirds."""
    model = tiny.model(**WIDE, experts=tiny.moe_config(d_ff=7))
    got = flops.match(dense(**WIDE), model, accumulate=2, **SIZE)
    once = flops.per_token(dense(**WIDE), B, 32, "executed")
    assert got.dense_flops == once * 4 / 3 and got.residual < 0.01


def test_no_match():
    """The one-hot dispatcher alone costs more than the dense model."""
    experts = tiny.moe_config(d_ff=8, dispatcher="einsum", group_size=8 * 32, capacity_factor=4.0)
    with pytest.raises(ValueError, match="no width reaches .*at width 0 the rest already costs"):
        flops.match(dense(**WIDE), tiny.model(**WIDE, experts=experts), **SIZE)


def test_a_match_too_coarse():
    """A width is a whole number: sixteen slots a token leave steps of several per cent."""
    small = {"d_model": 32, "d_head": 2, "num_heads": 1, "d_ff": 9, "vocab_size": 2}
    experts = tiny.moe_config(num_experts=16, k=16, d_ff=8)
    with pytest.raises(ValueError, match="cannot match ideal FLOPs within 1.0%: dense d_ff=9"):
        flops.match(dense(**small), tiny.model(**small, experts=experts), by="ideal", **SIZE)


def test_match_says_what_it_did():
    model = tiny.model(**WIDE, experts=tiny.moe_config(d_ff=7))
    got = flops.match(dense(**WIDE), model, by="ideal", **SIZE)
    assert str(got) == (
        f"dense d_ff=128: {got.dense_flops:,.0f} FLOPs/token; MoE expert d_ff=128:"
        f" {got.dense_flops:,.0f} FLOPs/token; residual mismatch 0.000%"
    )


@pytest.mark.parametrize("by", ["executed", "ideal"])
def test_a_dense_model_of_several_times_the_cost(by):
    got = flops.dense_of(dense(**WIDE), 2.0, by=by, **SIZE)
    ratio = flops.per_token(got, B, 32, by) / flops.per_token(dense(**WIDE), B, 32, by)
    assert abs(ratio - 2) < 0.01 and dataclasses.replace(got, d_ff=128) == dense(**WIDE)


def test_energy():
    assert flops.energy_kwh(seconds=3600, watts=500) == 0.5
