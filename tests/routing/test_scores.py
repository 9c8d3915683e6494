"""Routers that choose by score, with and without noise, on arrays by hand and on many draws."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from moe import routing
from moe.routing import (
    assignment,
    ranked,
    stats,
)
from tests.routing.by_hand import LOGITS, choice, route

# Choosing by score.


def test_limited_to_the_best_groups():
    """Groups {0, 1} and {2, 3}: sums 0.3 and 0.7, 0.75 and 0.25, 0.58 and 0.42."""
    experts, gates = choice("top_k", k=2, options={"expert_groups": 2, "groups_used": 1})
    assert experts == [[[2, 3], [0, 1], [0, 1]]]
    np.testing.assert_allclose(gates[0, 1], [0.7 / 0.75, 0.05 / 0.75], rtol=1e-5)


def test_moving_on_to_the_next_best_with_room():
    """Expert 0 has one slot: tokens 1 and 2 move on, token 2 twice, as token 1 came first."""
    p = np.array([[[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.4, 0.35, 0.25]]])
    expected = {0: [[[0], [0], [0]]], 1: [[[0], [1], [1]]], 2: [[[0], [1], [2]]]}
    for rounds, want in expected.items():
        got, gates = choice("top_k", np.log(p), options={"reroute_rounds": rounds}, slots=1)
        assert got == want
    np.testing.assert_allclose(gates.ravel(), [0.6, 0.3, 0.25], rtol=1e-5)


def test_a_later_token_cannot_keep_a_seat_that_an_earlier_one_moves_on_to():
    """Token 2 wants expert 1 first, but token 1, moving on in round 2, comes before it."""
    p = np.array([[[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.1, 0.5, 0.4]]])
    got, _ = choice("top_k", np.log(p), options={"reroute_rounds": 2}, slots=1)
    assert got == [[[0], [1], [2]]]


def test_moving_on_leaves_nobody_behind_where_there_is_room():
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(4, 32, 8)) + 2 * rng.normal(size=8)).astype(np.float32)
    mask = np.ones((4, 32), bool)
    for k in (1, 2):
        settle = jax.jit(ranked.reroute, static_argnums=(2, 3, 4, 5))

        def dropped(rounds, k=k, settle=settle):
            expert_GSK = settle(logits, mask, k, 4 * k, rounds, 8)
            assert (np.diff(np.sort(expert_GSK), axis=-1) != 0).all()
            choice = assignment.TopKAssignment(expert_GSK, expert_GSK * 1.0)
            return int((assignment.assign_slots(choice, 8, 4 * k).slot_GSK == 32 * k).sum())

        lost = [dropped(rounds) for rounds in (0, 4, 32)]
        assert lost[0] > lost[1] > lost[2]
        # Two of a token's choices can't share what is left: a few may stay behind.
        assert lost[2] <= (0 if k == 1 else 0.1 * lost[0])


def test_batch_priority_seats_the_surest():
    """One slot each: token 1 is the surest; token 2's first choice comes before second ones."""
    chosen = assignment.TopKAssignment(
        jnp.array([[[0, 1], [0, 1], [1, 0]]]), jnp.array([[[0.4, 0.3], [0.7, 0.1], [0.3, 0.2]]])
    )
    slots = assignment.assign_slots(chosen, 2, 1, jnp.array([[0.4, 0.7, 0.3]]))
    assert slots.token_GEC.tolist() == [[[1], [2]]]
    assert slots.slot_GSK.tolist() == [[[2, 2], [0, 2], [1, 2]]]
    np.testing.assert_allclose(slots.gate_GEC, [[[0.7], [0.3]]])
    assert assignment.assign_slots(chosen, 2, 1).token_GEC.tolist() == [[[0], [0]]]


def test_the_surest_is_known_by_its_probability_and_not_by_its_gate():
    """Of two, (0.2, 0.14, ...) has the larger gate, (0.5, 0.45, ...) the larger probability."""
    p = np.array([[[0.2, 0.14] + [0.11] * 6, [0.5, 0.45] + [0.05 / 6] * 6]])
    mask = np.ones((1, 2), bool)
    routed = route("top_k", np.log(p), mask, k=2, options={"batch_priority": True})
    gate_GSK = routed.assignment.gate_GSK
    priority_GS = routed.priority_GS
    assert gate_GSK[0, 0, 0] > gate_GSK[0, 1, 0] and priority_GS[0, 0] < priority_GS[0, 1]


def test_moving_on_does_not_hide_a_collapse():
    """Balance and load count what tokens requested, though all found room in the end."""
    logits = np.array([[[3.0, 0.1, 0, -0.1]] * 8], np.float32)
    mask = np.ones((1, 8), bool)
    router_stats = {}
    for rounds in (0, 3):
        routed = route("top_k", logits, mask, options={"reroute_rounds": rounds}, slots=2)
        slots = assignment.assign_slots(routed.assignment, 4, 2)
        router_stats[rounds] = stats.compute(routed, slots, mask)
    assert router_stats[3].kept_KE.tolist() == [[2, 2, 2, 2]] and router_stats[3].unrouted == 0
    assert router_stats[0].kept_KE.tolist() == [[2, 0, 0, 0]]
    assert (
        router_stats[3].chosen_KE.tolist() == router_stats[0].chosen_KE.tolist() == [[8, 0, 0, 0]]
    )
    assert stats.balance_loss(router_stats[3]) == stats.balance_loss(router_stats[0]) > 3


def test_moving_on_stays_inside_the_groups_that_a_token_may_use():
    logits = np.array([[[3.0, 2, 0, 0], [3.0, 2, 0, 0]]], np.float32)
    options = {"expert_groups": 2, "reroute_rounds": 2}
    experts, _ = choice("top_k", logits, np.ones((1, 2), bool), k=2, options=options, slots=1)
    assert experts == [[[0, 1], [0, 1]]]


