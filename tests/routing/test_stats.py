"""Losses and statistics of routing on arrays worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing import assignment, contract, stats

LN2 = math.log(2)
LN3 = math.log(3)
LN4 = math.log(4)
# Softmaxes (1/4, 3/4), (1/2, 1/2), (1/4, 3/4); the last token is padding.
LOGITS = np.array([[[0, LN3], [0, 0], [0, LN3], [7, 7]]], np.float32)
MASK = np.array([[True, True, True, False]])

statistics = jax.jit(stats.metrics)


def tallied(logits_GSE, mask_GS, chosen, slots) -> stats.RouterStats:
    routed = contract.RouterOutput(chosen, jax.nn.softmax(logits_GSE), logits_GSE)
    return stats.compute(routed, slots, mask_GS)


count = jax.jit(tallied)


def choice(expert_GSK, gate_GSK=1.0) -> assignment.TopKAssignment:
    expert_GSK = np.array(expert_GSK, np.int32)
    return assignment.TopKAssignment(expert_GSK, np.zeros_like(expert_GSK, np.float32) + gate_GSK)


def slots(token_GEC, chosen) -> assignment.Slots:
    """Who sits where, S being nobody; each real pair that sits nowhere is dropped."""
    token_GEC = np.array(token_GEC, np.int32)
    _, E, C = token_GEC.shape
    slot_GSK = np.full_like(chosen.expert_GSK, E * C)
    for g, s, k in np.ndindex(slot_GSK.shape):
        e = chosen.expert_GSK[g, s, k]
        where = np.flatnonzero(token_GEC[g, e] == s) if e < E else []
        slot_GSK[g, s, k] = e * C + where[0] if len(where) else E * C
    return assignment.Slots(token_GEC, np.ones(token_GEC.shape), slot_GSK)


def switch() -> stats.RouterStats:
    """Token 1 goes to expert 0, tokens 0 and 2 to expert 1, which has one slot."""
    gate_GSK = np.array([[[0.75], [0.5], [0.75], [0]]], np.float32)
    chosen = choice([[[1], [0], [1], [2]]], gate_GSK)
    return count(LOGITS, MASK, chosen, slots([[[1], [0]]], chosen))


def test_sums():
    got = switch()
    want = stats.RouterStats(
        tokens=3,
        chosen_KE=[[1, 2]],
        kept_KE=[[1, 1]],
        unrouted=1,
        probability_E=[1, 2],
        entropy=2 * (LN4 - 0.75 * LN3) + LN2,
        gate=2.0,
        z=2 * LN4**2 + LN2**2,
        slots=2,
    )
    assert got.extra == {}
    for name, a, b in zip(got._fields[:-1], got, want, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=name)
        assert a.dtype == jnp.float32


def test_losses():
    np.testing.assert_allclose(stats.z_loss(switch()), (2 * LN4**2 + LN2**2) / 3, rtol=1e-6)
    # f = (1/3, 2/3), P = (1/3, 2/3): 2 * (1/9 + 4/9)
    np.testing.assert_allclose(stats.balance_loss(switch()), 10 / 9, rtol=1e-6)


def test_statistics():
    got = statistics(switch())
    want = {
        "load_E": [1 / 3, 2 / 3],
        "dropped": 1 / 3,
        "dropped_K": [1 / 3],
        "unrouted": 1 / 3,
        "entropy": (2 * (LN4 - 0.75 * LN3) + LN2) / 3,
        "max_load": 4 / 3,
        "unused": 0,
        "gate": 2 / 3,
        "router_z": (2 * LN4**2 + LN2**2) / 3,
        "realised_k": 1,
        "realised_capacity": 2 / 3,
        "balance": 10 / 9,
    }
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6, err_msg=name)


def test_statistics_of_two_choices_and_a_slot_too_many():
    chosen = choice([[[1, 0], [0, 1], [1, 0], [2, 2]]], np.array([[[0.5, 0.5]] * 3 + [[0, 0]]]))
    taken = slots([[[0, 1, 2, 4], [0, 1, 2, 4]]], chosen)
    got = statistics(count(LOGITS, MASK, chosen, taken))
    want = {
        "dropped": 0,
        "unrouted": 0,
        "max_load": 1,
        "gate": 0.5,
        "realised_k": 2,
        "realised_capacity": 8 / 6,
    }
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6, err_msg=name)


def test_collapse():
    """All tokens to one of four experts with certainty: the balance loss is E."""
    logits = np.array([[[100.0, 0, 0, 0]] * 8], np.float32)
    chosen = choice([[[0]] * 8])
    taken = slots([[[0, 1], [8, 8], [8, 8], [8, 8]]], chosen)
    got = statistics(count(logits, np.ones((1, 8), bool), chosen, taken))
    want = {"balance": 4, "max_load": 4, "unused": 3, "dropped": 0.75, "entropy": 0, "gate": 1}
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-6, err_msg=name)


def balanced(k, experts, padding):
    """A router_stats of random probabilities under perfectly even choices, with padding between."""
    rng = np.random.default_rng(k + experts)
    tokens = 3 * experts
    place = np.sort(rng.permutation(tokens + padding)[:tokens])
    mask = np.zeros((1, tokens + padding), bool)
    mask[0, place] = True
    expert_GSK = np.full((1, tokens + padding, k), experts)
    expert_GSK[0, place] = (np.arange(tokens)[:, None] + np.arange(k)[None]) % experts
    logits = rng.normal(size=(1, tokens + padding, experts)).astype(np.float32)
    chosen = choice(expert_GSK)
    return count(logits, mask, chosen, slots(np.zeros((1, experts, 1)), chosen))


@pytest.mark.parametrize("padding", [0, 17])
@pytest.mark.parametrize(("k", "experts"), [(1, 4), (2, 4), (4, 4), (1, 1), (3, 7)])
def test_the_balance_loss_is_exactly_1_at_balance(k, experts, padding):
    got = statistics(balanced(k, experts, padding))
    np.testing.assert_allclose(got["balance"], 1, atol=1e-6)
    np.testing.assert_allclose(got["max_load"], 1, atol=1e-6)
    np.testing.assert_allclose(got["realised_k"], k, atol=1e-6)


def test_the_balance_loss_pushes_down_the_loaded_expert():
    """Its gradient flows through P alone; at even probabilities the fuller expert is lowered."""
    chosen = choice([[[0], [0], [0], [1]]])

    def balance(logits):
        mask = jnp.ones((1, 4), bool)
        return stats.balance_loss(tallied(logits, mask, chosen, slots([[[0], [3]]], chosen)))

    grad_GSE = jax.jit(jax.grad(balance))(jnp.zeros((1, 4, 2)))
    # 2 * sum_e f_e dP_e, with dp_0/ds_0 = 1/4 and P a mean of 4
    np.testing.assert_allclose(grad_GSE, [[[0.0625, -0.0625]] * 4], rtol=1e-5)


def test_gradients_at_balance_are_finite_and_those_of_padding_zero():
    def losses(logits):
        chosen = choice([[[0], [1], [0], [2]]])
        got = tallied(logits, MASK, chosen, slots([[[0], [1]]], chosen))
        return stats.balance_loss(got) + stats.z_loss(got) + got.entropy

    grad_GSE = np.asarray(jax.jit(jax.grad(losses))(jnp.zeros((1, 4, 2))))
    assert np.isfinite(grad_GSE).all() and not grad_GSE[0, 3].any() and grad_GSE[0, :3].all()


def test_sums_add_up_to_that_of_all_groups():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 6, 3)).astype(np.float32)
    mask = rng.random((4, 6)) < 0.7
    expert_GSK = np.where(mask[..., None], np.argsort(logits)[..., :2], 3)
    token_GEC = rng.integers(0, 7, (4, 3, 2))

    def part(g):
        chosen = choice(expert_GSK[g])
        return count(logits[g], mask[g], chosen, slots(token_GEC[g], chosen))

    sums = jax.tree.map(jnp.add, part(slice(0, 1)), part(slice(1, 4)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), sums, part(slice(0, 4)))


def test_no_token_at_all():
    """Nothing is divided by zero, and of nothing nothing is dropped."""
    chosen = choice([[[2]] * 4], 0.0)
    got = statistics(count(LOGITS, np.zeros((1, 4), bool), chosen, slots([[[4], [4]]], chosen)))
    assert all(np.isfinite(x).all() for x in got.values())
    assert got["balance"] == got["router_z"] == got["dropped"] == 0


def test_drops_by_rank_of_choice():
    """Expert 0 has room for one: a first choice gets it, a first and a second choice do not."""
    chosen = choice([[[0, 1], [0, 1], [1, 0], [2, 2]]])
    taken = slots([[[0, 4], [0, 1]]], chosen)
    got = statistics(count(LOGITS, MASK, chosen, taken))
    np.testing.assert_allclose(got["dropped_K"], [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(got["dropped"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(got["unrouted"], 1 / 3, rtol=1e-6)  # token 2


def test_slots_that_chose_their_tokens():
    """Token 0 is taken twice, token 1 by nobody, the padding sits nowhere."""
    slots = assignment.Slots(
        np.array([[[0, 2], [0, 4]]]), np.array([[[0.5, 0.25], [0.5, 0]]]), None
    )
    routed = contract.RouterOutput(slots, jax.nn.softmax(LOGITS), LOGITS)
    got = statistics(jax.jit(stats.compute)(routed, slots, MASK))
    want = {"load_E": [2 / 3, 1 / 3], "realised_k": 1, "dropped": 0, "unrouted": 1 / 3,
            "gate": 1.25 / 3, "realised_capacity": 4 / 3}  # fmt: skip
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6, err_msg=name)


def test_a_router_without_probabilities_has_no_statistics_of_them():
    chosen = choice([[[1], [0], [1], [2]]])
    taken = slots([[[1], [0]]], chosen)
    got = statistics(jax.jit(stats.compute)(contract.RouterOutput(chosen), taken, MASK))
    assert not got.keys() & {"entropy", "balance", "router_z"} and got["realised_k"] == 1


def test_squared_variation():
    """var / mean^2, and at balance a gradient that is a number."""
    np.testing.assert_allclose(stats.squared_variation(jnp.array([1.0, 3.0])), 0.25)
    assert stats.squared_variation(jnp.zeros(3)) == 0
    gradient = jax.grad(stats.squared_variation)
    assert not gradient(jnp.ones(3)).any() and not gradient(jnp.zeros(3)).any()


def test_the_first_choice_balance_loss_looks_at_first_choices_alone():
    chosen = choice([[[0, 1], [0, 1], [0, 1], [2, 2]]])
    got = count(LOGITS, MASK, chosen, slots([[[0, 1, 2], [0, 1, 2]]], chosen))
    np.testing.assert_allclose(stats.balance_loss(got), 1, rtol=1e-6)
    np.testing.assert_allclose(
        stats.first_choice_balance_loss(got), 2 / 3, rtol=1e-6
    )  # 2 * 1 * P_0
