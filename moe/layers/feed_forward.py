"""The weights of a feed-forward, or of a bank of E: `ffn` says what they compute."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import ffn, sharding
from moe.layers import weights


class FeedForward(nn.Module):
    """x_BTD -> y_BTD; with num_experts, x_EGCD -> y_EGCD where expert e computes row e.

    Args of `__call__`:
      by: (x, weights) -> y instead, for x of any layout.
    """

    d_ff: int
    activation: str
    init_scale: float
    dtype: str
    num_experts: int | None = None
    dropout: float = 0.0  # of hidden units, in training

    @nn.compact
    def __call__(self, x, train: bool = False, by: Callable | None = None):
        own = self.weights(x.shape[-1])
        if by is not None:
            return by(x, own)
        tokens, experts = ("BT", "") if self.num_experts is None else ("EGC", "E")
        drops = train and self.dropout
        return ffn.apply(
            x, own, self.activation, tokens, experts,
            between=(lambda h: self.drop(h, tokens[:-1] + "F")) if drops else (lambda h: h),
        )  # fmt: skip

    def weights(self, D) -> ffn.Weights:
        """The matrices, born sharded."""
        E, F = "" if self.num_experts is None else "E", self.d_ff
        w_in, w_gate = self.matrix("w_in", E + "DF", D, F), None
        if ffn.ACTIVATIONS[self.activation][1]:
            w_gate = self.matrix("w_gate", E + "DF", D, F)
        return ffn.Weights(w_in, self.matrix("w_out", E + "FD", F, D), w_gate)

    def drop(self, h, letters):
        """Srivastava et al. 2014: zeros with this probability, the rest scaled up."""
        key, keep, layout = (
            self.make_rng("router"),
            1 - self.dropout,
            sharding.out_sharding(letters),
        )
        kept = jax.random.bernoulli(key, keep, h.shape, out_sharding=layout)
        return jnp.where(kept, h / keep, 0)

    def matrix(self, name, letters, fan_in, fan_out):
        shape = (
            (fan_in, fan_out) if self.num_experts is None else (self.num_experts, fan_in, fan_out)
        )
        return weights.weight(
            self, name, letters, shape, fan_in=fan_in, scale=self.init_scale, dtype=self.dtype
        )
