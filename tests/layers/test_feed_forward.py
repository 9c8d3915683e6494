"""Feed-forwards, dense and in banks, against NumPy."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import ffn
from moe.layers import feed_forward
from tests import tiny

D = 4
F = 6
E = 3
ERF = np.vectorize(math.erf)
NUMPY = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + ERF(x / np.sqrt(2))),
    "geglu": lambda x: 0.5 * x * (1 + ERF(x / np.sqrt(2))),
    "swiglu": lambda x: x / (1 + np.exp(-x)),
}


def draw(activation, bank=()):
    rng = np.random.default_rng(0)
    names = ("w_in", "w_gate", "w_out") if activation in ("geglu", "swiglu") else ("w_in", "w_out")
    shapes = {"w_in": (*bank, D, F), "w_gate": (*bank, D, F), "w_out": (*bank, F, D)}
    return {name: rng.normal(size=shapes[name]).astype(np.float32) for name in names}


def by_hand(activation, x, w):
    h = x @ w["w_in"]
    if "w_gate" in w:
        return (NUMPY[activation](x @ w["w_gate"]) * h) @ w["w_out"]
    return NUMPY[activation](h) @ w["w_out"]


class FeedForward(nn.Module):
    """The weights and what is computed with them, as a layer has it."""

    activation: str
    num_experts: int | None = None
    dtype: str = "float32"
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        weights = feed_forward.FeedForwardWeights(
            F, self.activation, 1.0, self.dtype, self.num_experts, name="ffn"
        )(x.shape[-1])
        tokens, experts = ("BT", "") if self.num_experts is None else ("EGC", "E")

        def drop(h):
            if not (train and self.rate):
                return h
            return feed_forward.dropout(h, self.rate, self.make_rng("dropout"), tokens[:-1] + "F")

        return ffn.apply(x, weights, self.activation, tokens, experts, hidden_fn=drop)


def layer(activation, num_experts=None, dtype="float32"):
    return FeedForward(activation, num_experts, dtype)


@pytest.mark.parametrize("activation", ffn.ACTIVATIONS)
def test_dense(activation):
    x_BTD = np.random.default_rng(1).normal(size=(2, 3, D)).astype(np.float32)
    w = draw(activation)
    got = jax.jit(layer(activation).apply)({"params": {"ffn": w}}, x_BTD)
    # jax.nn.gelu is the tanh approximation, which is within 0.005 of the real one.
    tiny.assert_close(got, by_hand(activation, x_BTD, w), rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("activation", ffn.ACTIVATIONS)
def test_a_bank_is_its_experts_one_by_one(activation):
    x_EGCD = np.random.default_rng(1).normal(size=(E, 2, 5, D)).astype(np.float32)
    w = draw(activation, bank=(E,))
    got = jax.jit(layer(activation, E).apply)({"params": {"ffn": w}}, x_EGCD)
    dense = jax.jit(layer(activation).apply)
    for e in range(E):
        one = {name: x[e] for name, x in w.items()}
        tiny.assert_close(got[e], dense({"params": {"ffn": one}}, x_EGCD[e]))


@pytest.mark.parametrize("activation", ffn.ACTIVATIONS)
@pytest.mark.parametrize("num_experts", [None, E])
def test_parameters(activation, num_experts):
    lead = () if num_experts is None else (E,)
    x = jnp.zeros((*lead, 2, 5, D))
    shapes = jax.eval_shape(layer(activation, num_experts).init, jax.random.key(0), x)["params"][
        "ffn"
    ]
    want = {name: w.shape for name, w in draw(activation, lead).items()}
    assert {name: x.shape for name, x in shapes.items()} == want
    assert all(x.dtype == jnp.float32 for x in shapes.values())
    assert len(shapes) == ffn.num_matrices(activation)


def test_arithmetic_is_in_the_given_type():
    x_BTD = jnp.zeros((1, 2, D), jnp.bfloat16)
    module = layer("swiglu", dtype="bfloat16")
    y = jax.eval_shape(module.apply, {"params": {"ffn": draw("swiglu")}}, x_BTD)
    assert y.dtype == jnp.bfloat16
