"""The mesh: what it refuses, where it puts arrays, and that no result depends on it."""

import dataclasses
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from moe import dispatch, sharding
from moe.layers import moe
from moe.training import step
from tests import tiny


@pytest.mark.parametrize(
    ("data", "expert", "shape"),
    [(2, 4, (2, 4)), (-1, 4, (2, 4)), (4, -1, (4, 2)), (-1, 1, (8, 1)), (1, 8, (1, 8))],
)
def test_make_mesh(data, expert, shape):
    mesh = sharding.make_mesh(data, expert)
    assert mesh.devices.shape == shape and mesh.axis_names == ("data", "expert")
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Explicit}


@pytest.mark.parametrize(
    ("data", "expert"), [(3, -1), (-1, -1), (2, 2), (16, 1), (0, -1), (-2, -4), (-1, 0), (-1, -2)]
)
def test_a_mesh_that_does_not_fit(data, expert):
    with pytest.raises(ValueError, match=f"data={data}, expert={expert} does not fit 8 devices"):
        sharding.make_mesh(data, expert)


def test_some_devices():
    assert sharding.make_mesh(1, -1, devices=jax.devices()[:2]).devices.shape == (1, 2)


def test_the_leftmost_letter_claims_first():
    everyone = ("data", "expert")
    assert sharding.spec("BTD") == P(everyone, None, None)
    assert sharding.spec("GSE") == P(everyone, None, None)
    assert sharding.spec("EGCD") == P("expert", "data", None, None)
    assert sharding.spec("EDF") == P("expert", None, None)
    assert sharding.spec("D.") == P(None, None)


def test_without_a_mesh():
    x = jnp.arange(6.0).reshape(2, 3)
    assert not sharding.current() and sharding.num_devices() == 1
    assert sharding.out("BT") is None and sharding.reshard(x, "BT") is x
    assert sharding.over_groups(len) is len
    np.testing.assert_array_equal(sharding.put({"x": np.ones(3)})["x"], np.ones(3))


def test_put():
    rows = np.arange(16).reshape(8, 2)
    with tiny.on("2x4"):
        for put in (sharding.put, sharding.put_whole):
            x = put((rows,))[0]
            assert x.sharding.spec == sharding.spec("BT") and sharding.num_devices() == 8
            np.testing.assert_array_equal(x, rows)
            assert [s.data.tolist() for s in x.addressable_shards] == rows[:, None].tolist()


@pytest.mark.parametrize("mesh", ["none", *tiny.MESHES])
def test_to_experts_and_back_is_a_transpose(mesh):
    x = np.arange(8 * 8 * 3 * 2, dtype=np.float32).reshape(8, 8, 3, 2)
    with tiny.on(mesh):
        x_GECD = sharding.reshard(jnp.asarray(x), "GECD")
        x_EGCD = jax.jit(sharding.to_experts)(x_GECD)
        back_GECD = jax.jit(sharding.to_tokens)(x_EGCD)
        if mesh != "none":
            assert x_EGCD.sharding.spec == sharding.spec("EGCD")
            assert back_GECD.sharding.spec == sharding.spec("GECD")
        np.testing.assert_array_equal(x_EGCD, x.swapaxes(0, 1))
        np.testing.assert_array_equal(back_GECD, x)


def check(data, expert, **changes):
    mesh = sharding.make_mesh(data, expert)
    sharding.check(mesh, **{"batch": 16, "groups": 16, "experts": 8, **changes})


def test_what_fits():
    check(2, 4)
    check(8, 1, experts=7)
    check(8, 1, groups=None, experts=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 12}, "batch_size=12 is not divisible by the mesh's data x expert=8.* 8 and 16"),
        ({"groups": 20}, r"group_size\)=20 is not divisible .*=8; .* 16 and 24"),
        ({"experts": 6}, "num_experts=6 is not divisible by the mesh's expert=4.* 4 and 8"),
        ({"batch": 3}, r"batch_size=3 is not divisible .*=8"),
    ],
)
def test_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        check(2, 4, **changes)
    assert "8 and 8" not in str(error.value)


# The whole training step.


