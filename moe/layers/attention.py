"""Attention inside documents: causal or not, to oneself or to a context, with or without a cache.

Grouped-query (Ainslie et al. 2023): N heads share fewer key and value heads, neighbours the same.

Positions are rotary, see `moe.layers.rotary`, or relative: a learned bias per head and bucket of
distance (Raffel et al. 2020, section 2.1), which GLaM uses.
"""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from moe import matmul, sharding
from moe.layers import attention_kernels, rotary, weights

BUCKETS = 32
FAR = 128  # distances from here on share the last bucket
MAX_BLOCKS = 8
MIN_BLOCK = 64  # queries


class KVCache(NamedTuple):
    """What decoding knows of the U positions of its cache, new ones included."""

    segment_BU: jax.Array  # 0 where there is no token
    at: jax.Array  # where the first new one lies


class TokenInfo(NamedTuple):
    """What a layer knows of each token beside its vector."""

    segment_BT: jax.Array  # the number of its document, 0 for padding
    position_BT: jax.Array  # in its document
    tokens_BT: jax.Array | None = None  # ids, for routers that read them
    domain_BT: jax.Array | None = None  # for routers that read it
    kv_cache: KVCache | None = None  # in decoding
    rotation: rotary.Rotation | None = None  # that of position_BT, if it was made for all layers


class Attention(nn.Module):
    """x_BTD -> y_BTD; a token attends to its own document, causal: up to itself.

    Args of `__call__`:
      x_BTD: what asks.
      context_BUD: what is attended to, as an encoder's output; x itself if it is None.
      q_info, kv_info: segments and positions of x and of the context.
      cache: in decoding, keys and values go into the collection "cache", and x attends to all in
        there.
    """

    num_heads: int
    num_kv_heads: int
    d_head: int
    position: str
    init_scale: float
    dtype: str
    causal: bool = True
    kernel: str = "plain"  # without a cache, of `attention_kernels`

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        context_BUD: jax.Array | None = None,
        *,
        q_info: TokenInfo,
        kv_info: TokenInfo | None = None,
        cache: KVCache | None = None,
    ) -> jax.Array:
        if context_BUD is None:
            context_BUD = x_BTD
            kv_info = q_info
        assert kv_info is not None, "a context comes with the segments and positions of its tokens"
        q = self.project(x_BTD, "w_q", self.num_heads)
        k = self.project(context_BUD, "w_k", self.num_kv_heads)
        v = self.project(context_BUD, "w_v", self.num_kv_heads)
        if self.position == "rotary":
            q = self.rotate(q, q_info)
            k = self.rotate(k, kv_info)
        kv_segment_BU = kv_info.segment_BT
        if cache is not None:
            k = self.update_cache("k", k, cache)
            v = self.update_cache("v", v, cache)
            kv_segment_BU = cache.segment_BU
        first = None if cache is None else cache.at
        y_BTNH = self.attend(q, k, v, q_info.segment_BT, kv_segment_BU, first)
        D = x_BTD.shape[-1]
        shape = (self.num_heads, self.d_head, D)
        w_NHD = self.matrix("w_o", "NHD", shape, fan_in=self.num_heads * self.d_head)
        return matmul.einsum("BTNH,NHD->BTD", y_BTNH, w_NHD)

    def project(self, x_BTD: jax.Array, name: str, heads: int) -> jax.Array:
        """x in so many heads, [B, T, N, H]."""
        D = x_BTD.shape[-1]
        w_DNH = self.matrix(name, "DNH", (D, heads, self.d_head), fan_in=D)
        return matmul.einsum("BTD,DNH->BTNH", x_BTD, w_DNH)

    def rotate(self, x_BTNH: jax.Array, info: TokenInfo) -> jax.Array:
        rotation = info.rotation or rotary.of(info.position_BT, self.d_head)
        return rotary.rotate(x_BTNH, rotation)

    def matrix(self, name: str, letters: str, shape: tuple[int, ...], fan_in: int) -> jax.Array:
        return weights.weight(
            self, name, letters, shape, fan_in=fan_in, scale=self.init_scale, dtype=self.dtype
        )

    def update_cache(self, name: str, new_BTNH: jax.Array, cache: KVCache) -> jax.Array:
        """The keys or values of all positions, after the new ones were written."""
        B, _, N, H = new_BTNH.shape
        shape = (B, cache.segment_BU.shape[1], N, H)
        cached = self.variable("cache", name, jnp.zeros, shape, new_BTNH.dtype)
        cached.value = jax.lax.dynamic_update_slice_in_dim(cached.value, new_BTNH, cache.at, axis=1)
        return cached.value

    def attend(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        q_segment_BT: jax.Array,
        kv_segment_BU: jax.Array,
        first: jax.Array | None,
    ) -> jax.Array:
        if first is None and self.fused(q):
            by_cudnn = functools.partial(attention_kernels.by_cudnn, causal=self.causal)
            letters = (*["BTNH"] * 3, "BT", "BT")
            on_one_device = sharding.shard_mapped(by_cudnn, letters, "BTNH")
            return on_one_device(q, k, v, q_segment_BT, kv_segment_BU)
        k = share(k, self.num_heads)
        v = share(v, self.num_heads)
        arrays = (q, k, v, q_segment_BT, kv_segment_BU)
        if self.position != "relative":
            return attend(*arrays, causal=self.causal, first=first)

        def zeros(_: jax.Array) -> jax.Array:
            return sharding.reshard(jnp.zeros((self.num_heads, BUCKETS)), "N.")

        # Each device on its own: what is summed over devices is the gradient of the table, which is
        # small, and not that of the bias of all pairs of positions.
        table = self.param("relative", zeros)
        if first is not None:
            return attend_relative(*arrays, table, first=first, causal=self.causal)
        on_one_device = functools.partial(attend_relative, causal=self.causal)
        letters = (*["BTNH"] * 3, "BT", "BT", "N.")
        return sharding.shard_mapped(on_one_device, letters, "BTNH")(*arrays, table)

    def fused(self, q_BTNH: jax.Array) -> bool:
        """Does cuDNN's kernel compute it?"""
        return attention_kernels.choose(self.kernel, q_BTNH, self.position) == "cudnn"


