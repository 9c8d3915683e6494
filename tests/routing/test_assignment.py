"""Seats against arrays worked out by hand, and against a loop in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.routing import assignment


def choice(expert_GSK, gate_GSK=None) -> assignment.TopKAssignment:
    """Without gates, those of (token s, choice k) are s + 1 + k / 10: they tell who sits where."""
    expert_GSK = np.array(expert_GSK, np.int32)
    if gate_GSK is None:
        _, S, K = expert_GSK.shape
        gate_GSK = np.broadcast_to(
            1 + np.arange(S)[:, None] + np.arange(K)[None] / 10, expert_GSK.shape
        )
    return assignment.TopKAssignment(jnp.array(expert_GSK), jnp.array(gate_GSK, jnp.float32))


@functools.partial(jax.jit, static_argnums=(1, 2))
def assign_slots(chosen, experts, slots):
    return assignment.assign_slots(chosen, experts, slots)


def assert_seats(got, token, gate, slot):
    np.testing.assert_array_equal(got.token_GEC, token)
    np.testing.assert_array_equal(got.gate_GEC, np.array(gate, np.float32))
    np.testing.assert_array_equal(got.slot_GSK, slot)
    assert got.token_GEC.dtype == got.slot_GSK.dtype == jnp.int32
    assert got.gate_GEC.dtype == jnp.float32


def test_overfull_empty_and_half_full_experts():
    """Experts 0, 1, 2 are chosen 3, 0 and 1 times, with 2 slots each: token 3 is dropped."""
    got = assign_slots(choice([[[0], [2], [0], [0]]]), 3, 2)
    assert_seats(
        got,
        token=[[[0, 2], [4, 4], [1, 4]]],
        gate=[[[1, 3], [0, 0], [2, 0]]],
        slot=[[[0], [4], [1], [6]]],
    )


def test_two_choices_in_order_of_position_then_choice():
    """One slot each: token 0 takes both of its experts, token 2 what is left."""
    got = assign_slots(choice([[[0, 1], [1, 0], [1, 2]]]), 3, 1)
    assert_seats(
        got, token=[[[0], [0], [2]]], gate=[[[1], [1.1], [3.1]]], slot=[[[0, 1], [3, 3], [3, 2]]]
    )


def test_a_second_choice_of_an_early_token_beats_the_first_choice_of_a_late_one():
    got = assign_slots(choice([[[1, 0], [0, 1]]]), 2, 1)
    assert_seats(got, token=[[[0], [0]]], gate=[[[1.1], [1]]], slot=[[[1, 0], [2, 2]]])


def test_padding_takes_no_slot():
    """Expert 2 of 2 does not exist; tokens 0 and 2 are padding and cannot evict token 3."""
    got = assign_slots(choice([[[2], [0], [2], [0], [1]]]), 2, 2)
    assert_seats(
        got, token=[[[1, 3], [4, 5]]], gate=[[[2, 4], [5, 0]]], slot=[[[4], [0], [4], [1], [2]]]
    )


def test_a_group_of_padding_is_empty():
    got = assign_slots(choice([[[3, 3], [3, 3]]], np.zeros((1, 2, 2))), 3, 2)
    assert_seats(
        got, token=np.full((1, 3, 2), 2), gate=np.zeros((1, 3, 2)), slot=np.full((1, 2, 2), 6)
    )


def test_groups_do_not_compete():
    got = assign_slots(choice([[[0], [0]], [[0], [1]]]), 2, 1)
    assert_seats(
        got, token=[[[0], [2]], [[0], [1]]], gate=[[[1], [0]], [[1], [2]]],
        slot=[[[0], [2]], [[0], [1]]],
    )  # fmt: skip


def by_loop(expert_SK, gate_SK, experts, slots):
    """The rule, literally: tokens in order, their choices in order, a slot while there is one."""
    S, K = expert_SK.shape
    token = np.full((experts, slots), S)
    gate = np.zeros((experts, slots), np.float32)
    slot = np.full((S, K), experts * slots)
    used = [0] * experts
    for s in range(S):
        for k in range(K):
            e = expert_SK[s, k]
            if e < experts and used[e] < slots:
                token[e, used[e]] = s
                gate[e, used[e]] = gate_SK[s, k]
                slot[s, k] = e * slots + used[e]
                used[e] += 1
    return token, gate, slot


@pytest.mark.parametrize(("k", "slots"), [(1, 1), (1, 4), (2, 3), (2, 12), (5, 2), (5, 12)])
def test_against_the_loop(k, slots):
    groups = 40
    tokens = 12
    experts = 5
    rng = np.random.default_rng(k * 100 + slots)
    skewed = rng.random((groups, tokens, experts)) + rng.random((groups, 1, experts))
    expert_GSK = np.argsort(-skewed, axis=-1)[..., :k]
    expert_GSK[rng.random((groups, tokens)) < 0.2] = experts
    gate_GSK = rng.random((groups, tokens, k)).astype(np.float32)
    got = jax.tree.map(np.asarray, assign_slots(choice(expert_GSK, gate_GSK), experts, slots))
    for g in range(groups):
        token, gate, slot = by_loop(expert_GSK[g], gate_GSK[g], experts, slots)
        np.testing.assert_array_equal(got.token_GEC[g], token)
        np.testing.assert_array_equal(got.gate_GEC[g], gate)
        np.testing.assert_array_equal(got.slot_GSK[g], slot)


def test_both_sides_tell_the_same_seats():
    """Slot m of the tokens' side is where the experts' side has that token."""
    rng = np.random.default_rng(0)
    expert_GSK = np.argsort(rng.random((6, 9, 4)), axis=-1)[..., :2]
    got = jax.tree.map(np.asarray, assign_slots(choice(expert_GSK), 4, 3))
    token_GM = np.append(got.token_GEC.reshape(6, 12), np.full((6, 1), -1), axis=1)
    for g, s, k in np.ndindex(expert_GSK.shape):
        m = got.slot_GSK[g, s, k]
        assert token_GM[g, m] == (s if m < 12 else -1)
        assert m == 12 or m // 3 == expert_GSK[g, s, k]


def test_the_gradient_of_a_gate_reaches_kept_choices_only():
    chosen = choice([[[0, 1], [1, 0], [2, 2]]])

    def kept(gate_GSK):
        slots = assignment.assign_slots(
            assignment.TopKAssignment(chosen.expert_GSK, gate_GSK), 2, 1
        )
        return (slots.gate_GEC * jnp.array([[[3.0], [5.0]]])).sum()

    grad_GSK = jax.jit(jax.grad(kept))(chosen.gate_GSK)
    np.testing.assert_array_equal(grad_GSK, [[[3, 5], [0, 0], [0, 0]]])


def test_mix_is_the_one_hot_form():
    slots = assign_slots(choice([[[0], [0], [1], [0]]]), 2, 2)
    mixing = jax.jit(assignment.to_one_hot, static_argnums=1)(slots, 4)
    dispatch_SEC = np.zeros((4, 2, 2))
    dispatch_SEC[0, 0, 0] = dispatch_SEC[1, 0, 1] = dispatch_SEC[2, 1, 0] = 1
    np.testing.assert_array_equal(mixing.dispatch_GSEC[0], dispatch_SEC)
    gates = np.array([1, 2, 3, 4]).reshape(4, 1, 1)
    np.testing.assert_array_equal(mixing.combine_GSEC[0], dispatch_SEC * gates)


@pytest.mark.parametrize(
    ("factor", "tokens", "k", "experts", "slots"),
    [
        (1.0, 8, 1, 4, 2),
        (1.25, 8, 1, 4, 3),  # 2.5, rounded up
        (1.25, 8, 2, 4, 5),
        (1.0, 10, 1, 4, 3),
        (1.0, 8, 4, 4, 8),  # K = E: every expert sees every token
        (0.01, 8, 1, 4, 1),  # never less than one
        (100.0, 8, 1, 4, 8),  # never more than the group
        (1.1, 100, 1, 11, 10),  # 1.1 * 100 / 11 = 10.000000000000002 is 10
        (2.0, 128, 1, 64, 4),
        (1e-9, 8, 1, 4, 1),  # not even where rounding leaves nothing
        (0.001, 1, 1, 4096, 1),
    ],
)
def test_capacity(factor, tokens, k, experts, slots):
    assert assignment.capacity(factor, tokens, k, experts) == slots


def test_a_group_too_large_for_its_sort_keys_is_refused():
    choice = assignment.TopKAssignment(
        *(jax.ShapeDtypeStruct((1, 2**19, 2), d) for d in ("i4", "f4"))
    )
    slot = functools.partial(assignment.assign_slots, slots=1)
    with pytest.raises(ValueError, match=r"num_experts=2048 \+ 1\) \* group_size=524288 \* k=2"):
        jax.eval_shape(functools.partial(slot, experts=2048), choice)
    assert jax.eval_shape(functools.partial(slot, experts=2047), choice).token_GEC.size == 2047
