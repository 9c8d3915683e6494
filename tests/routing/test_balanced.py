"""Routers that are balanced without a loss, by a bias, an assignment, or because slots choose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from moe import routing
from moe.routing import (
    base,
    contract,
    expert_choice,
    sinkhorn,
    stats,
)
from tests.routing.by_hand import LOGITS, choice, route

solve = jax.jit(base.balanced, static_argnums=(2, 3))


# Balance without a loss.


def test_sigmoid_chooses_by_bias_and_pays_by_score():
    logits = np.array([[[0.0, 1.0, 2.0]]], np.float32)
    s = 1 / (1 + np.exp(-logits[0, 0]))
    state = {"bias": jnp.array([0.5, 0.0, 0.0])}
    experts, gates = choice("sigmoid", logits, np.ones((1, 1), bool), k=2, state=state)
    assert experts == [[[0, 2]]]
    np.testing.assert_allclose(gates[0, 0], s[[0, 2]] / s[[0, 2]].sum(), rtol=1e-5)


def test_the_bias_moves_against_the_load():
    chosen_LKE = jnp.array([[[4.0, 1.0, 1.0], [2.0, 1.0, 3.0]]])  # loads 6, 2, 4 of mean 4
    sums = stats.RouterStats(*[jnp.zeros(1)] * 6)._replace(chosen_KE=chosen_LKE)
    got = routing.sigmoid.update({"bias": jnp.zeros((1, 3))}, sums, routing.sigmoid.Options())
    np.testing.assert_allclose(got["bias"], [[-0.001, 0.001, 0]])


def normal(rng, S, E):
    return rng.normal(size=(S, E)) + rng.normal(size=E)  # some experts are liked by all


def words(rng, S, E):
    """Tokens of a few kinds, alike but for nothing, as the first layer sees words."""
    return rng.normal(size=(200, E))[np.minimum(rng.zipf(1.3, S) - 1, 199)]


def heavy(rng, S, E):
    return rng.standard_t(2, size=(S, E))


def shifted(rng, S, E):
    """What tokens and experts have in common is far larger than what decides."""
    return 0.1 * rng.normal(size=(S, E)) + 3 * rng.normal(size=E) + 3 * rng.normal(size=(S, 1))


@pytest.mark.parametrize(
    ("draw", "S", "E"),
    [(normal, 128, 4), (normal, 128, 16), (normal, 64, 64), (normal, 128, 64), (heavy, 500, 20),
     (words, 500, 20), (words, 2000, 20), (shifted, 200, 20)],
)  # fmt: skip
def test_base_is_balanced_and_near_the_optimum(draw, S, E):
    """Against scipy's exact assignment."""
    score = draw(np.random.default_rng(E), S, E).astype(np.float32)
    options = base.Options()
    mask = np.ones((1, S), bool)
    expert_S = np.asarray(solve(score[None], mask, options.iterations, options.temperature))[0]
    assert (np.bincount(expert_S, minlength=E) == S // E).all()
    shared = score.sum() / E  # by every balanced assignment: 1% is of what there is to win
    wide = np.repeat(score, S // E, axis=1)
    rows, columns = scipy.optimize.linear_sum_assignment(wide, maximize=True)
    best = wide[rows, columns].sum() - shared
    assert score[np.arange(S), expert_S].sum() - shared > best - 0.01 * abs(best)


def best_shares(score):
    """The value of the best assignment in which shares differ by one at most, by scipy."""
    (n, E) = score.shape
    (least, odd) = divmod(score.shape[0], score.shape[1])
    always = np.repeat(score, least, axis=1)
    idle = np.concatenate([np.full((E, E * least), -1e6), np.zeros((E, E))], axis=1)[odd:]
    seats = np.concatenate([np.concatenate([always, score], axis=1), idle])  # one more for each
    rows, columns = scipy.optimize.linear_sum_assignment(seats, maximize=True)
    real = rows < n
    return seats[rows[real], columns[real]].sum()


@pytest.mark.parametrize(
    ("S", "n", "E", "liked"),
    [(2, 1, 2, 0.0), (8, 1, 8, 0.0), (8, 5, 8, 0.0), (12, 12, 8, 1.0), (16, 13, 3, 3.0),
     (64, 61, 8, 1.0), (64, 30, 64, 1.0), (100, 100, 16, 3.0)],
)  # fmt: skip
def test_base_gives_one_more_to_the_experts_that_gain_most(S, n, E, liked):
    """Of groups with n real tokens, somewhere: within 0.5% of scipy's optimum on average."""
    rng = np.random.default_rng(0)
    groups = 16
    score = rng.normal(size=(groups, S, E)) + liked * rng.normal(size=(groups, 1, E))
    mask = np.argsort(rng.random((groups, S)), axis=1) < n
    expert_GS = np.asarray(solve(np.float32(score), mask, 200, 0.002))
    lost = []
    for g in range(groups):
        real = score[g][mask[g]]
        own = expert_GS[g][mask[g]]
        counts = np.bincount(own, minlength=E)
        assert len(counts) == E and counts.max() - counts.min() <= 1
        best = best_shares(real)
        even = real.sum() / E
        lost.append((best - real[np.arange(n), own].sum()) / abs(best - even))
    assert (expert_GS[~mask] == E).all()
    assert np.mean(lost) < 0.005 and max(lost) < 0.05


def test_base_shares_out_full_groups_as_it_did():
    """Recorded when shares were whole by assumption."""
    score = np.random.default_rng(7).normal(size=(1, 24, 4)).astype(np.float32)
    expert_GS = solve(score, np.ones((1, 24), bool), 200, 0.002)
    assert "".join(map(str, expert_GS[0].tolist())) == "132313012100132032232001"


def test_base_is_greedy_in_evaluation_and_its_gate_a_sigmoid():
    experts, gates = choice("base", slots=1)
    assert experts == [[[2], [0], [0]]]
    np.testing.assert_allclose(gates.ravel(), [1 / (1 + 1 / p) for p in (0.4, 0.7, 0.3)], rtol=1e-5)
    experts, _ = choice("base", LOGITS[..., :3], train=True, slots=1)
    assert sorted(np.ravel(experts)) == [0, 1, 2]


def test_the_plan_has_equal_columns_and_rows_of_one():
    score = np.random.default_rng(0).normal(size=(2, 12, 4)).astype(np.float32) * 2
    mask = np.arange(12)[None] < np.array([[12], [9]])
    plan = np.exp(sinkhorn.plan(score, mask, 100, 1.0))
    np.testing.assert_allclose(plan.sum(2), mask, rtol=1e-4)
    np.testing.assert_allclose(plan.sum(1), np.repeat([[3.0], [2.25]], 4, axis=1), rtol=1e-3)


def test_sinkhorn_spreads_what_top_k_would_send_to_one():
    """Two tokens of two prefer expert 0; the one who minds less goes to expert 1."""
    logits = np.array([[[2.0, 0.0], [2.0, 1.0]]], np.float32)
    mask = np.ones((1, 2), bool)
    assert choice("sinkhorn", logits, mask, train=True)[0] == [[[0], [1]]]
    experts, gates = choice("sinkhorn", logits, mask)
    assert experts == [[[0], [0]]]
    np.testing.assert_allclose(gates.ravel(), 1 / (1 + np.exp([-2.0, -1.0])), rtol=1e-5)


# Slots that choose.


def test_expert_choice_by_hand():
    """One slot each: experts 0 and 1 take tokens 1 and 2, experts 2 and 3 both token 0."""
    slots = route("expert_choice", slots=1).assignment
    assert slots.token_GEC.tolist() == [[[1], [2], [0], [0]]]
    np.testing.assert_allclose(slots.gate_GEC.ravel(), [0.7, 0.28, 0.4, 0.3], rtol=1e-5)


def test_a_cap_on_the_experts_of_a_token():
    """Every expert has room for four, tokens 8 to 15 of its own, and wants tokens 0 to 3 most."""
    logits = 4 * np.eye(8, dtype=np.float32)[np.arange(16) % 8][None]
    logits[:, :4] = 0.5 * np.random.default_rng(0).normal(size=(1, 4, 8))
    mask = np.ones((1, 16), bool)

    def most(**options):
        token_GEC = route("expert_choice", logits, mask, k=2, slots=4, options=options)
        token_GEC = np.asarray(token_GEC.assignment.token_GEC)
        return max(np.bincount(t.ravel(), minlength=16).max() for t in token_GEC)

    assert most() >= 7 and most(most=3) == 3


@pytest.mark.parametrize(("liked", "C", "most"), [(0.0, 12, 2), (1.0, 12, 3), (1.0, 6, 2)])
def test_the_cap_holds_and_costs_no_more_than_it_must(liked, C, most):
    """Ten experts of 64 tokens, of which the first case has two each to give: scipy's optimum."""
    rng = np.random.default_rng(0)
    E = 10
    S = 64
    score_ES = 2 * rng.normal(size=(E, S)) + liked * rng.normal(size=(E, 1))
    p_GES = jax.nn.softmax(jnp.asarray(score_ES[None], jnp.float32), axis=1)
    share_G11 = jnp.full((1, 1, 1), C)
    plan_GES = expert_choice.capped(p_GES, share_G11, most, 100)
    taken_ES = np.asarray(expert_choice.agreed(plan_GES, share_G11, most))[0]
    assert (taken_ES.sum(1) == C).all() and taken_ES.sum(0).max() == most
    best = scipy.optimize.linprog(
        -np.asarray(p_GES, float).ravel(), bounds=(0, 1),
        A_eq=np.kron(np.eye(E), np.ones(S)), b_eq=np.full(E, C),
        A_ub=np.kron(np.ones(E), np.eye(S)), b_ub=np.full(S, most),
    )  # fmt: skip
    assert (taken_ES * p_GES[0]).sum() > 0.995 * -best.fun


def most_of_all(p_ES, share, most):
    """The value of the best capped choice, by scipy: at most so many a row, and a column."""
    E, S = p_ES.shape
    rows = np.kron(np.eye(E), np.ones(S))
    columns = np.kron(np.ones(E), np.eye(S))
    found = scipy.optimize.linprog(
        -p_ES.astype(float).ravel(), bounds=(0, 1), A_ub=np.concatenate([rows, columns]),
        b_ub=np.concatenate([np.full(E, share), np.full(S, most)]),
    )  # fmt: skip
    return -found.fun


@functools.cache
def crowds(S, n, E, share, most):
    """Logits and masks of eight groups with n real tokens, and the value of each one's best."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(8, S, E)).astype(np.float32)
    mask = np.argsort(rng.random((8, S)), axis=1) < n
    p_GES = np.asarray(jax.nn.softmax(logits)).swapaxes(1, 2)
    best = [most_of_all(p[:, real], share, most) for p, real in zip(p_GES, mask, strict=True)]
    return logits, mask, p_GES, best


@functools.cache
def capped(C, most):
    """The compiled (logits, mask, turns) -> token_GEC."""

    @jax.jit
    def run(logits, mask, turns):
        options = {"most": most, "iterations": turns}
        chosen = route("expert_choice", logits, mask, k=most, slots=C, options=options)
        return chosen.assignment.token_GEC

    return run


@pytest.mark.parametrize(
    ("S", "n", "E", "C", "most"),
    [(2, 1, 3, 2, 2), (8, 1, 8, 2, 2), (8, 3, 8, 2, 2), (16, 5, 8, 4, 2), (16, 13, 6, 6, 3),
     (64, 30, 10, 12, 2), (64, 64, 10, 13, 2), (64, 64, 8, 16, 2), (64, 50, 8, 16, 2)],
)  # fmt: skip
@pytest.mark.parametrize(("turns", "mean", "worst"), [(100, 0.025, 0.04), (400, 0.003, 0.01)])
def test_the_cap_holds_in_padded_and_odd_groups(S, n, E, C, most, turns, mean, worst):
    """Tight caps, and groups whose experts want more than tokens may give."""
    share = -(-C * n // S)
    logits, mask, p_GES, best = crowds(S, n, E, share, most)
    token_GEC = np.asarray(capped(C, most)(logits, mask, turns))
    lost = []
    for g in range(len(best)):
        taken_ES = (token_GEC[g, :, :, None] == np.arange(S)).any(1)
        assert not taken_ES[:, ~mask[g]].any()
        assert taken_ES.sum(1).max() <= share and taken_ES.sum(0).max() <= most
        lost.append(1 - (taken_ES * p_GES[g]).sum() / best[g])
    assert np.mean(lost) < mean and max(lost) < worst


def test_a_lone_token_has_the_experts_it_likes_best():
    logits = np.array([[[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]]], np.float32)
    mask = np.array([[True, False]])
    options = {"most": 2}
    slots = route("expert_choice", logits, mask, k=2, slots=2, options=options).assignment
    assert slots.token_GEC.tolist() == [[[2, 2], [0, 2], [0, 2]]]


def test_an_expert_asks_until_it_has_its_share():
    """Token 0 is wanted by both and may go to one: expert 0; expert 1 then asks for token 2."""
    plan_GES = jnp.array([[[3.0, 0.0, 1.0], [2.0, 0.5, 1.5]]])
    taken_GES = expert_choice.agreed(plan_GES, jnp.ones((1, 1, 1), int), 1)
    assert taken_GES.tolist() == [[[True, False, False], [False, False, True]]]


def test_soft_by_hand():
    """One expert, two slots: columns are shared by tokens, rows by slots; the third is padding."""
    logits = np.log([[[1.0, 1.0], [3.0, 1.0], [9.0, 9.0]]]).astype(np.float32)
    settings = contract.RouterSettings(1, 1, 2, True, contract.Options())
    mask = np.array([[True, True, False]])
    mixing = routing.soft.route(
        contract.RouterInputs({"router": logits}, mask), settings
    ).assignment
    want = [[[0.25, 0.5]], [[0.75, 0.5]], [[0, 0]]]
    np.testing.assert_allclose(mixing.dispatch_GSEC[0], want, rtol=1e-6)
    want = [[[0.5, 0.5]], [[0.75, 0.25]], [[0, 0]]]
    np.testing.assert_allclose(mixing.combine_GSEC[0], want, rtol=1e-6)


def test_soft_slots_mix_tokens_and_tokens_mix_slots():
    logits = np.random.default_rng(0).normal(size=(1, 3, 4)).astype(np.float32)
    settings = contract.RouterSettings(2, 1, 2, True, contract.Options())
    mask = np.array([[True, True, False]])
    mixing = routing.soft.route(
        contract.RouterInputs({"router": logits}, mask), settings
    ).assignment
    assert mixing.dispatch_GSEC.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(mixing.dispatch_GSEC.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixing.combine_GSEC.sum((2, 3)), [[1, 1, 0]], rtol=1e-5)
    e = np.exp(logits[0, :2, 3])
    np.testing.assert_allclose(mixing.dispatch_GSEC[0, :2, 1, 1], e / e.sum(), rtol=1e-5)
