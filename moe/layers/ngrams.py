"""Hashed n-gram embeddings: parameters that go by the last tokens, without experts or a router.

A token's vector gets one more row for every n in `ORDERS`: that of the hash of its last n tokens,
itself included, as far as they are of its document (Huang et al. 2025, "Over-Tokenized
Transformer", section 3.2). The tables start at zero. Looking up costs no matrix product.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import sharding
from moe.layers import attention, embedding, weights

ORDERS = (2, 3)
_FACTORS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)  # odd, one for every place of an n-gram


def embed(module: nn.Module, rows: int, d_model: int, info: attention.TokenInfo) -> jax.Array:
    """x_BTD to be added to the tokens' own, float32.

    Args:
      module: which owns the tables "ngram_2" and "ngram_3", inside its compact method.
      rows: of each table.
      d_model: D.
      info: of the tokens; in decoding the earlier ones are kept in the collection "cache".
    """
    assert info.tokens_BT is not None  # every trunk has them
    before = _before(module, info)
    x_BTD = jnp.zeros((), jnp.float32)
    for n in ORDERS:
        name = f"ngram_{n}"
        table_VD = weights.weight(module, name, "VD", (rows, d_model), fan_in=d_model, scale=0.0)
        row_BT = row_of((info.tokens_BT, *before[: n - 1]), rows)
        found_BTD = embedding.look_up(table_VD, row_BT)
        x_BTD += jnp.where((info.position_BT >= n - 1)[..., None], found_BTD, 0)
    return x_BTD


def row_of(tokens: tuple[jax.Array, ...], rows: int) -> jax.Array:
    """The row [B, T] of each n-gram, given by its last tokens_BT, those before, and so on."""
    mixed_BT = jnp.zeros((), jnp.uint32)
    for factor, tokens_BT in zip(_FACTORS[: len(tokens)], tokens, strict=True):
        mixed_BT = (mixed_BT ^ tokens_BT.astype(jnp.uint32)) * jnp.uint32(factor)
        mixed_BT ^= mixed_BT >> 15
    return (mixed_BT % jnp.uint32(rows)).astype(jnp.int32)


def _before(module, info):
    """For each token the one before it, the one before that, ...; any id where there is none."""
    number = max(ORDERS) - 1
    if info.kv_cache is None:
        return [_later(info.tokens_BT, places) for places in range(1, number + 1)]
    shape = info.kv_cache.segment_BU.shape
    cached = module.variable("cache", "tokens", sharding.zeros, "B.", shape)
    T = info.tokens_BT.shape[1]
    at = info.kv_cache.at
    cached.value = jax.lax.dynamic_update_slice_in_dim(cached.value, info.tokens_BT, at, axis=1)
    padded_BU = jnp.pad(cached.value, ((0, 0), (number, 0)))
    return [
        jax.lax.dynamic_slice_in_dim(padded_BU, at + number - places, T, axis=1)
        for places in range(1, number + 1)
    ]


def _later(tokens_BT, places):
    """Every row moved by some places to the right."""
    return jnp.pad(tokens_BT, ((0, 0), (places, 0)))[:, : tokens_BT.shape[1]]
