"""Causal self-attention inside documents, with rotary or relative positions.

Rotary: Su et al. 2021, section 3.4.2, on halves of H as in GPT-NeoX. Relative: a learned bias per
head and bucket of distance (Raffel et al. 2020, section 2.1), which GLaM uses.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe.layers import weights

BUCKETS, FAR = 32, 128


class Attention(nn.Module):
    """x_BTD -> y_BTD; a token attends to its own document up to itself."""

    num_heads: int
    d_head: int
    position: str
    init_scale: float
    dtype: str

    @nn.compact
    def __call__(self, x_BTD, segment_BT, position_BT):
        D, N, H = x_BTD.shape[-1], self.num_heads, self.d_head

        def matrix(name, letters, *shape, fan_in):
            w = weights.weight(self, name, letters, shape, fan_in=fan_in, scale=self.init_scale)
            return w.astype(self.dtype)

        q, k, v = (
            jnp.einsum("BTD,DNH->BTNH", x_BTD, matrix(f"w_{name}", "DNH", D, N, H, fan_in=D))
            for name in "qkv"
        )
        if self.position == "rotary":
            q, k = rotate(q, position_BT), rotate(k, position_BT)
            bias = None
        else:
            bias = self.relative_bias(x_BTD.shape[1])
        y_BTNH = attend(q, k, v, segment_BT, bias)
        return jnp.einsum("BTNH,NHD->BTD", y_BTNH, matrix("w_o", "NHD", N, H, D, fan_in=N * H))

    def relative_bias(self, length):
        table = self.param("relative", nn.initializers.zeros, (self.num_heads, BUCKETS))
        distance_TT = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
        return table[:, bucket(distance_TT)]


def attend(q_BTNH, k_BTNH, v_BTNH, segment_BT, bias_NTT=None):
    """Softmax attention over the earlier tokens of the same segment; softmax in float32.

    Segment 0 is padding, which attends to padding: its rows are finite and never used.
    """
    T, H = q_BTNH.shape[1], q_BTNH.shape[-1]
    score_BNTU = jnp.einsum(
        "BTNH,BUNH->BNTU", q_BTNH, k_BTNH, preferred_element_type=jnp.float32
    ) / math.sqrt(H)
    if bias_NTT is not None:
        score_BNTU += bias_NTT[None]
    same_BTU = segment_BT[:, :, None] == segment_BT[:, None, :]
    visible_BTU = same_BTU & jnp.tril(jnp.ones((T, T), bool))[None]
    p_BNTU = jax.nn.softmax(jnp.where(visible_BTU[:, None], score_BNTU, -1e30))
    return jnp.einsum("BNTU,BUNH->BTNH", p_BNTU.astype(v_BTNH.dtype), v_BTNH)


def rotate(x_BTNH, position_BT):
    """Rotary embedding: pair (h, h + H/2) turns by position / 10000^(2h/H) radians."""
    H = x_BTNH.shape[-1]
    frequency = 10_000.0 ** (-jnp.arange(H // 2, dtype=jnp.float32) * 2 / H)
    angle = position_BT[..., None, None].astype(jnp.float32) * frequency[None, None, None]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)


def bucket(distance):
    """The bucket of a distance >= 0: exact up to 16, then logarithmic up to 128 (T5)."""
    exact = BUCKETS // 2
    far = jnp.log(jnp.maximum(distance, exact) / exact) / math.log(FAR / exact)
    return jnp.where(
        distance < exact,
        jnp.maximum(distance, 0),
        jnp.minimum(exact + (far * (BUCKETS - exact)).astype(jnp.int32), BUCKETS - 1),
    )
