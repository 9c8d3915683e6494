"""What a feed-forward computes: one dense layer, or a bank of E experts with packed weights.

Plain: act(x W_in) W_out (Vaswani et al. 2017, equation 2). Gated: (act(x W_gate) * x W_in) W_out
(Shazeer 2020, "GLU variants improve transformer"). A bank is the same with an E axis.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from moe import matmul, sharding

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


def apply(
    x, weights: Weights, activation: str, tokens: str, bank: str = "",
    *, between: Callable = lambda h: h, layout=None,
):  # fmt: skip
    """The feed-forward of x, whose letters are `tokens` + D; the result has the same.

    Args:
      tokens: after the bank's letter none, one, or two, which are one meanwhile.
      bank: "E" if weights have an E axis.
      between: is done to hidden units.
      layout: of the result, as of `sharding.out_sharding`; of two axes of tokens it is what they
      say.
    """
    rows = tokens.removeprefix(bank)
    if len(rows) == 2:
        short, letters = bank + rows[0], tokens + "D"
        layout = sharding.out_sharding(short + "D")
        one = lambda x: apply(  # noqa: E731
            x, weights, activation, short, bank, between=between, layout=layout
        )
        return matmul.flatten_tokens(one, x, rows, letters, letters)
    function, gated = ACTIVATIONS[activation]
    into, out_of = f"{tokens}D,{bank}DF->{tokens}F", f"{tokens}F,{bank}FD->{tokens}D"
    h = jnp.einsum(into, x, weights.w_in)
    h = function(jnp.einsum(into, x, weights.w_gate)) * h if gated else function(h)
    return jnp.einsum(out_of, between(h), weights.w_out, out_sharding=layout)
