"""Copies of one feed-forward as experts.

Sparse upcycling starts every expert as the dense model's feed-forward (Komatsuzaki et al. 2022,
section 2.1).
"""

import jax
import jax.numpy as jnp

from moe.initialisation import contract


def tile(drawn: jax.Array, saved: jax.Array, key: jax.Array) -> jax.Array:
    """A feed-forward's weights, or those of a few experts, repeated along E.

    Args:
      drawn: [..., E, D, F] or [..., E, F, D].
      saved: the same without E; or with an E of its own, then expert e is saved expert e modulo
        that.
      key: unused.
    """
    del key
    if saved.ndim < drawn.ndim:
        saved = jnp.expand_dims(saved, -3)
    copied_E = jnp.arange(drawn.shape[-3]) % saved.shape[-3]
    return jnp.take(saved, copied_E, axis=-3).astype(drawn.dtype)


RULE = contract.Rule(tile)
