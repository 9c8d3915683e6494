"""Schedules at literal steps, decay where it belongs, and both optimizers at work."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moe import models, sharding
from moe.training import optimizer, step
from tests import tiny

NAMES = pytest.mark.parametrize("name", ["adamw", "adafactor"])


def config(**changes) -> optimizer.OptimizerConfig:
    return optimizer.OptimizerConfig(**{"learning_rate": 0.1, "warmup_steps": 10, **changes})


def rates(schedule, steps, at):
    rate = optimizer.schedule(config(schedule=schedule, learning_rate=2.0), steps)
    return [float(rate(n)) for n in at]


def test_cosine():
    """Up to 2 in 10 steps, half way down at 60, a tenth at the end and after it."""
    got = rates("cosine", 110, [0, 5, 10, 35, 60, 110, 500])
    quarter = 0.2 + 1.8 * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(got, [0, 1, 2, quarter, 1.1, 0.2, 0.2], atol=1e-6)


def test_inverse_square_root():
    got = rates("inverse_sqrt", 110, [0, 5, 10, 40, 90, 1000])
    np.testing.assert_allclose(got, [0, 1, 2, 1, 2 / 3, 0.2], atol=1e-6)


def test_warmup_stable_decay():
    """Up to 2 in 10 steps, stays until 80, in a line to zero at 100."""
    got = rates("wsd", 100, [0, 5, 10, 79, 80, 90, 100, 500])
    np.testing.assert_allclose(got, [0, 1, 2, 2, 2, 1, 0, 0], atol=1e-6)
    without = optimizer.schedule(config(schedule="wsd", decay_fraction=0.0), 100)
    assert float(without(100)) == pytest.approx(0.1)


def test_a_longer_run_begins_with_the_same_steps():
    some = config(schedule="wsd")
    short, long = (optimizer.schedule(some, steps) for steps in (50, 100))
    shared = some.stable_steps(50)
    assert shared == 40
    assert [float(short(n)) for n in range(41)] == [float(long(n)) for n in range(41)]
    assert float(short(41)) < float(long(41))


def test_a_fraction_without_decay_is_refused():
    with pytest.raises(ValueError, match="decay_fraction=0.5 does nothing with schedule='cosine'"):
        config(schedule="cosine", decay_fraction=0.5)


def test_a_run_shorter_than_its_warmup():
    assert rates("cosine", 3, [0, 3, 10]) == pytest.approx([0, 0.6, 2])


@pytest.mark.parametrize("position", ["rotary", "relative"])
def test_decay_touches_matrices_only(position):
    shapes = models.parameter_shapes(tiny.model(position=position))
    decayed = jax.tree_util.tree_leaves_with_path(optimizer.decayed(shapes))
    spared = {jax.tree_util.keystr(path[-1:]) for path, yes in decayed if not yes}
    touched = {jax.tree_util.keystr(path[-1:]) for path, yes in decayed if yes}
    biases = {"['relative']"} if position == "relative" else set()
    assert spared == {"['scale']"} | biases
    attention = {f"['w_{name}']" for name in "qkvo"}
    assert touched == {"['embed']", "['router']", "['w_in']", "['w_out']"} | attention


def updates(name, grads, params, count=2, **changes):
    """The updates of the last of some equal steps; the first ones have a small learning rate."""
    tx = optimizer.make(config(name=name, warmup_steps=1, **changes), 10)
    state = tx.init(params)
    for _ in range(count):
        result, state = jax.jit(tx.update)(grads, state, params)
    return result, state


PARAMS = {"w": jnp.full((2, 3), 4.0), "norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)}}


@NAMES
def test_decay_is_the_rate_times_the_weight(name):
    """The same number means the same with both optimizers, and follows the schedule."""
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    got, _ = updates(name, zeros, PARAMS, weight_decay=0.5)
    np.testing.assert_allclose(got["w"], -0.1 * 0.5 * 4, rtol=1e-5)
    assert not got["norm"]["scale"].any() and not got["norm"]["bias"].any()
    got, _ = updates(name, zeros, PARAMS, count=1, weight_decay=0.5)
    assert not got["w"].any()  # the warm-up begins at 0


@NAMES
def test_without_decay_nothing_moves_by_itself(name):
    got, _ = updates(name, jax.tree.map(jnp.zeros_like, PARAMS), PARAMS)
    assert not any(x.any() for x in jax.tree.leaves(got))


@NAMES
def test_the_first_real_step_goes_against_the_gradient(name):
    grads = {
        "w": jnp.array([[1.0, -2, 3], [-4, 5, -6]]),
        "norm": {k: jnp.ones(3) for k in PARAMS["norm"]},
    }
    got, _ = updates(name, grads, PARAMS, clip_norm=1e9)
    np.testing.assert_array_equal(np.sign(got["w"]), -np.sign(grads["w"]))
    np.testing.assert_allclose(np.abs(got["w"]).max(), 0.1, rtol=0.05)


def test_gradients_are_clipped_by_their_common_norm():
    """(6, 8) of norm 10 counts as (0.6, 0.8): Adam's first moment tells."""
    grads = {"a": jnp.full(1, 6.0), "b": jnp.full(1, 8.0)}
    _, state = updates("adamw", grads, grads, count=1, clip_norm=1.0, b1=0.9)
    mu = next(x for x in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(x)).mu
    np.testing.assert_allclose([mu["a"][0], mu["b"][0]], [0.06, 0.08], rtol=1e-5)


def is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)


@NAMES
def test_the_state_keeps_its_layout_on_a_mesh(name):
    """A step compiled once takes the state that it returns; experts stay with their devices."""
    tx = optimizer.make(config(name=name, weight_decay=0.1), 10)

    def one(params, state):
        grads = jax.tree.map(jnp.sin, params)
        changes, state = tx.update(grads, state, params)
        return optax.apply_updates(params, changes), state

    with tiny.on("2x4"):
        params = {
            "w_in": sharding.reshard(jnp.ones((1, 4, 128, 128)), ".EDF"),  # large: it is factored
            "w_out": sharding.reshard(jnp.ones((1, 4, 8, 8)), ".EFD"),
            "scale": jnp.ones((1, 8)),
        }
        state = jax.jit(tx.init)(params)
        compiled = jax.jit(one).lower(params, state).compile()
        for _ in range(3):
            params, state = compiled(params, state)
        large = [x for x in jax.tree.leaves(state) if x.ndim == 4]
        assert all("expert" in jax.tree.leaves(tuple(x.sharding.spec)) for x in large)


def test_adafactor_trains():
    """Adam's turn is in test_step."""
    model = tiny.model(num_layers=1, moe_every=1)
    tx = optimizer.make(config(name="adafactor", learning_rate=0.02, warmup_steps=1), 10)
    params = tiny.params(model)
    state = step.State(jnp.int32(0), params, jax.jit(tx.init)(params))
    train_step = step.make_train_step(tiny.task_of(model), tx, 0)
    losses = []
    for _ in range(6):
        state, metrics = train_step(state, tiny.inputs())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.2 and losses[1:] == sorted(losses[1:], reverse=True)
