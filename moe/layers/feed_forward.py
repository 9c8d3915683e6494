"""The weights of a feed-forward, or of E experts: `moe.ffn` says what is computed with them."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import ffn, sharding
from moe.layers import weights


class FeedForwardWeights(nn.Module):
    """d_model -> `ffn.Weights`, of one feed-forward or packed for num_experts of them."""

    d_ff: int
    activation: str
    init_scale: float
    dtype: str
    num_experts: int | None = None

    @nn.compact
    def __call__(self, d_model: int) -> ffn.Weights:
        E = "" if self.num_experts is None else "E"
        w_in = self.matrix("w_in", E + "DF", d_model, self.d_ff)
        w_gate = None
        if ffn.ACTIVATIONS[self.activation][1]:
            w_gate = self.matrix("w_gate", E + "DF", d_model, self.d_ff)
        w_out = self.matrix("w_out", E + "FD", self.d_ff, d_model)
        return ffn.Weights(w_in, w_out, w_gate)

    def matrix(self, name: str, letters: str, fan_in: int, fan_out: int) -> jax.Array:
        shape: tuple[int, ...] = (fan_in, fan_out)
        if self.num_experts is not None:
            shape = (self.num_experts, fan_in, fan_out)
        return weights.weight(
            self, name, letters, shape, fan_in=fan_in, scale=self.init_scale, dtype=self.dtype
        )


def dropout(h: jax.Array, rate: float, key: jax.Array, letters: str) -> jax.Array:
    """Zeros with probability `rate`, the rest scaled up (Srivastava et al. 2014).

    Args:
      h: hidden units.
      rate: below 1.
      key: of what is drawn.
      letters: of h's axes, so that a mesh draws the same.
    """
    keep = 1 - rate
    layout = sharding.out_sharding(letters)
    kept = jax.random.bernoulli(key, keep, h.shape, out_sharding=layout)
    return jnp.where(kept, h / keep, 0)
