"""Attention inside documents: causal or not, to oneself or to a context, with or without a cache.

Grouped-query (Ainslie et al. 2023): N heads share fewer key and value heads, neighbours the same.

Positions are rotary, see `moe.layers.rotary`, or relative, see `moe.layers.relative`. What
published models do differently: `moe.attention_config`.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import matmul, sharding
from moe.attention_config import AttentionConfig
from moe.layers import attention_kernels, dot_product, relative, rotary, weights


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
    table_NX: jax.Array | None = None  # of relative positions, if all layers share one
    context: "Context | None" = None  # what a decoder's layers read of an encoder


class Context(NamedTuple):
    """What an encoder has made of its tokens."""

    x_BUD: jax.Array
    info: TokenInfo


class Attention(nn.Module):
    """x_BTD -> y_BTD; a token attends to its own document, causal: up to itself.

    Args of `__call__`:
      x_BTD: what asks.
      context_BUD: what is attended to, as an encoder's output; x itself if it is None.
      q_info, kv_info: segments and positions of x and of the context.
      cache: in decoding, keys and values go into the collection "cache", and x attends to all in
        there; those of a context are made once and lie there, too.
    """

    num_heads: int
    num_kv_heads: int
    d_head: int
    position: str  # rotary, relative or none
    init_scale: float
    dtype: str
    causal: bool = True
    kernel: str = "plain"  # without a cache, of `attention_kernels`
    how: AttentionConfig = AttentionConfig()
    epsilon: float = 1e-6  # of qk_norm

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
        q = self.queries(x_BTD, q_info)
        if context_BUD is None:
            k, v = self.keys_and_values(x_BTD, q_info)
            kv_segment_BU = q_info.segment_BT
            if cache is not None:
                k = self.update_cache("k", k, cache)
                v = self.update_cache("v", v, cache)
                kv_segment_BU = cache.segment_BU
            first = None if cache is None else cache.at
        else:
            assert kv_info is not None, "a context comes with what is known of its tokens"
            k, v = self.of_context(context_BUD, kv_info, cache)
            kv_segment_BU = kv_info.segment_BT
            first = None if cache is None else jnp.int32(0)  # no kernel for whole rows
        kernel = "plain"
        if first is None:
            context = context_BUD is not None
            kernel = attention_kernels.choose(self.kernel, q, self.position, self.how, context)
        if kernel == "plain":
            y_BTNH = self.attend(q, k, v, q_info, kv_segment_BU, first)
        else:
            y_BTNH = self.attend_fused(kernel, q, k, v, q_info.segment_BT, kv_segment_BU)
        D = x_BTD.shape[-1]
        shape = (self.num_heads, self.d_head, D)
        w_NHD = self.matrix("w_o", "NHD", shape, fan_in=self.num_heads * self.d_head)
        return matmul.einsum("BTNH,NHD->BTD", y_BTNH, w_NHD)

    def queries(self, x_BTD: jax.Array, info: TokenInfo) -> jax.Array:
        """q_BTNH."""
        # Scores that nobody divides are small at first because these weights are.
        q = self.project(x_BTD, "w_q", self.num_heads, 1 if self.how.scaled else self.d_head)
        if self.how.qk_norm != "none":
            q = self.normalise(q, "q_norm")
        q = self.clipped(q)
        return self.rotate(q, info) if self.position == "rotary" else q

    def keys_and_values(self, x_BUD: jax.Array, info: TokenInfo) -> tuple[jax.Array, jax.Array]:
        """k_BUNH, v_BUNH."""
        k = self.project(x_BUD, "w_k", self.num_kv_heads)
        v = self.clipped(self.project(x_BUD, "w_v", self.num_kv_heads))
        if self.how.qk_norm != "none":
            k = self.normalise(k, "k_norm")
        k = self.clipped(k)
        return (self.rotate(k, info) if self.position == "rotary" else k), v

    def of_context(
        self, x_BUD: jax.Array, info: TokenInfo, cache: KVCache | None
    ) -> tuple[jax.Array, jax.Array]:
        """The same of what never changes: in decoding made once."""
        if cache is None:
            return self.keys_and_values(x_BUD, info)
        if not self.has_variable("cache", "k"):
            for name, made in zip("kv", self.keys_and_values(x_BUD, info), strict=True):
                self.put_variable("cache", name, made)
        return self.get_variable("cache", "k"), self.get_variable("cache", "v")

    def clipped(self, x_BTNH: jax.Array) -> jax.Array:
        """As `AttentionConfig.clip_qkv` says."""
        limit = self.how.clip_qkv
        return jnp.clip(x_BTNH, -limit, limit) if limit else x_BTNH

    def project(self, x_BTD: jax.Array, name: str, heads: int, divisor: int = 1) -> jax.Array:
        """x in so many heads, [B, T, N, H]; the variance of initial weights may be divided."""
        D = x_BTD.shape[-1]
        w_DNH = self.matrix(name, "DNH", (D, heads, self.d_head), fan_in=D * divisor)
        x_BTNH = matmul.einsum("BTD,DNH->BTNH", x_BTD, w_DNH)
        if not self.how.qkv_bias:
            return x_BTNH
        bias_NH = weights.zeros(self, f"{name}_bias", "N.", (heads, self.d_head), self.dtype)
        return x_BTNH + bias_NH[None, None]

    def normalise(self, x_BTNH: jax.Array, name: str) -> jax.Array:
        axes = (-2, -1) if self.how.qk_norm == "width" else -1
        norm = nn.RMSNorm(
            self.epsilon, dtype=self.dtype, reduction_axes=axes, feature_axes=axes, name=name
        )
        return norm(x_BTNH)

    def rotate(self, x_BTNH: jax.Array, info: TokenInfo) -> jax.Array:
        rotation = info.rotation
        if rotation is None:
            rotation = rotary.of(info.position_BT, self.d_head, self.how.rope_theta)
        return rotary.rotate(x_BTNH, rotation, self.how.rope_layout)

    def matrix(self, name: str, letters: str, shape: tuple[int, ...], fan_in: int) -> jax.Array:
        return weights.weight(
            self, name, letters, shape, fan_in=fan_in, scale=self.init_scale, dtype=self.dtype
        )

    def update_cache(self, name: str, new_BTNH: jax.Array, cache: KVCache) -> jax.Array:
        """The keys or values of all positions, after the new ones were written."""
        B, _, N, H = new_BTNH.shape
        shape = (B, cache.segment_BU.shape[1], N, H)
        cached = self.variable("cache", name, sharding.zeros, "BTNH", shape, new_BTNH.dtype)
        cached.value = jax.lax.dynamic_update_slice_in_dim(cached.value, new_BTNH, cache.at, axis=1)
        return cached.value

    def attend(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        q_info: TokenInfo,
        kv_segment_BU: jax.Array,
        first: jax.Array | None,
    ) -> jax.Array:
        k = dot_product.share(k, self.num_heads)
        v = dot_product.share(v, self.num_heads)
        arrays = (q, k, v, q_info.segment_BT, kv_segment_BU)
        how: dict[str, Any] = {
            "causal": self.causal,
            "scaled": self.how.scaled,
            "window": self.how.window,
        }
        if self.position != "relative":
            return dot_product.attend(*arrays, first=first, **how)
        # Each device on its own: what is summed over devices is the gradient of the table, which is
        # small, and not that of the bias of all pairs of positions.
        table = q_info.table_NX
        if table is None:
            table = relative.table(self, self.num_heads)
        on_one_device = functools.partial(dot_product.attend_relative, **how)
        letters = (*["BTNH"] * 3, "BT", "BT", "N.")
        if first is None:
            return sharding.shard_mapped(on_one_device, letters, "BTNH")(*arrays, table)

        def after(first: jax.Array, *given: jax.Array) -> jax.Array:
            return on_one_device(*given, first=first)

        return sharding.shard_mapped(after, ("", *letters), "BTNH")(first, *arrays, table)

    def attend_fused(self, kernel: str, *arrays: jax.Array) -> jax.Array:
        """`attend` by a kernel, on each device's own rows and heads."""
        on_one_device = attention_kernels.fused(kernel, self.causal, self.how)
        letters = (*["BTNH"] * 3, "BT", "BT")
        checked = kernel == "cudnn"  # what Pallas returns does not say what differs on devices
        return sharding.shard_mapped(on_one_device, letters, "BTNH", checked)(*arrays)
