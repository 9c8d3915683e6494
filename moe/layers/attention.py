"""Causal self-attention inside documents, with rotary or relative positions.

Grouped-query (Ainslie et al. 2023): N heads share fewer key and value heads, neighbours the same.

Rotary: Su et al. 2021, section 3.4.2, on halves of H as in GPT-NeoX. Relative: a learned bias per
head and bucket of distance (Raffel et al. 2020, section 2.1), which GLaM uses.
"""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import matmul, sharding
from moe.layers import weights

BUCKETS, FAR = 32, 128
MOST, LEAST = 8, 64  # blocks of queries, and queries of a block


class KVCache(NamedTuple):
    """What decoding knows of the U positions of its cache, new ones included."""

    segment_BU: jax.Array  # 0 where there is no token
    at: jax.Array  # where the first new one lies


class Attention(nn.Module):
    """x_BTD -> y_BTD; a token attends to its own document, up to itself or all of it.

    With a cache, keys and values go into the collection "cache", and x attends to all in there.
    """

    num_heads: int
    num_kv_heads: int
    d_head: int
    position: str
    init_scale: float
    dtype: str
    bidirectional: bool = False

    @nn.compact
    def __call__(self, x_BTD, segment_BT, position_BT, cache: KVCache | None = None):
        D, N, H = x_BTD.shape[-1], self.num_heads, self.d_head

        def matrix(name, letters, *shape, fan_in):
            return weights.weight(
                self, name, letters, shape,
                fan_in=fan_in, scale=self.init_scale, dtype=self.dtype,
            )  # fmt: skip

        q, k, v = (
            matmul.einsum("BTD,DNH->BTNH", x_BTD, matrix(f"w_{name}", "DNH", D, n, H, fan_in=D))
            for name, n in (("q", N), ("k", self.num_kv_heads), ("v", self.num_kv_heads))
        )
        if self.position == "rotary":
            q, k = rotate(q, position_BT), rotate(k, position_BT)
        if cache is not None:
            k, v = self.update_cache("k", k, cache), self.update_cache("v", v, cache)
        k, v = share(k, N), share(v, N)
        y_BTNH = self.attend(q, k, v, segment_BT, cache)
        w_NHD = matrix("w_o", "NHD", N, H, D, fan_in=N * H)
        return matmul.einsum("BTNH,NHD->BTD", y_BTNH, w_NHD)

    def update_cache(self, name, new_BTNH, cache):
        """The keys or values of all positions, after the new ones were written."""
        B, _, N, H = new_BTNH.shape
        shape = B, cache.segment_BU.shape[1], N, H
        cached = self.variable("cache", name, jnp.zeros, shape, new_BTNH.dtype)
        cached.value = jax.lax.dynamic_update_slice_in_dim(cached.value, new_BTNH, cache.at, axis=1)
        return cached.value

    def attend(self, q, k, v, segment_BT, cache):
        if self.position == "rotary":
            return attend(q, k, v, segment_BT, None, self.bidirectional, cache)

        def zeros(_):
            return sharding.reshard(jnp.zeros((self.num_heads, BUCKETS)), "N.")

        # Each device on its own: what is summed over devices is the gradient of the table, which is
        # small, and not that of the bias of all pairs of positions.
        table, arrays = self.param("relative", zeros), (q, k, v, segment_BT)
        if cache is not None:
            return attend_relative(*arrays, table, cache)
        own = sharding.shard_mapped(attend_relative, (*["BTNH"] * 3, "BT", "N."), "BTNH")
        return own(*arrays, table)


def share(x_BTNH, heads: int):
    """Key or value heads, each repeated for the query heads that share it."""
    B, T, N, H = x_BTNH.shape
    if heads == N:
        return x_BTNH
    x = jnp.broadcast_to(x_BTNH[:, :, :, None], (B, T, N, heads // N, H))
    return sharding.reshape(x, (B, T, heads, H), "BTNH")


def attend_relative(q_BTNH, k_BUNH, v_BUNH, segment_BT, table, cache=None):
    """`attend` with the bias of a table [N, BUCKETS]."""
    table = sharding.pvary(table)  # here, not after the lookup, is its gradient summed
    index_T, index_U = _places(q_BTNH, k_BUNH, cache)
    bias_NTU = table[:, bucket(index_T[:, None] - index_U[None, :])]
    return attend(q_BTNH, k_BUNH, v_BUNH, segment_BT, bias_NTU, cache=cache)


def attend(
    q_BTNH, k_BUNH, v_BUNH, segment_BT, bias_NTU=None, bidirectional=False, cache=None
):  # fmt: skip
    """Softmax attention over the tokens of the same segment, later ones only if bidirectional.

    The softmax is in float32. In training, queries go in blocks that meet no key behind their last,
    so of what lies in the future less than a block is computed.

    Segment 0 is padding, which attends to padding: its rows are finite and never used.
    """
    T, whole = q_BTNH.shape[1], cache is not None or bidirectional
    index_T, index_U = _places(q_BTNH, k_BUNH, cache)
    segment_BU = segment_BT if cache is None else cache.segment_BU
    visible_BTU = segment_BT[:, :, None] == segment_BU[:, None, :]
    if not bidirectional:
        visible_BTU &= (index_U[None, :] <= index_T[:, None])[None]
    y = []
    for first, end in [(0, T)] if whole else blocks(T):
        rows, seen = slice(first, end), slice(None if whole else end)
        bias = None if bias_NTU is None else bias_NTU[:, rows, seen]
        own = q_BTNH[:, rows], k_BUNH[:, seen], v_BUNH[:, seen], visible_BTU[:, rows, seen]
        y.append(_attend(*own, bias))
    return jnp.concatenate(y, axis=1)


def blocks(length: int) -> list[tuple[int, int]]:
    """Where each block of queries begins and ends."""
    size = max(LEAST, math.ceil(length / MOST))
    return [(first, min(first + size, length)) for first in range(0, length, size)]


def _attend(q_BTNH, k_BUNH, v_BUNH, visible_BTU, bias_NTU):
    q_BTNH = q_BTNH / math.sqrt(q_BTNH.shape[-1])  # not the scores, which are more
    score = matmul.with_float32_output(functools.partial(jnp.einsum, "BTNH,BUNH->BNTU"))
    score_BNTU = score(q_BTNH, k_BUNH)
    if bias_NTU is not None:
        score_BNTU += bias_NTU[None]
    p_BNTU = jax.nn.softmax(jnp.where(visible_BTU[:, None], score_BNTU, -1e30))
    return jnp.einsum("BNTU,BUNH->BTNH", p_BNTU.astype(v_BUNH.dtype), v_BUNH)


def _places(q_BTNH, k_BUNH, cache):
    """Where queries and keys lie in the sequence."""
    first = 0 if cache is None else cache.at
    return first + jnp.arange(q_BTNH.shape[1]), jnp.arange(k_BUNH.shape[1])


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
