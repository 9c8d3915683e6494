"""The routers on arrays written by hand, and on many draws where they draw."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from moe import routing
from moe.routing import (
    assignment,
    base,
    contract,
    expert_choice,
    hashed,
    ranked,
    reinforce,
    sinkhorn,
    tables,
    tally,
)
from tests import tiny

P = np.array([[[0.1, 0.2, 0.4, 0.3], [0.7, 0.05, 0.05, 0.2], [0.3, 0.28, 0.22, 0.2]]])
LOGITS = np.log(P).astype(np.float32)
MASK = np.ones((1, 3), bool)


def route(name, logits=LOGITS, mask=MASK, k=1, options=None, **more):
    options = routing.ROUTERS[name].options(**(options or {}))
    call = functools.partial(routing.route, name, k=k, options=options, **more)
    return call(logits, mask)


def choice(*args, **kwargs):
    expert_GSK, gate_GSK = route(*args, **kwargs).assignment
    return expert_GSK.tolist(), np.asarray(gate_GSK)


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
        got, gates = choice("top_k", np.log(p), options={"rounds": rounds}, slots=1)
        assert got == want
    np.testing.assert_allclose(gates.ravel(), [0.6, 0.3, 0.25], rtol=1e-5)


def test_a_later_token_cannot_keep_a_seat_that_an_earlier_one_moves_on_to():
    """Token 2 wants expert 1 first, but token 1, moving on in round 2, comes before it."""
    p = np.array([[[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.1, 0.5, 0.4]]])
    got, _ = choice("top_k", np.log(p), options={"rounds": 2}, slots=1)
    assert got == [[[0], [1], [2]]]


def test_moving_on_leaves_nobody_behind_where_there_is_room():
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(4, 32, 8)) + 2 * rng.normal(size=8)).astype(np.float32)
    mask = np.ones((4, 32), bool)
    for k in (1, 2):
        settle = jax.jit(ranked.move_on, static_argnums=(2, 3, 4, 5))

        def dropped(rounds, k=k, settle=settle):
            expert_GSK = settle(logits, mask, k, 4 * k, rounds, 8)
            assert (np.diff(np.sort(expert_GSK), axis=-1) != 0).all()
            choice = assignment.Choice(expert_GSK, expert_GSK * 1.0)
            return int((assignment.seat(choice, 8, 4 * k).slot_GSK == 32 * k).sum())

        lost = [dropped(rounds) for rounds in (0, 4, 32)]
        assert lost[0] > lost[1] > lost[2]
        # Two of a token's choices can't share what is left: a few may stay behind.
        assert lost[2] <= (0 if k == 1 else 0.1 * lost[0])


def test_batch_priority_seats_the_surest():
    """One slot each: token 1 is the surest; token 2's first choice comes before second ones."""
    chosen = assignment.Choice(
        jnp.array([[[0, 1], [0, 1], [1, 0]]]), jnp.array([[[0.4, 0.3], [0.7, 0.1], [0.3, 0.2]]])
    )
    slots = assignment.seat(chosen, 2, 1, jnp.array([[0.4, 0.7, 0.3]]))
    assert slots.token_GEC.tolist() == [[[1], [2]]]
    assert slots.slot_GSK.tolist() == [[[2, 2], [0, 2], [1, 2]]]
    np.testing.assert_allclose(slots.gate_GEC, [[[0.7], [0.3]]])
    assert assignment.seat(chosen, 2, 1).token_GEC.tolist() == [[[0], [0]]]


def test_the_surest_is_known_by_its_probability_and_not_by_its_gate():
    """Of two, (0.2, 0.14, ...) has the larger gate, (0.5, 0.45, ...) the larger probability."""
    p = np.array([[[0.2, 0.14] + [0.11] * 6, [0.5, 0.45] + [0.05 / 6] * 6]])
    mask = np.ones((1, 2), bool)
    routed = route("top_k", np.log(p), mask, k=2, options={"batch_priority": True})
    gate_GSK, priority_GS = routed.assignment.gate_GSK, routed.priority_GS
    assert gate_GSK[0, 0, 0] > gate_GSK[0, 1, 0] and priority_GS[0, 0] < priority_GS[0, 1]


