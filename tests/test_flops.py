"""Ideal and executed FLOPs against closed forms, the parameters, and the matcher."""

import dataclasses

import pytest

from moe import flops
from moe.dispatch import blocks
from tests import tiny
from tests.routing.cases import CASES

B = tiny.B

T = tiny.T

D = tiny.D

V = tiny.V

TOKENS = B * T

N_H = 8  # heads x width of one, and of a dense feed-forward

F = 16


def dense(**changes):
    return tiny.model(experts=None, **changes)


def executed(config, **changes):
    return flops.executed(config, **{"batch": B, "length": T, **changes})


# Forward products of one layer or part, for all tokens; a training step does each three times.
ATTENTION = TOKENS * (2 * 4 * D * N_H + 2 * 2 * N_H * T)

FFN = TOKENS * 2 * 2 * D * F

HEAD = TOKENS * 2 * D * V


def experts_forward(slots, d_ff=8):
    return slots * 2 * 2 * D * d_ff


def test_a_dense_model_in_closed_form():
    got = executed(dense())
    assert got.products == {"attention": 6 * ATTENTION, "dense_ffn": 6 * FFN, "head": 3 * HEAD}
    assert got.total == 6 * ATTENTION + 6 * FFN + 3 * HEAD


@pytest.mark.parametrize(("factor", "k", "slots"), [(1.0, 1, 2), (1.25, 1, 3), (1.0, 2, 4)])
def test_a_sparse_model_in_closed_form(factor, k, slots):
    """Experts compute all their slots, filled or not; sorting and gathering are no products."""
    model = tiny.sparse(capacity_factor=factor, eval_capacity_factor=factor, k=k)
    got = executed(model)
    forward = flops.evaluating(model, B, T).products
    assert {part: 3 * cost for part, cost in forward.items()} == got.products
    assert got.products == {
        "attention": 6 * ATTENTION,
        "dense_ffn": 3 * FFN,
        "head": 3 * HEAD,
        "router": 3 * TOKENS * 2 * D * tiny.E,
        "experts": 3 * experts_forward(B * tiny.E * slots),
    }