# Noise.


def test_noisy_top_k_by_hand():
    """In evaluation there is no noise: a softmax over the two largest logits."""
    logits = {"router": LOGITS, "noise": np.zeros_like(LOGITS)}
    experts, gates = choice("noisy_top_k", logits, k=2, key=jax.random.key(0))
    assert experts == [[[2, 3], [0, 3], [0, 1]]]
    np.testing.assert_allclose(gates[0, 0], [4 / 7, 3 / 7], rtol=1e-5)


def test_noisy_loads_are_the_chance_of_being_chosen():
    """Phi against the frequency over fresh noise of one expert, the others' noise held."""
    rng = np.random.default_rng(0)
    clean, noisy = rng.normal(size=(2, 1, 1, 5)).astype(np.float32)
    sigma = np.full((1, 1, 5), 0.7, np.float32)
    got = routing.noisy_top_k.load(jnp.array(clean), jnp.array(noisy), sigma, 2)[0, 0]
    for e in range(5):
        draws = np.repeat(noisy[0], 20_000, axis=0)
        draws[:, e] = clean[0, 0, e] + 0.7 * rng.normal(size=20_000)
        chosen = (np.argsort(-draws)[:, :2] == e).any(1).mean()
        assert abs(got[e] - chosen) < 4 * 0.5 / math.sqrt(20_000)


def test_noise_has_the_stated_deviation():
    raw = np.full((64, 64, 4), 0.5, np.float32)
    noisy, sigma = routing.noisy_top_k.noisy(raw * 0, raw, jax.random.key(0))
    want = math.log1p(math.exp(0.5)) + 0.01
    np.testing.assert_allclose(sigma, want, rtol=1e-5)
    np.testing.assert_allclose(np.std(noisy), want, rtol=0.02)


def test_importance_and_load_losses_by_hand():
    own = {"importance_E": jnp.array([1.0, 3.0]), "load_E": jnp.array([2.0, 2.0])}
    sums = stats.RouterStats(*[0.0] * 6, extra=own)
    assert routing.noisy_top_k.importance_loss(sums) == 0.25
    assert routing.noisy_top_k.load_loss(sums) == 0


def test_gshard_uses_the_second_with_probability_2_g2():
    """g2 = 3/7, 2/9, 0.28/0.58, over many draws; the gates are normalised over both."""
    logits = np.repeat(LOGITS, 4000, axis=0)
    mask = np.ones(logits.shape[:2], bool)
    routed = route("gshard", logits, mask, k=2, key=jax.random.key(0))
    expert_GSK, gate_GSK = map(np.asarray, routed.assignment)
    assert (expert_GSK[..., 0] == [2, 0, 0]).all()
    used = (expert_GSK[..., 1] < 4).mean(0)
    g2 = np.array([3 / 7, 2 / 9, 0.28 / 0.58])
    np.testing.assert_allclose(used, np.minimum(1, 2 * g2), atol=4 * 0.5 / math.sqrt(4000))
    np.testing.assert_allclose(gate_GSK[..., 0], np.broadcast_to(1 - g2, (4000, 3)), rtol=1e-4)
    second = gate_GSK[..., 1][expert_GSK[..., 1] < 4]
    assert set(np.round(second, 4)) == set(np.round(g2.astype(np.float32), 4))


def test_gshard_samples_its_second_from_the_rest():
    logits = np.repeat(LOGITS[:, 1:2], 8000, axis=0)
    mask = np.ones((8000, 1), bool)
    options = {"second": "sampled"}
    routed = route("gshard", logits, mask, k=2, options=options, key=jax.random.key(0))
    expert_GSK, gate_GSK = map(np.asarray, routed.assignment)
    assert (expert_GSK[..., 0] == 0).all()
    share = np.bincount(expert_GSK[:, 0, 1], minlength=4) / 8000
    np.testing.assert_allclose(share, [0, 1 / 6, 1 / 6, 4 / 6], atol=0.02)
    np.testing.assert_allclose(gate_GSK.sum(-1), 1, rtol=1e-5)


# As many experts as needed.


def test_top_p_takes_the_fewest_that_reach_p():
    """P = 0.5: {2: 0.4, 3: 0.3}, {0: 0.7}, {0: 0.3, 1: 0.28}; 0.6 needs a third for the last."""
    state = {"mass": jnp.float32(0.5)}
    experts, gates = choice("top_p", k=3, state=state)
    assert experts == [[[2, 3, 4], [0, 4, 4], [0, 1, 4]]]
    np.testing.assert_allclose(gates[0], [[0.4, 0.3, 0], [0.7, 0, 0], [0.3, 0.28, 0]], rtol=1e-5)
    assert choice("top_p", k=3, state={"mass": jnp.float32(0.6)})[0][0][2] == [0, 1, 2]
    assert choice("top_p", k=2, state={"mass": jnp.float32(0.9)})[0][0][1] == [0, 3]  # at most K


def test_the_controller_moves_p_towards_its_target():
    options = routing.top_p.Options(target_k=1.5, rate=0.1)
    sums = stats.RouterStats(*[jnp.zeros(2)] * 6)._replace(
        tokens=jnp.array([10.0, 10.0]), chosen_KE=jnp.array([[[10.0, 10.0]], [[5.0, 5.0]]])
    )
    got = routing.top_p.update({"mass": jnp.array([0.4, 0.4])}, sums, options)
    np.testing.assert_allclose(got["mass"], [0.4 - 0.05, 0.4 + 0.05])
    idle = routing.top_p.update({"mass": jnp.array([0.4])}, sums, routing.top_p.Options())
    np.testing.assert_allclose(idle["mass"], 0.4)
