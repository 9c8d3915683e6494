"""One step: its golden numbers, its dense twin, its key, and what becomes of the old state."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moe import models
from moe.evaluation import held_out
from moe.training import optimizer, step
from tests import tiny

MOE = tiny.model()
DENSE = tiny.model(experts=None)
CHAIN = optimizer.make(optimizer.OptimizerConfig(warmup_steps=1, learning_rate=1e-2), 10)


@functools.cache
def initial(config, seed=0):
    """The parameters at step 0, as NumPy arrays: a step donates those it is given."""
    return tiny.host(step.init(models.build(config), CHAIN, seed).params)


def state(config) -> step.State:
    params = jax.tree.map(jnp.asarray, initial(config))
    return step.State(jnp.int32(0), params, jax.jit(CHAIN.init)(params))


@functools.cache
def train_step(config):
    return step.make_train_step(tiny.task_of(config), CHAIN, 0)


@functools.cache
def steps(config, count=4):
    """The metrics of the first steps, and the last state."""
    current = state(config)
    metrics = []
    for _ in range(count):
        current, measured = train_step(config)(current, tiny.inputs())
        metrics.append(tiny.host(measured))
    return metrics, tiny.host(current)


# The first step of seed 0. Other numbers are another model, router, loss or initial weight.
GOLDEN = {"dense": (DENSE, 3.825266, 1.344457), "experts": (MOE, 3.812995, 1.342704)}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_first_step(name):
    config, want_loss, want_norm = GOLDEN[name]
    first = steps(config)[0][0]
    np.testing.assert_allclose(first["loss"], want_loss, rtol=1e-4)
    np.testing.assert_allclose(first["grad_norm"], want_norm, rtol=1e-4)


@pytest.mark.parametrize("name", GOLDEN)
def test_steps_lower_the_loss_and_count(name):
    metrics, last = steps(GOLDEN[name][0])
    losses = [float(m["loss"]) for m in metrics[1:]]  # warm-up begins at 0: step 0 moves nothing
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[2] + 0.01
    assert last.step == 4 and last.step.dtype == np.int32


def test_an_initial_model_is_nearly_undecided():
    """Its logits have unit variance at most: the loss is near log V, and so is the router's."""
    first = steps(MOE)[0][0]
    assert np.log(tiny.V) < first["nll"] < np.log(tiny.V) + 1
    assert 0.9 * np.log(tiny.E) < first["entropy"] <= np.log(tiny.E)


def test_the_dense_twin_has_the_same_shared_weights():
    sparse, dense = (dict(jax.tree_util.tree_leaves_with_path(initial(c))) for c in (MOE, DENSE))
    shared = sparse.keys() & dense.keys()
    assert len(dense) - len(shared) == 2  # the feed-forward that experts replace
    assert {jax.tree_util.keystr(p) for p in sparse.keys() - shared} == {
        f"['block']['layer_1']['moe']{name}"
        for name in ("['router']", "['experts']['w_in']", "['experts']['w_out']")
    }
    for path in shared:
        np.testing.assert_array_equal(sparse[path], dense[path], jax.tree_util.keystr(path))


def test_the_seed_decides():
    same = jax.tree.map(np.array_equal, initial(MOE), initial(MOE, seed=1))
    norms = [path for path, yes in jax.tree_util.tree_leaves_with_path(same) if yes]
    assert {path[-1].key for path in norms} == {"scale"}


def test_no_two_weights_are_born_equal():
    """Neither layers, nor experts, nor the matrices of one layer share a draw."""
    leaves = [x.ravel() for x in jax.tree.leaves(initial(MOE)) if np.ptp(x) > 0]
    values = np.concatenate(leaves)
    assert len(np.unique(values)) > 0.98 * len(values)


def test_parameters_are_float32_and_born_as_their_shapes_say():
    params = initial(MOE)
    shapes = models.parameter_shapes(MOE)
    jax.tree.map(lambda x, s: np.testing.assert_equal((x.shape, x.dtype), (s.shape, s.dtype)),
                 params, shapes)  # fmt: skip
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_parameters_are_born_equal_on_a_mesh():
    with tiny.on("2x4"):
        born = step.init(models.build(MOE), CHAIN, 0)
        experts = born.params["block"]["layer_1"]["moe"]["experts"]["w_in"]
        assert experts.sharding.spec == jax.sharding.PartitionSpec(None, "expert", None, "model")
        moments = jax.tree.leaves(born.optimizer, is_leaf=lambda x: hasattr(x, "mu"))
        mu = next(x for x in moments if hasattr(x, "mu")).mu
        assert mu["block"]["layer_1"]["moe"]["experts"]["w_in"].sharding == experts.sharding
    tiny.assert_equal(tiny.host(born.params), initial(MOE))


def test_the_norm_is_that_of_the_gradients():
    """Which are what plain descent subtracts."""
    config = tiny.model(num_layers=1, moe_every=1)
    params = tiny.params(config)
    tx = optax.sgd(1.0)
    old = tiny.host(params)
    before = step.State(jnp.int32(0), params, tx.init(params))
    after, metrics = step.make_train_step(tiny.task_of(config), tx, 0)(before, tiny.inputs())
    moved = jax.tree.map(np.subtract, old, tiny.host(after.params))
    norm = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(moved)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)


def test_the_old_state_is_given_up():
    """Its memory is reused: a step needs room for one state."""
    current = state(DENSE)
    train_step(DENSE)(current, tiny.inputs())
    assert all(x.is_deleted() for x in jax.tree.leaves((current.params, current.optimizer[1].mu)))


def test_router_noise_is_new_at_every_step_and_the_same_when_repeated():
    """A step is a pure function of seed, state and batch."""
    config = dataclasses.replace(
        tiny.without_router_losses(tiny.model(num_layers=1, moe_every=1)),
        experts=tiny.moe_config(router="random"),
    )
    params = tiny.host(tiny.params(config))
    tx = optax.sgd(0.0)
    random_step = step.make_train_step(tiny.task_of(config), tx, 0)

    def load(number):
        fresh = jax.tree.map(jnp.asarray, params)
        now = step.State(jnp.int32(number), fresh, tx.init(fresh))
        return np.asarray(random_step(now, tiny.inputs())[1]["load_LE"]).tolist()

    loads = [load(number) for number in range(4)]
    assert loads[2] == load(2) and len({str(x) for x in loads}) > 1


def test_evaluation_is_a_forward_pass_with_its_own_capacity():
    config = tiny.model(
        num_layers=1,
        moe_every=1,
        experts=tiny.moe_config(eval_capacity_factor=4.0, capacity_factor=0.5),
    )
    inputs = tiny.inputs()
    sums, nll_BT, choices = held_out.eval_step_of(tiny.task_of(config))(
        tiny.state(config), inputs, jnp.int32(0)
    )
    np.testing.assert_allclose(nll_BT.sum(), sums.nll, rtol=1e-5)
    assert not np.asarray(nll_BT)[np.asarray(inputs.segment_BT) == 0].any()
    assert sums.targets == (inputs.segment_BT > 0).sum()
    np.testing.assert_array_equal(sums.router_stats.kept_KE, sums.router_stats.chosen_KE)
    assert choices.shape == (1, tiny.B, tiny.T, 1)
