"""The mesh: what it refuses, where it puts arrays, and that no result depends on it."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from moe import sharding
from moe.training import step
from tests import tiny


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((2, 4), (2, 4, 1)), ((-1, 4), (2, 4, 1)), ((4, -1), (4, 2, 1)), ((-1, 1), (8, 1, 1)),
        ((1, 8), (1, 8, 1)), ((-1, 2, 2), (2, 2, 2)), ((1, 2, -1), (1, 2, 4)),
    ],
)  # fmt: skip
def test_make_mesh(sizes, shape):
    mesh = sharding.make_mesh(*sizes)
    assert mesh.devices.shape == shape and mesh.axis_names == ("data", "expert", "model")
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Explicit}


@pytest.mark.parametrize(
    "sizes",
    [(3, -1), (-1, -1), (2, 2), (16, 1), (0, -1), (-2, -4), (-1, 0), (-1, -2), (2, 2, 3)],
)  # fmt: skip
def test_a_mesh_that_does_not_fit(sizes):
    data, expert, model = (*sizes, 1)[:3]
    message = f"data={data}, expert={expert}, model={model} does not fit 8 devices"
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(*sizes)


def test_a_mesh_that_does_not_fit_the_links(monkeypatch):
    """As data=2, expert=64 on a torus of 4 x 4 x 8."""

    def refuse(*_, **__):
        raise NotImplementedError("no such sides")

    monkeypatch.setattr(jax, "make_mesh", refuse)
    with pytest.raises(ValueError, match="'data': 2, 'expert': 4, 'model': 1}: no such sides"):
        sharding.make_mesh(2, 4)


def test_some_devices():
    assert sharding.make_mesh(1, -1, devices=jax.devices()[:2]).devices.shape == (1, 2, 1)


def test_the_leftmost_letter_claims_first():
    tokens = ("data", "expert")
    assert sharding.spec("BTD") == P(tokens, None, None)
    assert sharding.spec("GSE") == P(tokens, None, None)
    assert sharding.spec("EGCD") == P("expert", "data", None, None)
    assert sharding.spec("EDF") == P("expert", None, "model")
    assert sharding.spec("BTNH") == P(tokens, None, "model", None)
    assert sharding.spec("VD") == P("model", None)
    assert sharding.spec("D.") == P(None, None)


def test_at_rest_d_claims_what_is_left_under_zero():
    with tiny.on("2x2x2"):
        assert sharding.at_rest("EDF") == sharding.spec("EDF")
    with tiny.on("2x2x2", zero=True):
        assert sharding.at_rest("EDF") == P("expert", "data", "model")
        assert sharding.at_rest("NHD") == P("model", None, ("expert", "data"))
        assert sharding.at_rest("VD") == P("model", ("expert", "data"))
        assert sharding.spec("EDF") == P("expert", None, "model")
    with tiny.on("2x2x2"):
        assert sharding.at_rest("EDF") == sharding.spec("EDF")


def test_without_a_mesh():
    x = jnp.arange(6.0).reshape(2, 3)
    assert not sharding.current() and sharding.num_devices() == 1
    assert sharding.out_sharding("BT") is None and sharding.reshard(x, "BT") is x
    assert sharding.map_groups(len) is len
    np.testing.assert_array_equal(sharding.shard_batch({"x": np.ones(3)})["x"], np.ones(3))


def test_put():
    rows = np.arange(16).reshape(8, 2)
    with tiny.on("2x4"):
        x = sharding.shard_batch((rows,))[0]
        assert x.sharding.spec == sharding.spec("B") and sharding.num_devices() == 8
        np.testing.assert_array_equal(x, rows)
        assert [s.data.tolist() for s in x.addressable_shards] == rows[:, None].tolist()


def test_copies_along_the_model_axis_are_made_once():
    asked = []
    with tiny.on("2x2x2"):
        x = sharding.shard_rows(lambda numbers: asked.append(numbers) or numbers[:, None], 8)
    assert len(asked) == 1 and asked[0].tolist() == list(range(8))
    assert [s.data.ravel().tolist() for s in x.addressable_shards[:4]] == [
        [0, 1],
        [0, 1],
        [2, 3],
        [2, 3],
    ]


def check(data, expert, model=1, **changes):
    tokens = sharding.TOKENS
    needs = {"batch_size": (16, tokens), "num_experts": (8, ("expert",)), "heads": (4, ("model",))}
    needs |= {name: (number, needs[name][1]) for name, number in changes.items()}
    sharding.check(sharding.make_mesh(data, expert, model), needs)


def test_what_fits():
    check(2, 4)
    check(8, 1, num_experts=7)
    check(2, 1, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "batch_size=12 is .* by mesh.data x mesh.expert=8.* 8 and 16"),
        ({"num_experts": 6}, "num_experts=6 is .* mesh.expert=4; .* fit: 4 and 8; .*: 1 and 2"),
        ({"batch_size": 3}, r"batch_size=3 is not divisible .*=8"),
        ({"num_experts": 2}, "num_experts=2 is .*=4; nearest num_experts that fit: 4; .*: 1 and 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        check(2, 4, **changes)


def recorder() -> optax.GradientTransformation:
    """Keeps the last gradients in the optimizer's state, where a test can read them."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, *_: (grads, grads)
    )