def share(x_BTNH: jax.Array, heads: int) -> jax.Array:
    """Key or value heads, each repeated for the query heads that share it."""
    B, T, N, H = x_BTNH.shape
    if heads == N:
        return x_BTNH
    x = jnp.broadcast_to(x_BTNH[:, :, :, None], (B, T, N, heads // N, H))
    return sharding.reshape(x, (B, T, heads, H), "BTNH")


def attend_relative(
    q_BTNH: jax.Array,
    k_BUNH: jax.Array,
    v_BUNH: jax.Array,
    q_segment_BT: jax.Array,
    kv_segment_BU: jax.Array,
    table: jax.Array,
    *,
    causal: bool = True,
    first: jax.Array | None = None,
) -> jax.Array:
    """`attend` with the bias of a table [N, BUCKETS]."""
    table = sharding.pvary(table)  # here, not after the lookup, is its gradient summed
    index_T, index_U = _indices(q_BTNH, k_BUNH, first)
    bias_NTU = table[:, bucket(index_T[:, None] - index_U[None, :])]
    return attend(
        q_BTNH, k_BUNH, v_BUNH, q_segment_BT, kv_segment_BU, bias_NTU, causal=causal, first=first
    )


def attend(
    q_BTNH: jax.Array,
    k_BUNH: jax.Array,
    v_BUNH: jax.Array,
    q_segment_BT: jax.Array,
    kv_segment_BU: jax.Array,
    bias_NTU: jax.Array | None = None,
    *,
    causal: bool = True,
    first: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention over the tokens of the same segment; causal: not over later ones.

    The softmax is in float32. In causal training, queries go in blocks that meet no key behind
    their last, so of what lies in the future less than a block is computed.

    Segment 0 is padding, which attends to padding: its rows are finite and never used.

    Args:
      q_BTNH, k_BUNH, v_BUNH: queries, keys and values.
      q_segment_BT, kv_segment_BU: the documents of queries and of keys.
      bias_NTU: is added to the scores.
      causal: no token attends to a later one.
      first: in decoding, where the first query lies among the keys.
    """
    index_T, index_U = _indices(q_BTNH, k_BUNH, first)
    visible_BTU = q_segment_BT[:, :, None] == kv_segment_BU[:, None, :]
    if causal:
        visible_BTU &= (index_U[None, :] <= index_T[:, None])[None]
    return _in_blocks(q_BTNH, k_BUNH, v_BUNH, visible_BTU, bias_NTU, causal and first is None)


KEEP_PROBABILITIES = jax.checkpoint_policies.save_only_these_names("probabilities")


@functools.partial(jax.checkpoint, static_argnums=(5,), policy=KEEP_PROBABILITIES)
def _in_blocks(q_BTNH, k_BUNH, v_BUNH, visible_BTU, bias_NTU, in_blocks):
    """For the gradient only arguments and probabilities are kept, not copies laid out anew."""
    T = q_BTNH.shape[1]
    y = []
    for start, end in blocks(T) if in_blocks else [(0, T)]:
        rows = slice(start, end)
        keys = slice(end) if in_blocks else slice(None)
        bias = None if bias_NTU is None else bias_NTU[:, rows, keys]
        visible = visible_BTU[:, rows, keys]
        y.append(_attend(q_BTNH[:, rows], k_BUNH[:, keys], v_BUNH[:, keys], visible, bias))
    return jnp.concatenate(y, axis=1)


def blocks(length: int) -> list[tuple[int, int]]:
    """Where each block of queries begins and ends."""
    size = max(MIN_BLOCK, math.ceil(length / MAX_BLOCKS))
    return [(first, min(first + size, length)) for first in range(0, length, size)]


def _attend(q_BTNH, k_BUNH, v_BUNH, visible_BTU, bias_NTU):
    q_BTNH = q_BTNH / math.sqrt(q_BTNH.shape[-1])  # not the scores, which are more
    score = matmul.with_float32_output(functools.partial(jnp.einsum, "BTNH,BUNH->BNTU"))
    score_BNTU = score(q_BTNH, k_BUNH)
    if bias_NTU is not None:
        score_BNTU += bias_NTU[None]
    p_BNTU = _softmax(jnp.where(visible_BTU[:, None], score_BNTU, -1e30))
    return jnp.einsum("BNTU,BUNH->BTNH", p_BNTU.astype(v_BUNH.dtype), v_BUNH)


@jax.custom_vjp
def _softmax(score_BNTU):
    """Over keys. Its gradient reads the probabilities under the name by which they are kept."""
    return jax.nn.softmax(score_BNTU)


def _softmax_forward(score_BNTU):
    p_BNTU = checkpoint_name(jax.nn.softmax(score_BNTU), "probabilities")
    return p_BNTU, p_BNTU


def _softmax_backward(p_BNTU, dp_BNTU):
    mean_BNT1 = (p_BNTU * dp_BNTU).sum(-1, keepdims=True)
    return (p_BNTU * (dp_BNTU - mean_BNT1),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


def _indices(q_BTNH, k_BUNH, first):
    """Where queries and keys lie in the sequence."""
    start = 0 if first is None else first
    return start + jnp.arange(q_BTNH.shape[1]), jnp.arange(k_BUNH.shape[1])


def bucket(distance: jax.Array) -> jax.Array:
    """The bucket of a distance >= 0: exact up to 16, then logarithmic up to 128 (T5)."""
    exact = BUCKETS // 2
    far = jnp.log(jnp.maximum(distance, exact) / exact) / math.log(FAR / exact)
    return jnp.where(
        distance < exact,
        jnp.maximum(distance, 0),
        jnp.minimum(exact + (far * (BUCKETS - exact)).astype(jnp.int32), BUCKETS - 1),
    )
