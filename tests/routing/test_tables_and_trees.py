"""Routers that go by tables, by reward, or in two steps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from moe import routing
from moe.routing import (
    contract,
    hashed,
    reinforce,
    stats,
    tables,
)
from tests import tiny
from tests.routing.by_hand import LOGITS, MASK, P, choice, route

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
    experts = tiny.moe_config(router="hash", num_experts=8, k=2, options=options)
    model = tiny.model(vocab_size=200, num_layers=4, moe_every=2, experts=experts)
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
    nll_BT = jnp.array([[2.0, 1.0, 5.0]])
    real_BT = jnp.array([[True, True, False]])

    def losses(log_p, baseline):
        learned = reinforce.learn(contract.Policy(log_p, baseline), nll_BT, real_BT)
        return learned["policy"] + learned["baseline"], learned

    log_p = jnp.array([[-1.0, -0.5, 0.0]])
    baseline = jnp.array([[-1.5, -1.5, 0.0]])
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
    assert sums["sent_A"].tolist() == [0, 1] and not sums["inside_AW"][0].any()
    sigma = math.log(2) + 0.01
    phi = scipy.stats.norm.cdf(np.log(0.7 / 0.3) / sigma)
    np.testing.assert_allclose(sums["load_A"], [1 - phi, phi], rtol=1e-4)
    inside = scipy.stats.norm.cdf(np.log(0.6 / 0.4) / sigma)
    np.testing.assert_allclose(sums["inside_AW"][1], [1 - inside, inside], rtol=1e-4)


def test_the_load_of_an_expert_is_its_groups_times_its_share_of_it():
    """Loads 2, 1, 0.5, 0.5: variance 0.375 around a mean of 1 (Shazeer et al., equation 18)."""
    own = {"load_A": [3.0, 1.0], "inside_AW": [[2.0, 1.0], [0.5, 0.5]], "sent_A": [3.0, 1.0]}
    sums = stats.RouterStats(*[None] * 6)._replace(extra={k: jnp.array(x) for k, x in own.items()})
    np.testing.assert_allclose(routing.hierarchical.load_loss(sums), 0.375, rtol=1e-6)