def test_moving_on_does_not_hide_a_collapse():
    """Balance and load count what tokens wished, though all found room in the end."""
    logits = np.array([[[3.0, 0.1, 0, -0.1]] * 8], np.float32)
    mask = np.ones((1, 8), bool)
    tallies = {}
    for rounds in (0, 3):
        routed = route("top_k", logits, mask, options={"rounds": rounds}, slots=2)
        seats = assignment.seat(routed.assignment, 4, 2)
        tallies[rounds] = tally.count(routed, seats, mask)
    assert tallies[3].kept_KE.tolist() == [[2, 2, 2, 2]] and tallies[3].missed == 0
    assert tallies[0].kept_KE.tolist() == [[2, 0, 0, 0]]
    assert tallies[3].chosen_KE.tolist() == tallies[0].chosen_KE.tolist() == [[8, 0, 0, 0]]
    assert tally.balance_loss(tallies[3]) == tally.balance_loss(tallies[0]) > 3


def test_moving_on_stays_inside_the_groups_that_a_token_may_use():
    logits = np.array([[[3.0, 2, 0, 0], [3.0, 2, 0, 0]]], np.float32)
    options = {"expert_groups": 2, "rounds": 2}
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
    noisy, sigma = routing.noisy_top_k.noisy(raw * 0, raw, jax.random.key(0), True)
    want = math.log1p(math.exp(0.5)) + 0.01
    np.testing.assert_allclose(sigma, want, rtol=1e-5)
    np.testing.assert_allclose(np.std(noisy), want, rtol=0.02)


def test_importance_and_load_losses_by_hand():
    own = {"importance_E": jnp.array([1.0, 3.0]), "load_E": jnp.array([2.0, 2.0])}
    sums = tally.Tally(*[0.0] * 6, own=own)
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
    sums = tally.Tally(*[jnp.zeros(2)] * 6)._replace(
        tokens=jnp.array([10.0, 10.0]), chosen_KE=jnp.array([[[10.0, 10.0]], [[5.0, 5.0]]])
    )
    got = routing.top_p.update({"mass": jnp.array([0.4, 0.4])}, sums, options)
    np.testing.assert_allclose(got["mass"], [0.4 - 0.05, 0.4 + 0.05])
    idle = routing.top_p.update({"mass": jnp.array([0.4])}, sums, routing.top_p.Options())
    np.testing.assert_allclose(idle["mass"], 0.4)


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
    sums = tally.Tally(*[jnp.zeros(1)] * 6)._replace(chosen_KE=chosen_LKE)
    got = routing.sigmoid.update({"bias": jnp.zeros((1, 3))}, sums, routing.sigmoid.Options())
    np.testing.assert_allclose(got["bias"], [[-0.001, 0.001, 0]])


def normal(rng, S, E):
    return rng.normal(size=(S, E)) + rng.normal(size=E)  # some experts are liked by all


def words(rng, S, E):
    """Tokens of a few kinds, alike but for nothing, as the first layer sees words."""
    return rng.normal(size=(200, E))[np.minimum(rng.zipf(1.3, S) - 1, 199)]


def heavy(rng, S, E):
    return rng.standard_t(2, size=(S, E))