def recorder() -> optax.GradientTransformation:
    """Keeps the last gradients in the optimizer's state, where a test can read them."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, *_: (grads, grads)
    )


class First(NamedTuple):
    """What the first step of Adam from random parameters gives, and the compiled program."""

    metrics: dict
    gradients: dict
    params: dict
    program: str


@functools.cache
def first_step(config, mesh, accumulate=1) -> First:
    chain = optax.chain(recorder(), optax.adam(1e-2))
    with tiny.on(mesh):
        params, batch = tiny.params(config), tiny.put(tiny.inputs(16))
        state = step.State(jnp.int32(0), params, jax.jit(chain.init)(params))
        train_step = step.make_train_step(config, chain, 0, accumulate)
        train_step = train_step.lower(state, batch).compile()
        state, metrics = train_step(state, batch)
        assert int(state.step) == 1
        results = tiny.host((metrics, state.optimizer[0], state.params))
        return First(*results, train_step.as_text())


def assert_mesh_changes_nothing(config, mesh, accumulate=1):
    got, want = first_step(config, mesh, accumulate), first_step(config, "none")
    assert want.metrics["dropped"] > 0.1
    tiny.assert_close(got.metrics, want.metrics)
    tiny.assert_close(got.gradients, want.gradients, atol=2e-6)
    # Adam's first step is +-0.01 whatever the size of a gradient, so rounding around 0 shows here.
    certain = jax.tree.map(lambda g: np.abs(g) > 1e-4, want.gradients)
    assert np.mean([x.mean() for x in jax.tree.leaves(certain)]) > 0.8
    got, want = (jax.tree.map(np.where, certain, x.params, want.params) for x in (got, want))
    tiny.assert_close(got, want)


EVERY_MESH = tiny.model(num_layers=1, every=1, moe=tiny.moe(num_experts=8))


@pytest.mark.parametrize("mesh", ["1x1", "2x4", "8x1", "1x8"])
def test_no_result_depends_on_the_mesh(mesh):
    assert_mesh_changes_nothing(EVERY_MESH, mesh)


def test_no_result_depends_on_the_mesh_with_everything_on():
    """Groups of two sequences, two choices, jitter, relative positions, gates, remat, einsum."""
    config = tiny.model(
        num_layers=1, every=1, position="relative", activation="swiglu", remat=True,
        moe=tiny.moe(
            k=2, jitter=0.1, group_size=2 * tiny.T, dispatcher="einsum", capacity_factor=0.75
        ),
    )  # fmt: skip
    assert_mesh_changes_nothing(config, "2x4")


def test_nor_on_micro_batches_on_a_mesh():
    assert_mesh_changes_nothing(EVERY_MESH, "2x4", accumulate=2)


# What travels.


def collectives(text):
    """How many instructions of each collective a compiled program has."""
    kinds = re.findall(
        r"(all-gather|all-to-all|all-reduce|reduce-scatter|permute)[-start]*\(", text
    )
    return {kind: kinds.count(kind) for kind in kinds}


@pytest.mark.parametrize("name", [name for name in dispatch.DISPATCHERS if name != "oracle"])
def test_tokens_travel_there_and_back_and_nothing_is_gathered(name):
    """Two all-to-alls forward, two more backward, no all-gather of tokens or experts."""
    config = tiny.sparse(num_experts=8, k=2, dispatcher=name)
    layer = moe.MoELayer(config)

    def forward(params, x_BTD, mask_BT):
        y_BTD, _ = layer.apply({"params": params}, x_BTD, mask_BT, True, mutable=["router"])
        return jnp.square(y_BTD)

    with tiny.on("2x4"):
        arguments = tiny.experts_params(config), *tiny.layer_inputs(8, 8)
        once = jax.jit(forward).lower(*arguments).compile().as_text()
        backward = jax.grad(lambda *args: forward(*args).sum(), (0, 1))
        both = jax.jit(backward).lower(*arguments).compile().as_text()
    assert collectives(once) == {"all-to-all": 2}
    found = collectives(both)
    assert found.pop("all-to-all") == 4 and found.keys() == {"all-reduce"}


@pytest.mark.parametrize("router", ["top_k", "random"])
def test_noise_is_drawn_where_it_is_used(router):
    """No device draws the random bits of the tokens of all the others."""
    changes = {"jitter": 0.1} if router == "top_k" else {"balance_weight": 0.0, "z_weight": 0.0}
    layer = moe.MoELayer(tiny.sparse(num_experts=8, router=router, **changes))
    groups = 24

    def forward(params, x_BTD, mask_BT, key):
        rngs = {"router": key}
        return layer.apply({"params": params}, x_BTD, mask_BT, True, rngs=rngs, mutable="router")

    with tiny.on("8x1"):
        arguments = tiny.experts_params(layer.config), *tiny.layer_inputs(groups, 10)
        lowered = jax.jit(forward).lower(*arguments, jax.random.key(0))
    bits = set(re.findall(r"u32\[(\d+,10,8)\]", lowered.compile().as_text()))
    assert bits == {f"{groups // 8},10,8"}


def test_a_training_step_gathers_nothing():
    found = collectives(first_step(EVERY_MESH, "2x4").program)
    assert found.pop("all-to-all") == 4 and found.keys() == {"all-reduce"}


def test_experts_and_their_gradients_stay_with_their_devices():
    config = dataclasses.replace(EVERY_MESH, remat=True)
    with tiny.on("2x4"):
        params = tiny.params(config)
        shapes = jax.eval_shape(
            tiny.gradients(config), params, tiny.put(tiny.inputs()), jax.random.key(0)
        )[1]
        for tree in (params, shapes):
            experts = tree["block"]["layer_0"]["moe"]["experts"]
            assert {x.sharding.spec for x in experts.values()} == {P(None, "expert", None, None)}
