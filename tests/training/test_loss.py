"""The loss: worked out by hand, the same in parts as in whole, blind to padding."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import objectives, routing
from moe.objectives import cross_entropy
from moe.routing import stats
from moe.training import gradients
from tests import tiny

B = tiny.B

T = tiny.T

E = tiny.E


def test_cross_entropy_by_hand():
    p = np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]])
    nll_BT = cross_entropy.cross_entropy(jnp.log(p) + 7, jnp.array([[0, 2]]))
    np.testing.assert_allclose(nll_BT, [[math.log(2), -math.log(0.7)]], rtol=1e-5)


def test_the_gradient_of_cross_entropy_by_hand():
    """p - 1 at the target, p elsewhere, times what comes from above."""
    p = np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]])
    above_BT = jnp.array([[2.0, -1.0]])

    def fn(logits):
        return (cross_entropy.cross_entropy(logits, jnp.array([[0, 2]])) * above_BT).sum()

    want = [[[-1.0, 0.5, 0.5], [-0.1, -0.2, 0.3]]]
    np.testing.assert_allclose(jax.grad(fn)(jnp.log(p) + 7), want, rtol=1e-5)


def test_cross_entropy_of_huge_logits():
    nll_BT = cross_entropy.cross_entropy(jnp.array([[[1e4, 0.0]] * 2]), jnp.array([[0, 1]]))
    np.testing.assert_allclose(nll_BT, [[0, 1e4]])


def literal_stats() -> stats.RouterStats:
    """Two layers of two experts: balance losses 1 and 10/9, router z 2 and 4."""
    return stats.RouterStats(
        tokens=jnp.array([3.0, 3]),
        chosen_KE=jnp.array([[[1.5, 1.5]], [[1, 2]]]),
        kept_KE=jnp.array([[[1.5, 1.5]], [[1, 1]]]),
        unrouted=jnp.array([0.0, 1]),
        probability_E=jnp.array([[1.5, 1.5], [1, 2]]),
        entropy=jnp.array([0.0, 0]),
        gate=jnp.array([3.0, 3]),
        z=jnp.array([6.0, 12]),
        slots=jnp.array([6.0, 6]),
    )


def test_the_total_by_hand():
    """6 nats over 3 tokens, plus the means over layers, each with its weight."""
    sums = objectives.contract.Sums(jnp.float32(6), jnp.float32(3), literal_stats())
    experts = tiny.moe_config(balance_weight=0.5, z_weight=0.25)
    value, metrics = objectives.contract.total(sums, experts)
    np.testing.assert_allclose(value, 2 + 0.5 * (1 + 10 / 9) / 2 + 0.25 * 3, rtol=1e-6)
    np.testing.assert_allclose(metrics["nll"], 2)
    np.testing.assert_allclose(metrics["loss"], value)
    np.testing.assert_allclose(metrics["router_z"], 3)
    np.testing.assert_allclose(metrics["dropped"], 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(metrics["load_LE"], [[0.5, 0.5], [1 / 3, 2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(metrics["dropped_LK"], [[0], [1 / 3]], rtol=1e-6)
    np.testing.assert_allclose(metrics["dropped_L"], [0, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(metrics["balance_loss"], (1 + 10 / 9) / 2, rtol=1e-6)


def test_the_total_of_a_dense_model():
    value, metrics = objectives.contract.total(
        objectives.contract.Sums(jnp.float32(6), jnp.float32(3), None), None
    )
    assert value == 2 and metrics.keys() == {"loss", "nll"}


def test_weights_of_zero_leave_the_cross_entropy():
    (value, metrics), _ = tiny.value_and_grad(silent(), tiny.inputs())
    assert value == metrics["nll"] and metrics["balance"] > 1 and metrics["router_z"] > 0


def test_a_loss_of_weight_zero_is_told_but_not_added():
    """Not even where it is not a number."""
    stats = literal_stats()._replace(z=jnp.array([jnp.nan, 1.0]))
    sums = objectives.contract.Sums(jnp.float32(6), jnp.float32(3), stats)
    experts = tiny.moe_config(balance_weight=0.0, z_weight=0.0)
    value, metrics = objectives.contract.total(sums, experts)
    assert value == 2 and np.isnan(metrics["z_loss"])


def silent(**changes):
    """One layer, without any router loss."""
    losses = {"balance_weight": 0.0, "z_weight": 0.0}
    return tiny.model(num_layers=1, moe_every=1, experts=tiny.moe_config(**losses, **changes))


def test_the_task_alone_gives_the_router_a_gradient():
    """K = 1, so the gate must carry it."""
    _, grads = tiny.value_and_grad(silent(), tiny.inputs())
    router_DE = grads["block"]["layer_0"]["moe"]["router"][0]
    assert (np.abs(router_DE) > 1e-5).all()


def test_a_policy_is_paid_in_log_probability():
    """Of targets that count, and of those alone; its own losses come in with their own weights."""
    options = routing.reinforce.Options(policy_weight=0.5, baseline_weight=0.25)
    config = silent(router="reinforce", options=options)
    inputs = tiny.inputs()
    loss_mask_BT = (np.asarray(inputs.segment_BT) > 0) & (np.arange(T) % 3 > 0)
    inputs = inputs._replace(loss_mask_BT=jnp.asarray(loss_mask_BT, jnp.int32))
    (value, metrics), _ = tiny.value_and_grad(config, inputs)

    task = tiny.task_of(config)
    params = tiny.params(config)
    key = jax.random.key(0)

    @jax.jit
    def forward(params):
        policy = task.model.apply(params, {}, inputs, key=key, train=True).policy
        return task.forward(params, {}, inputs, key, True).nll, policy

    nll_BT, policy = tiny.host(forward(params))
    log_p_BT, expected_BT = (x[0] for x in policy)
    surprise_N = (-nll_BT - expected_BT)[loss_mask_BT]
    taught = -(surprise_N * log_p_BT[loss_mask_BT]).mean(), np.square(surprise_N).mean()
    got = metrics["policy_loss"], metrics["baseline_loss"]
    np.testing.assert_allclose(got, taught, rtol=1e-4)
    np.testing.assert_allclose(
        value, metrics["nll"] + 0.5 * taught[0] + 0.25 * taught[1], rtol=1e-5
    )


def test_an_expert_without_tokens_gets_exactly_zero():
    """Experts 1 to 3 are out of reach of the router; their weights must not move."""
    params = tiny.params(silent())
    params["block"]["layer_0"]["ffn_norm"]["scale"] *= 0.0  # all logits 0: ties go to expert 0
    (_, metrics), grads = tiny.host(
        tiny.compiled_gradients(silent())(params, tiny.inputs(), jax.random.key(0))
    )
    assert metrics["unused"] == E - 1 and metrics["max_load"] == E
    experts = tiny.value_and_grad(silent(), tiny.inputs())[1]["block"]["layer_0"]["moe"]["experts"]
    assert all(x[0, e].any() for x in experts.values() for e in range(E))
    unused = grads["block"]["layer_0"]["moe"]["experts"]
    assert all(not x[0, 1:].any() for x in unused.values())


def test_all_of_it_is_float32():
    """In a bfloat16 model: loss, metrics and gradients."""
    config = dataclasses.replace(silent(), dtype="bfloat16")
    (value, metrics), grads = jax.eval_shape(
        tiny.compiled_gradients(config), tiny.params(config), tiny.inputs(), jax.random.key(0)
    )
    assert {x.dtype for x in jax.tree.leaves((value, metrics, grads))} == {np.dtype("float32")}


TOP_P = routing.top_p.Options(mass=0.6, target_k=1.5, entropy_weight=0.1)


@pytest.mark.parametrize(
    ("group_size", "accumulate", "router"),
    [(2 * T, 2, {"k": 2}), (T // 2, 4, {"router": "top_p", "k": 3, "options": TOP_P})],
)
def test_micro_batches_make_the_whole_batch(group_size, accumulate, router):
    """Loss, all metrics and all gradients, though the balance loss is not linear."""
    sizes = {"group_size": group_size, "capacity_factor": 0.75 / router["k"] * 2}
    config = tiny.model(
        num_layers=1, moe_every=1, experts=tiny.moe_config(balance_weight=0.5, **sizes, **router)
    )
    whole = tiny.value_and_grad(config, tiny.inputs())
    assert whole[0][1]["dropped"] > 0.05
    parts = tiny.value_and_grad(config, tiny.inputs(), accumulate=accumulate)
    tiny.assert_close(parts, whole)


def test_micro_batches_keep_groups_together():
    """Groups of two rows in two micro-batches: rows 0, 1, 4, 5, and then the others."""
    rows = jnp.arange(8)[:, None] * jnp.ones((1, T), jnp.int32)
    parts = [gradients._micro_batch(rows, i, 2, 2)[:, 0].tolist() for i in range(2)]
    assert parts == [[0, 1, 4, 5], [2, 3, 6, 7]]


@functools.cache
def forward(config):
    """The compiled (params, inputs) -> ((nll, tokens, router_stats), gradients of nll)."""
    task = tiny.task_of(config)

    def nll(params, inputs):
        sums = task.forward(params, {}, inputs, jax.random.key(0), True).sums
        return sums.nll, sums

    def run(params, inputs):
        (_, sums), grads = jax.value_and_grad(nll, has_aux=True)(params, inputs)
        return sums, grads

    return jax.jit(run)


CROWDED = silent(k=2, group_size=T, capacity_factor=0.75)


def assert_padding_changes_nothing(padded):
    params = tiny.params(CROWDED)
    sums, grads = tiny.host(forward(CROWDED)(params, tiny.inputs()))
    more, more_grads = tiny.host(forward(CROWDED)(params, padded))
    assert sums.router_stats.kept_KE.sum() < 0.9 * sums.router_stats.chosen_KE.sum()
    tiny.assert_close(more._replace(router_stats=None), sums._replace(router_stats=None))
    tiny.assert_close(more.router_stats._replace(slots=0), sums.router_stats._replace(slots=0))
    tiny.assert_close(more_grads, grads, atol=1e-5)


def test_rows_of_padding_change_nothing():
    assert_padding_changes_nothing(
        jax.tree.map(lambda x: jnp.pad(x, ((0, 2), (0, 0))), tiny.inputs())
    )


def test_padding_after_the_documents_changes_nothing():
    """Groups of T tokens in rows of 2T: the second half of each row is a group of padding."""
    assert_padding_changes_nothing(
        jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, T))), tiny.inputs())
    )


def test_padding_before_the_documents_takes_no_seat():
    """What stood at the end of odd rows, in front: the same seats, the same drops."""
    assert not np.asarray(tiny.inputs().segment_BT)[1::2, -2:].any()
    assert_padding_changes_nothing(
        jax.tree.map(lambda x: x.at[1::2].set(jnp.roll(x[1::2], 2, axis=1)), tiny.inputs())
    )