@pytest.mark.parametrize(
    ("draw", "S", "E"),
    [(normal, 128, 4), (normal, 128, 16), (normal, 64, 64), (normal, 128, 64), (heavy, 500, 20),
     (words, 500, 20), (words, 2000, 20)],
)  # fmt: skip
def test_base_is_balanced_and_near_the_optimum(draw, S, E):
    """Against scipy's exact assignment."""
    score = draw(np.random.default_rng(E), S, E).astype(np.float32)
    options = base.Options()
    solve = jax.jit(base.balanced, static_argnums=(2, 3))
    mask = np.ones((1, S), bool)
    expert_S = np.asarray(solve(score[None], mask, options.iterations, options.temperature))[0]
    assert (np.bincount(expert_S, minlength=E) == S // E).all()
    wide = np.repeat(score, S // E, axis=1)
    rows, columns = scipy.optimize.linear_sum_assignment(wide, maximize=True)
    best = wide[rows, columns].sum()
    assert score[np.arange(S), expert_S].sum() > best - 0.01 * abs(best)


def test_base_shares_out_real_tokens_alone():
    mask = np.arange(10)[None] < 7
    score = np.random.default_rng(0).normal(size=(1, 10, 3)).astype(np.float32)
    expert_GS = np.asarray(base.balanced(score, mask, 200, 0.002))
    assert sorted(np.bincount(expert_GS[0, :7])) == [2, 2, 3] and (expert_GS[0, 7:] == 3).all()


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

    assert most() >= 7 and most(most=3) <= 5  # 3, and what rounding adds


def test_the_capped_plan_holds_its_three_constraints():
    score = jax.nn.softmax(np.random.default_rng(0).normal(size=(2, 4, 16)) * 2, axis=1)
    plan = np.exp(expert_choice.capped(jnp.asarray(score, jnp.float32), 6, 2, 100))
    np.testing.assert_allclose(plan.sum(2), 6, rtol=0.1)
    assert plan.sum(1).max() < 2.1 and plan.max() < 1.001


def test_soft_slots_mix_tokens_and_tokens_mix_slots():
    logits = np.random.default_rng(0).normal(size=(1, 3, 4)).astype(np.float32)
    setting = contract.Setting(2, 1, 2, True, contract.Options())
    mask = np.array([[True, True, False]])
    mixing = routing.soft.route(contract.Seen({"router": logits}, mask), setting).assignment
    assert mixing.dispatch_GSEC.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(mixing.dispatch_GSEC.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixing.combine_GSEC.sum((2, 3)), [[1, 1, 0]], rtol=1e-5)
    e = np.exp(logits[0, :2, 3])
    np.testing.assert_allclose(mixing.dispatch_GSEC[0, :2, 1, 1], e / e.sum(), rtol=1e-5)


# Tables.


def test_a_hash_looks_at_the_id_alone():
    table = jnp.array([[3], [0], [2]])
    ids = jnp.array([[1, 0, 2]])
    experts, gates = choice("hash", state={"table": table}, ids_GS=ids)
    assert experts == [[[0], [3], [2]]] and (gates == 1).all()


def zipf(size=20_000, vocab=200):
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, vocab + 1)
    return rng.choice(vocab, size, p=p / p.sum())


@pytest.mark.parametrize("table", hashed.TABLES)
def test_tables(table):
    """Every id has an expert, every layer and bank its own table; balanced ones are balanced."""
    options = routing.ROUTERS["hash"].options(table=table)
    moe = tiny.moe(router="hash", num_experts=8, k=2, options=options)
    model = tiny.model(vocab_size=200, num_layers=4, every=2, moe=moe)
    ids = zipf()
    table_LVK = hashed.state(model, 0, ids)["table"]
    assert table_LVK.shape == (2, 200, 2) and table_LVK.dtype == np.int32
    for k in range(2):
        assert set(np.unique(table_LVK[..., k])) == set(range(4 * k, 4 * k + 4))
    assert (table_LVK[0] != table_LVK[1]).any()
    np.testing.assert_array_equal(table_LVK, hashed.state(model, 0, ids)["table"])
    load = np.bincount(table_LVK[0, ids, 0], minlength=4) / len(ids)
    # The commonest id alone is 17% of the text.
    assert (load.max() < 0.26) == (table == "balanced")
    if table != "clustered":  # k-means finds much the same again
        alike = [table_LVK[0, ids, 0] % 4 == other for other in (
            table_LVK[0, ids, 1] % 4, table_LVK[1, ids, 0] % 4)]  # fmt: skip
        assert all(a.mean() < 0.6 for a in alike)


def test_alike_ids_share_a_cluster():
    """Ids 0 to 19 stand beside one another, and so do 20 to 39."""
    rng = np.random.default_rng(0)
    half = np.repeat(rng.integers(0, 2, 2000), 20)
    ids = rng.integers(0, 20, 40_000) + 20 * half
    table = tables.clustered(rng, ids, 40, 2)
    assert len(set(table[:20])) == len(set(table[20:])) == 1 and table[0] != table[20]


def test_rre_stays_in_its_domain_s_group():
    options = routing.rre.Options(groups=2)
    table = jnp.array([[0], [1], [1]])
    more = {"ids_GS": jnp.array([[0, 1, 2]]), "domain_GS": jnp.array([[0, 1, 0]])}
    routed = routing.route("rre", LOGITS, MASK, 1, options=options, state={"table": table}, **more)
    assert routed.assignment.expert_GSK.tolist() == [[[0], [3], [1]]]


def test_domain_is_the_expert():
    experts, gates = choice("domain", domain_GS=jnp.array([[2, 0, 1]]))
    assert experts == [[[2], [0], [1]]] and (gates == 1).all()


# Reward.


def test_reinforce_samples_its_policy_and_evaluates_greedily():
    logits = np.repeat(LOGITS[:, :1], 8000, axis=0)
    both = {"router": logits, "baseline": np.zeros((8000, 1, 1), np.float32)}
    mask = np.ones((8000, 1), bool)
    routed = route("reinforce", both, mask, key=jax.random.key(0), train=True)
    chosen = np.asarray(routed.assignment.expert_GSK).ravel()
    np.testing.assert_allclose(np.bincount(chosen) / 8000, P[0, 0], atol=0.02)
    np.testing.assert_allclose(routed.policy.log_p_GS.ravel(), np.log(P[0, 0])[chosen], rtol=1e-4)
    assert (route("reinforce", both, mask).assignment.expert_GSK == 2).all()


def test_the_policy_learns_by_reward_less_baseline():
    """-(r - b) log pi and (r - b)^2; only the first teaches the policy, only the second b."""
    nll_BT, real_BT = jnp.array([[2.0, 1.0, 5.0]]), jnp.array([[True, True, False]])

    def losses(log_p, baseline):
        learned = reinforce.learn(contract.Policy(log_p, baseline), nll_BT, real_BT)
        return learned["policy"] + learned["baseline"], learned

    log_p, baseline = jnp.array([[-1.0, -0.5, 0.0]]), jnp.array([[-1.5, -1.5, 0.0]])
    grads, learned = jax.grad(losses, (0, 1), has_aux=True)(log_p, baseline)
    np.testing.assert_allclose(learned["policy"], 0.5 * -1.0 + -0.5 * -0.5)
    np.testing.assert_allclose(learned["baseline"], 0.25 + 0.25)
    np.testing.assert_allclose(grads[0], [[0.5, -0.5, 0]])  # worse than expected: less likely
    np.testing.assert_allclose(grads[1], [[1.0, -1.0, 0]])


def test_the_policy_gradient_goes_uphill():
    """On a bandit: expert 1 always pays more; the policy comes to prefer it."""
    logits = jnp.zeros((1, 64, 3))

    def expected(logits, key):
        both = {"router": logits, "baseline": jnp.full((1, 64, 1), -1.0)}
        routed = route("reinforce", both, np.ones((1, 64), bool), key=key, train=True)
        nll = jnp.where(routed.assignment.expert_GSK[..., 0] == 1, 0.5, 1.5)
        return reinforce.learn(routed.policy, nll, jnp.ones((1, 64), bool))["policy"]

    step = jax.jit(lambda s, key: s - 0.5 * jax.grad(expected)(s, key).mean(1, keepdims=True))
    for key in jax.random.split(jax.random.key(0), 100):
        logits = step(logits, key)
    assert jax.nn.softmax(logits)[0, 0, 1] > 0.9


# Trees.


def test_hierarchical_by_hand():
    """Two groups of two: p of the group times p inside it, without noise in evaluation."""
    primary = np.log([[[0.3, 0.7]]]).astype(np.float32)
    router = np.log([[[0.9, 0.1, 0.4, 0.6]]]).astype(np.float32)
    logits = {"primary": primary, "primary_noise": primary * 0, "router": router,
              "noise": router * 0}  # fmt: skip
    more = {"key": jax.random.key(0), "options": {"groups": 2}}
    routed = route("hierarchical", logits, np.ones((1, 1), bool), **more)
    assert routed.assignment.expert_GSK.tolist() == [[[3]]]
    np.testing.assert_allclose(routed.assignment.gate_GSK, [[[0.42]]], rtol=1e-5)
    np.testing.assert_allclose(routed.p_GSE, [[[0.27, 0.03, 0.28, 0.42]]], rtol=1e-5)
    sums = routed.sums
    np.testing.assert_allclose(sums["importance_E"], [0, 0, 0, 0.42], rtol=1e-5)
    assert sums["sent_A"].tolist() == [0, 1] and not sums["inside_AB"][0].any()
    sigma = math.log(2) + 0.01
    phi = scipy.stats.norm.cdf(np.log(0.7 / 0.3) / sigma)
    np.testing.assert_allclose(sums["load_A"], [1 - phi, phi], rtol=1e-4)
    inside = scipy.stats.norm.cdf(np.log(0.6 / 0.4) / sigma)
    np.testing.assert_allclose(sums["inside_AB"][1], [1 - inside, inside], rtol=1e-4)
