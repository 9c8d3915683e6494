"""Relative positions: a learned bias per head and bucket of distance (Raffel et al. 2020, 2.1)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe.layers import weights

BUCKETS = 32
FAR = 128  # distances from here on share the last bucket


def table(module: nn.Module, heads: int) -> jax.Array:
    """The parameter [N, BUCKETS], zeros at first; for one layer, or a stack that shares it."""
    return weights.zeros(module, "relative", "N.", (heads, BUCKETS))


def bias(
    table_NX: jax.Array, index_T: jax.Array, index_U: jax.Array, causal: bool = True
) -> jax.Array:
    """bias_NTU of scores between queries and keys that lie there in the sequence.

    Args:
      table_NX: a number for each head and bucket.
      index_T, index_U: where queries and keys lie.
      causal: no key lies behind its query, and all buckets are of those before; else half are.
    """
    return table_NX[:, bucket(index_T[:, None] - index_U[None, :], causal)]


def bucket(distance: jax.Array, causal: bool = True) -> jax.Array:
    """The bucket of a distance from a key to a query behind it.

    Exact up to half of the buckets, then logarithmic up to `FAR`. Causal: all that is not behind is
    bucket 0, and masked; else keys behind the query have the upper half of the buckets.
    """
    if causal:
        return _bucket(distance, BUCKETS)
    half = BUCKETS // 2
    return jnp.where(distance < 0, half, 0) + _bucket(jnp.abs(distance), half)


def _bucket(distance, buckets):
    exact = buckets // 2
    far = jnp.log(jnp.maximum(distance, exact) / exact) / math.log(FAR / exact)
    return jnp.where(
        distance < exact,
        jnp.maximum(distance, 0),
        jnp.minimum(exact + (far * (buckets - exact)).astype(jnp.int32), buckets - 1),
    )
