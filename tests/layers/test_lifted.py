"""Any module as an expert."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import MoEConfig, sharding
from moe.errors import UserError
from moe.layers import records
from moe.layers.lifted import LiftedMoELayer
from moe.layers.moe_layer import MoELayer

CONFIG = MoEConfig(num_experts=4, d_ff=1, k=2, capacity_factor=1.0, eval_capacity_factor=1.0)
X_BTD = np.asarray(jax.random.normal(jax.random.key(0), (8, 16, 8)))


class FeedForward(nn.Module):
    """What the house's experts are."""

    @nn.compact
    def __call__(self, x_BTD, mask_BT, train):
        del mask_BT, train
        h_BTF = nn.relu(nn.Dense(12, use_bias=False, name="w_in")(x_BTD))
        return nn.Dense(x_BTD.shape[-1], use_bias=False, name="w_out")(h_BTF)


class Recurrent(nn.Module):
    """Reads its tokens in their order."""

    @nn.compact
    def __call__(self, x_BTD, mask_BT, train):
        del train
        return nn.RNN(nn.GRUCell(x_BTD.shape[-1]))(x_BTD, seq_lengths=mask_BT.sum(-1))


class Running(nn.Module):
    """What a token is depends on all that come before it."""

    @nn.compact
    def __call__(self, x_BTD, mask_BT, train):
        del train
        return jnp.cumsum(nn.Dense(x_BTD.shape[-1])(x_BTD) * mask_BT[..., None], axis=1)


class Counting(nn.Module):
    """Has a variable that is no parameter."""

    @nn.compact
    def __call__(self, x_BTD, mask_BT, train):
        self.variable("cache", "calls", jnp.zeros, ())
        return x_BTD


def born(layer, x=X_BTD):
    """The parameters of a layer."""
    return jax.jit(layer.init)(jax.random.key(1), x)["params"]


def test_lifted_feed_forwards_are_the_experts_of_the_house():
    """Values and gradients, with drops."""
    ours = MoELayer(dataclasses.replace(CONFIG, d_ff=12), "relu")
    lifted = LiftedMoELayer(CONFIG, expert=FeedForward())
    params = born(ours)
    moved = {name: {"kernel": w} for name, w in params["experts"].items()}

    def value(layer, params, x):
        return jnp.square(layer.apply({"params": params}, x)).sum()

    dw, dx = jax.jit(jax.grad(lambda p, x: value(ours, p, x), (0, 1)))(params, X_BTD)
    of_lifted = jax.jit(jax.grad(lambda p, x: value(lifted, p, x), (0, 1)))
    dw_lifted, dx_lifted = of_lifted(params | {"experts": moved}, X_BTD)
    np.testing.assert_allclose(dx_lifted, dx, rtol=1e-5, atol=1e-5)
    for name, found in dw_lifted["experts"].items():
        np.testing.assert_allclose(found["kernel"], dw["experts"][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dispatcher", ["gather", "oracle"])
def test_an_expert_reads_its_own_tokens_in_their_order(dispatcher):
    """Those that chose it, or all of them with the oracle."""
    config = dataclasses.replace(CONFIG, dispatcher=dispatcher, eval_capacity_factor=2.0)
    layer = LiftedMoELayer(config, expert=Running())
    params = born(layer)
    run = jax.jit(lambda p: layer.apply({"params": p}, X_BTD, mutable=["router"]))
    y_BTD, sown = run(params)
    choice = sown["router"]["record"].assignment
    want_BTD = np.zeros_like(X_BTD)
    for e in range(4):
        dense = {name: np.asarray(w[e]) for name, w in params["experts"]["Dense_0"].items()}
        for b in range(2):
            gate_T = np.where(choice.expert_GSK[b] == e, choice.gate_GSK[b], 0).sum(-1)
            read = np.flatnonzero(gate_T) if dispatcher == "gather" else np.arange(16)
            y_TD = (X_BTD[b, read] @ dense["kernel"] + dense["bias"]).cumsum(0)
            want_BTD[b, read] += gate_T[read, None] * y_TD
    np.testing.assert_allclose(y_BTD[:2], want_BTD[:2], atol=1e-5)


@pytest.mark.parametrize("expert", [FeedForward(), Recurrent()])
def test_a_mesh_computes_the_same(expert):
    """Values and gradients on 2 x 4 devices."""
    layer = LiftedMoELayer(CONFIG, expert=expert)
    params = born(layer)

    def loss(params, x):
        return jnp.square(layer.apply({"params": params}, x)).sum()

    want, want_grad = jax.jit(jax.value_and_grad(loss))(params, X_BTD)
    with sharding.on(sharding.make_mesh(2, 4, 1)):
        laid = jax.jit(layer.init)(jax.random.key(1), sharding.reshard(X_BTD, "BTD"))["params"]
        x_BTD = sharding.reshard(X_BTD, "BTD")
        got, got_grad = jax.jit(jax.value_and_grad(loss))(laid, x_BTD)
        leaf = jax.tree.leaves(laid["experts"])[0]
        assert sharding.layout(leaf)[0] == "expert"
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(got_grad), jax.tree.leaves(want_grad), strict=True):
        np.testing.assert_allclose(jax.device_get(a), b, rtol=1e-4, atol=1e-4)


def test_mixtures_nest_and_leave_records_of_both_levels():
    """Every token of an inner mixture is one that an outer expert has a slot for."""
    inner = MoELayer(MoEConfig(num_experts=3, d_ff=4), "relu")
    layer = LiftedMoELayer(CONFIG, expert=inner)
    params = born(layer)
    assert params["experts"]["experts"]["w_in"].shape == (4, 3, 8, 4)
    _, sown = jax.jit(lambda p: layer.apply({"params": p}, X_BTD, mutable=["router"]))(params)
    found = records.by_path(sown)
    (outer,) = (record for path, record in found.items() if "experts" not in path)
    (inside,) = (record for path, record in found.items() if "experts" in path)
    np.testing.assert_array_equal(inside.stats.tokens, outer.stats.kept_KE.sum((0, 1)))


@pytest.mark.parametrize(
    ("changes", "expert", "said"),
    [
        ({"dispatcher": "grouped", "capacity_factor": 0.0}, FeedForward(), "has no slots"),
        ({"d_ff": 8}, FeedForward(), "experts.d_ff=8 is of feed-forwards"),
        ({"shared_experts": 1}, FeedForward(), "experts.shared_experts=1"),
        ({}, None, "give a Flax module"),
        ({}, Counting(), "Counting has cache"),
    ],
)
def test_what_lifted_experts_do_not_take(changes, expert, said):
    """Each refusal says what to change."""
    if "dispatcher" in changes:
        changes = {**changes, "eval_capacity_factor": 0.0}
    layer = LiftedMoELayer(dataclasses.replace(CONFIG, **changes), expert=expert)
    with pytest.raises(UserError, match=said):
        jax.eval_shape(layer.init, jax.random.key(0), X_BTD)


def test_mixtures_within_mixtures_need_one_device():
    """Their statistics are sums over parts of a mesh."""
    layer = LiftedMoELayer(CONFIG, expert=MoELayer(MoEConfig(num_experts=3, d_ff=4), "relu"))
    with sharding.on(sharding.make_mesh(2, 4, 1)), pytest.raises(UserError, match="one device"):
        jax.eval_shape(layer.init, jax.random.key(1), sharding.reshard(X_BTD, "BTD"))
