"""What a feed-forward computes: one dense layer, or E experts with packed weights.

Plain: act(x W_in) W_out (Vaswani et al. 2017, equation 2). Gated: (act(x W_gate) * x W_in) W_out
(Shazeer 2020, "GLU variants improve transformer"). Experts are the same with an E axis.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from moe import execution, matmul, sharding, target

ACTIVATIONS = {  # name -> (function, gated)
    "relu": (jax.nn.relu, False),
    "gelu": (jax.nn.gelu, False),
    "geglu": (jax.nn.gelu, True),
    "swiglu": (jax.nn.silu, True),
}


class Weights(NamedTuple):
    """The matrices of one feed-forward, or of E."""

    w_in: jax.Array  # DF or EDF
    w_out: jax.Array  # FD or EFD
    w_gate: jax.Array | None = None  # as w_in, where the activation is gated


def num_matrices(activation: str) -> int:
    """Matrices of D x F in one feed-forward: 2, or 3 if gated."""
    return 3 if ACTIVATIONS[activation][1] else 2


def identity(h: jax.Array) -> jax.Array:
    """The hidden units as they are."""
    return h


def apply(
    x: jax.Array,
    weights: Weights,
    activation: str,
    tokens: str,
    experts: str = "",
    *,
    hidden_fn: Callable[[jax.Array], jax.Array] = identity,
) -> jax.Array:
    """The feed-forward of x, whose axes are `tokens` + D; the result has the same.

    Args:
      x: of any number of token axes, up to two after an E.
      weights: of one feed-forward, or of E.
      activation: of `ACTIVATIONS`.
      tokens: einsum letters of the leading axes of x, as "S", "BT", "EC" or "EGC". Two token axes
        are flattened for the matrix products.
      experts: "E" if weights have an E axis, which must then be the first of x.
      hidden_fn: is applied to the hidden units, as dropout.
    """
    token_axes = tokens.removeprefix(experts)
    if len(token_axes) < 2:
        return _apply_to_rows(x, weights, activation, tokens, experts, hidden_fn, None)
    flat = experts + token_axes[0]
    layout = sharding.out_sharding(flat + "D")

    def on_rows(x: jax.Array) -> jax.Array:
        return _apply_to_rows(x, weights, activation, flat, experts, hidden_fn, layout)

    return matmul.flatten_tokens(on_rows, x, token_axes, tokens + "D", tokens + "D")


def _apply_to_rows(x, weights, activation, tokens, experts, hidden_fn, layout):
    """`apply` for at most one token axis; `layout` is that of the result on a mesh."""
    function, gated = ACTIVATIONS[activation]
    into = f"{tokens}D,{experts}DF->{tokens}F"
    out_of = f"{tokens}F,{experts}FD->{tokens}D"
    matrices = (weights.w_in, weights.w_gate)[: 1 + gated]
    inner: list[jax.Array] = [
        checkpoint_name(jnp.einsum(into, x, w), execution.PRODUCT) for w in matrices
    ]
    product: Callable = functools.partial(jnp.einsum, out_of, out_sharding=layout)
    (*_, S, F) = (1, *inner[0].shape)
    if target.platform() == "cpu" and S >= F:
        product = matmul.with_wide_gradient(out_of, layout)

    def out(w_out: jax.Array, *inner: jax.Array) -> jax.Array:
        return product(hidden_fn(hidden(function, *inner)), w_out)

    # On CPUs hidden units are made again for the gradient: cheaper than to keep them. Where it is
    # compiled for TPUs the same would cost experts twice the memory (experiments/RESULTS.md).
    again = jax.checkpoint(out) if target.platform() == "cpu" else out
    return checkpoint_name(again(weights.w_out, *inner), execution.PRODUCT)


def hidden(
    function: Callable[[jax.Array], jax.Array], a: jax.Array, gate: jax.Array | None = None
) -> jax.Array:
    """The hidden units: function(a), or gated function(gate) * a."""
    return function(a) if gate is None else function(gate) * a