@pytest.mark.parametrize("group_size", [T, 4 * T, T // 2])
def test_the_one_hot_dispatcher_pays_for_its_products(group_size):
    """2 S E C D a group each way; backward the same for x and y, and once for the gates."""
    got = executed(tiny.sparse(dispatcher="einsum", group_size=group_size))
    slots = group_size // tiny.E
    one_way = TOKENS // group_size * 2 * group_size * tiny.E * slots * D
    assert got.products["dispatch"] == 5 * one_way
    plain = executed(tiny.sparse(group_size=group_size))
    assert got.total - plain.total == 5 * one_way


def test_the_dropless_dispatcher_pays_for_its_slots():
    """A little more than the even share; blocks of those who find none go as data decide."""
    got = executed(
        tiny.sparse(dispatcher="grouped", capacity_factor=0.0, eval_capacity_factor=0.0, k=2)
    )
    rows = tiny.E * blocks.sizes(2 * TOKENS, tiny.E)[0]
    assert 2 * TOKENS < rows < 2.5 * TOKENS
    assert got.products["experts"] == 3 * experts_forward(rows)


def test_the_oracle_pays_for_every_expert_on_every_token():
    got = executed(tiny.sparse(dispatcher="oracle"))
    assert got.products["experts"] == 3 * experts_forward(TOKENS * tiny.E)


def test_depth_multiplies_the_blocks_but_not_the_head():
    two = executed(tiny.model())
    four = executed(tiny.model(num_layers=4))
    for part in ("attention", "dense_ffn", "router", "experts"):
        assert four.products[part] == 2 * two.products[part]
    assert four.products["head"] == two.products["head"]


def test_gates_are_a_third_matrix():
    plain = executed(dense())
    gated = executed(dense(activation="swiglu"))
    assert gated.products["dense_ffn"] == plain.products["dense_ffn"] * 3 / 2
    mixed = executed(tiny.model(dense_activation="geglu"))
    assert mixed.products["dense_ffn"] == 3 * FFN * 3 / 2
    assert mixed.products["experts"] == executed(tiny.model()).products["experts"]


def test_remat_recomputes_the_blocks():
    """All but the last product of a block, whose result the gradient does not need."""
    plain = executed(dense(moe_every=1))
    remat = executed(dense(moe_every=1, remat=True))
    assert remat.products["attention"] == plain.products["attention"] * 4 / 3
    assert remat.products["dense_ffn"] == 6 * FFN + 2 * FFN / 2
    assert remat.products["head"] == plain.products["head"]
    kept = executed(dense(moe_every=1, remat=True), remat_policy="products")
    assert kept.products["dense_ffn"] == plain.products["dense_ffn"]
    scores = kept.products["attention"] - plain.products["attention"]
    assert 0 < scores < remat.products["attention"] - plain.products["attention"]


def test_accumulation_recomputes_a_forward_pass():
    once = executed(tiny.model())
    twice = executed(tiny.model(), accumulate=2)
    assert twice.total == once.total * 4 / 3
    four = executed(tiny.model(), accumulate=4)
    assert four.products == twice.products


def test_parts_sum_to_the_total_and_cover_it():
    got = executed(tiny.sparse(dispatcher="einsum", k=2))
    assert sum(got.products.values()) == got.total
    assert sum(got.others.values()) + got.total == got.everything
    assert set(got.products) == {
        "attention", "dense_ffn", "experts", "router", "dispatch", "head"
    }  # fmt: skip


def test_on_a_mesh_the_same():
    """The count is over all devices, and the model's own collectives cost nothing."""
    want = executed(tiny.model())
    with tiny.on("2x4"):
        got = flops.executed.__wrapped__(tiny.model(), B, T)  # as if not counted before
    assert got.products == want.products


def test_ideal_in_closed_form():
    attention = 4 * 2 * D * N_H + 2 * 2 * N_H * (T + 1) / 2  # a token attends to (T + 1) / 2
    assert flops.ideal(dense(), T) == {
        "attention": 3 * 2 * attention,
        "dense_ffn": 3 * 2 * (2 * 2 * D * F),
        "head": 3 * 2 * D * V,
    }
    for k in (1, 2):
        got = flops.ideal(tiny.sparse(k=k, capacity_factor=3.0), T)
        assert got["experts"] == 3 * k * (2 * 2 * D * 8) and got["dense_ffn"] == 3 * (4 * D * F)
    gated = flops.ideal(tiny.model(activation="swiglu", dense_activation="gelu"), T)
    assert gated["experts"] == 3 * 6 * D * 8 and gated["dense_ffn"] == 3 * 4 * D * F


def test_ideal_is_executed_but_for_what_it_leaves_out():
    """Full capacity, K = E: only masked attention and the router are extra."""
    mixed = {
        "num_layers": 3,
        "moe_every": 1,
        "num_dense_layers": 1,
        "num_kv_heads": 1,
        "tie_embeddings": False,
    }
    for config in (tiny.sparse(k=tiny.E), tiny.model(experts=tiny.moe_config(k=tiny.E), **mixed)):
        got = executed(config)
        masked = 3 * config.num_layers * TOKENS * 2 * N_H * (T - 1)
        want = sum(flops.ideal(config, T).values()) * TOKENS
        assert got.total - got.products["router"] - masked == want


def test_per_token():
    config = tiny.model()
    assert flops.per_token(config, B, T, "executed") == executed(config).total / TOKENS
    assert flops.per_token(config, B, T, "ideal") == sum(flops.ideal(config, T).values())
    with pytest.raises(ValueError, match="by='guessed' is not one of 'ideal', 'executed'"):
        flops.per_token(config, B, T, "guessed")


def test_parameters():
    attention = 4 * D * N_H
    norms = 2 * D
    shared = V * D + D + 2 * (attention + norms)
    assert flops.parameters(dense()) == (shared + 2 * 2 * D * F, shared + 2 * 2 * D * F)
    assert flops.parameters(dense()) == (1320, 1320)
    router = D * tiny.E
    expert = 2 * D * 8
    got = flops.parameters(tiny.sparse(k=2))
    assert got.total == shared + 2 * D * F + router + tiny.E * expert == 1608
    assert got.active == shared + 2 * D * F + router + 2 * expert == 1352
    untied = flops.parameters(tiny.model(experts=None, tie_embeddings=False, num_kv_heads=1))
    assert untied.total == 1320 + V * D - 2 * 2 * D * N_H // 2


# E, K and the capacity factor
SIZES = [(1, 1, 1.0), (2, 2, 1.25), (2, 1, 4.0), (3, 2, 2.0), (8, 4, 8.0)]


def of_size(name, E, K, factor):
    """The case's router with other sizes; None where it has no such thing."""
    was = CASES[name].experts
    size = {"num_experts": E, "capacity_factor": factor, "eval_capacity_factor": factor}
    try:
        experts = dataclasses.replace(was, **size, k=K)
        return dataclasses.replace(CASES[name], experts=experts)
    except ValueError:
        return None


@pytest.mark.parametrize("name", CASES)
def test_no_token_meets_more_than_there_is(name):
    """Active parameters are of all parameters, and ideal FLOPs of those executed."""
    models = [of_size(name, *size) for size in SIZES]
    models = [CASES[name], *(model for model in models if model is not None)]
    for model in models:
        count = flops.parameters(model)
        assert count.active <= count.total
    for model in (model for model in models if model.experts.capacity_factor >= 1):
        ideal = flops.ideal(model, T)
        got = flops.evaluating(model, B, T)  # at the same capacity, a third of a step's products
        assert ideal["experts"] * TOKENS <= 3 * got.products["experts"]
        assert sum(ideal.values()) * TOKENS <= 3 * got.total


def test_an_expert_takes_no_token_twice():
    """Two experts that could take 2.5 tokens' worth each take all: a token meets both."""
    options = {"router": "expert_choice", "num_experts": 2, "k": 2, "capacity_factor": 1.25}
    model = tiny.model(allow_noncausal=True, experts=tiny.moe_config(**options))
    count = flops.parameters(model)
    assert count.active == count.total
    assert flops.ideal(model, T)["experts"] * TOKENS == executed(model).products["experts"]


def test_parameters_of_a_model_too_large_for_this_machine():
    """Without any memory: Switch-C's 1.6T, or near it."""
    config = tiny.model(
        vocab_size=32_128, num_layers=30, d_model=2080, num_heads=64, d_head=64, d_ff=6144,
        experts=tiny.moe_config(num_experts=2048, d_ff=6144),
    )  # fmt: skip
    experts = 15 * 2048 * 2 * 2080 * 6144
    got = flops.parameters(config)
    assert got.total > experts and got.total - got.active == experts * 2047 // 2048
