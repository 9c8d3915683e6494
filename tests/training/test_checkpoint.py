"""Checkpoints come back bit for bit, on any mesh."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint.experimental import v1 as orbax

from moe.training import checkpoint, step
from tests import tiny

CHAIN = optax.adam(1e-3)


def state(number=0, seed=0) -> step.State:
    """A model and moments that are not zero, on the current mesh."""
    params = tiny.params(tiny.sparse(num_experts=8), seed)
    moments = jax.tree.map(lambda x: x * 3 if x.ndim else x, jax.jit(CHAIN.init)(params))
    moments = (moments[0]._replace(mu=params, count=jnp.int32(number)), *moments[1:])
    return step.State(jnp.int32(number), params, moments)


def test_nothing_to_restore(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.restore(state()) is None
    checkpoints.close()


@pytest.mark.parametrize(
    ("mesh", "zero"), [("none", False), ("1x8", False), ("2x4", False), ("2x2x2", True)]
)
def test_from_one_mesh_to_another(tmp_path, mesh, zero):
    """Saved on 2 x 4; restored where and as the template lies."""
    with tiny.on("2x4"):
        checkpoints = checkpoint.Checkpoints(tmp_path)
        saved = state(7)
        checkpoints.save(7, saved, seconds=1.5)
        checkpoints.close()
    with tiny.on(mesh, zero=zero):
        template = state(0, seed=1)
        checkpoints = checkpoint.Checkpoints(tmp_path)
        restored, seconds = checkpoints.restore(template)
        checkpoints.close()
    tiny.assert_equal(tiny.host(restored), tiny.host(saved))
    assert seconds == 1.5 and restored.step == 7
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, restored, template)
    assert all(jax.tree.leaves(same))


class Older(NamedTuple):
    """The state before routers could have one."""

    step: jax.Array
    params: dict
    optimizer: tuple


def test_a_checkpoint_from_before_routers_had_a_state(tmp_path):
    saved = state(7)
    old = orbax.training.Checkpointer(str(tmp_path / "checkpoints"))
    old.save(7, Older(*saved[:3]), custom_metadata={"seconds": 1.5})
    old.close()
    checkpoints = checkpoint.Checkpoints(tmp_path)
    restored, seconds = checkpoints.restore(state(0, seed=1))
    checkpoints.close()
    assert seconds == 1.5 and restored.router_state == {}
    tiny.assert_equal(tiny.host(restored), tiny.host(saved))


def test_the_routers_state_comes_back(tmp_path):
    saved = state(7)._replace(router_state={"bias": jnp.arange(4.0)})
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(7, saved, seconds=1.5)
    restored, _ = checkpoints.restore(state(0)._replace(router_state={"bias": jnp.zeros(4)}))
    tiny.assert_equal(restored.router_state, saved.router_state)
    with pytest.raises(ValueError, match="saved by other code"):
        checkpoints.restore(state(0))
    checkpoints.close()


def test_the_latest_counts(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for number in (2, 10, 11):
        checkpoints.save(number, state(number, seed=number), seconds=float(number))
    restored, seconds = checkpoints.restore(state())
    checkpoints.close()
    assert restored.step == 11 and seconds == 11.0
    tiny.assert_equal(tiny.host(restored.params), tiny.host(state(11, seed=11).params))


def test_a_step_is_saved_once(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(3, state(3), seconds=1.0)
    checkpoints.save(3, state(3, seed=1), seconds=2.0)
    restored, seconds = checkpoints.restore(state())
    checkpoints.close()
    assert seconds == 1.0
    tiny.assert_equal(tiny.host(restored.params), tiny.host(state(3).params))


def holding(params) -> step.State:
    return step.State(jnp.int32(1), params, {"count": jnp.int32(1)})


def test_another_structure_is_refused_in_one_line(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, holding({"a": jnp.ones((2, 3)), "b": jnp.ones(4)}), seconds=0.0)
    with pytest.raises(ValueError, match=r"has params/a \(2, 3\) and lacks params/a \(5,\)"):
        checkpoints.restore(holding({"a": jnp.ones(5), "b": jnp.ones(4)}))
    checkpoints.close()


@pytest.mark.parametrize("mesh", ["none", "2x4"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, mesh, value):
    with tiny.on(mesh):
        sound = state(3)
        spoiled = sound._replace(params=jax.tree.map(lambda x: x * value, sound.params))
        checkpoints = checkpoint.Checkpoints(tmp_path)
        with pytest.raises(FloatingPointError, match="step 2: .*there is no earlier checkpoint"):
            checkpoints.save(2, spoiled, seconds=1.0)
        checkpoints.save(3, sound, seconds=1.0)
        with pytest.raises(FloatingPointError, match="step 4: .*checkpoint of step 3 is sound"):
            checkpoints.save(4, spoiled, seconds=1.0)
        assert checkpoints.restore(state(0))[0].step == 3
        checkpoints.close()


def test_numbers_survive(tmp_path):
    """Types too: bfloat16, int32, and a number without an axis."""
    tree = {"a": jnp.arange(3, dtype=jnp.bfloat16), "b": jnp.int32(5), "c": jnp.float32(np.pi)}
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, holding(tree), seconds=0.0)
    restored = checkpoints.restore(holding(jax.tree.map(jnp.zeros_like, tree)))[0].params
    checkpoints.close()
    assert {k: (v.dtype, v.shape) for k, v in restored.items()} == {
        k: (v.dtype, v.shape) for k, v in tree.items()
    }
    tiny.assert_equal(restored, tree)
