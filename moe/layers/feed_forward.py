"""What a feed-forward computes: one dense layer, or a bank of E experts with packed weights.

Plain: act(x W_in) W_out (Vaswani et al. 2017, equation 2). Gated: (act(x W_gate) * x W_in) W_out
(Shazeer 2020, "GLU variants improve transformer"). A bank is the same with an E axis.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import sharding
from moe.layers import weights

ACTIVATIONS = {  # name -> (function, gated)
    "relu": (jax.nn.relu, False),
    "gelu": (jax.nn.gelu, False),
    "geglu": (jax.nn.gelu, True),
    "swiglu": (jax.nn.silu, True),
}


def num_matrices(activation: str) -> int:
    """Matrices of D x F in one feed-forward: 2, or 3 if gated."""
    return 3 if ACTIVATIONS[activation][1] else 2


class FeedForward(nn.Module):
    """x_BTD -> y_BTD; with num_experts, x_EGCD -> y_EGCD where expert e computes row e."""

    d_ff: int
    activation: str
    init_scale: float
    dtype: str
    num_experts: int | None = None
    dropout: float = 0.0  # of hidden units, in training

    @nn.compact
    def __call__(self, x, train: bool = False):
        tokens, bank = ("BT", "") if self.num_experts is None else ("EGC", "E")
        function, gated = ACTIVATIONS[self.activation]
        into, out_of = f"{tokens}D,{bank}DF->{tokens}F", f"{tokens}F,{bank}FD->{tokens}D"
        D, F = x.shape[-1], self.d_ff
        h = jnp.einsum(into, x, self.matrix("w_in", bank + "DF", D, F))
        if gated:
            h = function(jnp.einsum(into, x, self.matrix("w_gate", bank + "DF", D, F))) * h
        else:
            h = function(h)
        if train and self.dropout:
            h = self.drop(h, tokens + "F")
        w_out, layout = self.matrix("w_out", bank + "FD", F, D), sharding.out(tokens + "D")
        return jnp.einsum(out_of, h, w_out, out_sharding=layout)  # sums over 'model'

    def drop(self, h, letters):
        """Srivastava et al. 2014: zeros with this probability, the rest scaled up."""
        key, keep, layout = self.make_rng("router"), 1 - self.dropout, sharding.out(letters)
        kept = jax.random.bernoulli(key, keep, h.shape, out_sharding=layout)
        return jnp.where(kept, h / keep, 0)

    def matrix(self, name, letters, fan_in, fan_out):
        shape = (
            (fan_in, fan_out) if self.num_experts is None else (self.num_experts, fan_in, fan_out)
        )
        return weights.weight(
            self, name, letters, shape, fan_in=fan_in, scale=self.init_scale, dtype=self.dtype
        )