CHAIN = optax.chain(recorder(), optax.adam(3e-3))


class First(NamedTuple):
    """What the first step of Adam from random parameters gives, and the compiled program."""

    metrics: dict
    gradients: dict
    params: dict
    program: jax.stages.Compiled


@functools.cache
def first_step(config, mesh, accumulate=1, zero=False, **execution) -> First:
    with tiny.on(mesh, zero):
        state = tiny.state(config, CHAIN)
        batch = tiny.put(tiny.inputs(16))
        train_step = step.make_train_step(tiny.task_of(config, **execution), CHAIN, 0, accumulate)
        train_step = train_step.lower(state, batch).compile()
        state, metrics = train_step(state, batch)
        assert int(state.step) == 1
        return First(*tiny.host((metrics, state.optimizer[0], state.params)), train_step)


GATHER = {"dispatcher": "gather"}  # no dispatcher changes anything either


def assert_mesh_changes_nothing(config, mesh, accumulate=1, zero=False, **execution):
    got = first_step(config, mesh, accumulate, zero, **execution)
    alone = dataclasses.replace(config, experts=dataclasses.replace(config.experts, **GATHER))
    want = first_step(alone, "none")
    assert want.metrics["dropped"] > 0.1
    tiny.assert_close(got.metrics, want.metrics)
    tiny.assert_close(got.gradients, want.gradients, atol=2e-6)
    # Adam's first step is +-0.003 whatever the size of a gradient, so rounding around 0 shows here.
    certain = jax.tree.map(lambda g: np.abs(g) > 1e-4, want.gradients)
    assert np.mean([x.mean() for x in jax.tree.leaves(certain)]) > 0.8
    got, want = (jax.tree.map(np.where, certain, x.params, want.params) for x in (got, want))
    tiny.assert_close(got, want)


EVERY_MESH = tiny.model(
    num_layers=1, moe_every=1, num_heads=4, num_kv_heads=2, experts=tiny.moe_config(num_experts=8)
)


@pytest.mark.parametrize(
    ("mesh", "name"), [*((mesh, "gather") for mesh in tiny.MESHES), ("2x2x2", "einsum")]
)
def test_no_result_depends_on_the_mesh(mesh, name):
    """A dispatcher sees the groups of one device alone: one mesh will do for the second."""
    experts = dataclasses.replace(EVERY_MESH.experts, dispatcher=name)
    assert_mesh_changes_nothing(dataclasses.replace(EVERY_MESH, experts=experts), mesh)


EVERYTHING = tiny.model(
    num_layers=2, moe_every=1, num_dense_layers=1, num_heads=4, position="relative",
    tie_embeddings=False,
    activation="swiglu", remat=True,
    experts=tiny.moe_config(
        k=2, jitter=0.1, group_size=2 * tiny.T, dispatcher="einsum", capacity_factor=0.75
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "transport", "policy"),
    [("gather", "all_gather", "full"), ("einsum", "constraint", "products")],
)
def test_nor_on_how_parameters_lie_and_tokens_travel(name, transport, policy):
    """ZeRO, groups of two sequences, jitter, relative positions, gates, remat, a dense layer."""
    config = dataclasses.replace(
        EVERYTHING, experts=dataclasses.replace(EVERYTHING.experts, dispatcher=name)
    )
    how = {"transport": transport, "remat_policy": policy}
    assert_mesh_changes_nothing(config, "2x2x2", zero=True, **how)


def test_nor_on_micro_batches_on_a_mesh():
    assert_mesh_changes_nothing(EVERY_MESH, "2x4x1", accumulate=2)


def test_twenty_steps_are_the_same_on_a_mesh():
    """So are the losses of a whole short run, in which every step builds on the last."""
    losses = {}
    for mesh in ("1x1x1", "2x4x1"):
        train_step = first_step(EVERY_MESH, mesh).program
        with tiny.on(mesh):
            state = tiny.state(EVERY_MESH, CHAIN)
            losses[mesh] = []
            for i in range(20):
                state, metrics = train_step(state, tiny.put(tiny.inputs(16, seed=i % 2)))
                losses[mesh].append(float(metrics["loss"]))
    one, many = losses.values()
    assert one[-1] < one[0] - 0.05
    np.testing.assert_allclose(many, one, rtol=1e-5)
