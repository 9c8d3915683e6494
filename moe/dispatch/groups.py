"""Tokens in groups: the layout in which they are routed.

A group is `group_size` tokens that compete for the same slots: a whole number of sequences,
or a divisor of one. It is set by the config, never by the mesh, so routing and drops are the same
on every mesh. Inside a group of several sequences the tokens lie by position first:
slots are given out in this order, so no later token evicts an earlier one of any sequence.
"""

import jax
import jax.numpy as jnp

from moe import sharding
from moe.errors import UserError


def split(x_BT: jax.Array, group_size: int) -> jax.Array:
    """[B, T, ...] -> [G, S, ...] with S = group_size.

    Raises:
      UserError: if group_size is neither a divisor of T nor a multiple of T that divides B * T.
    """
    B, T, *rest = x_BT.shape
    check(B, T, group_size)
    if group_size <= T:
        return sharding.reshape_tokens(x_BT, (B * T // group_size, group_size, *rest))
    together = group_size // T
    x = sharding.reshape_tokens(x_BT, (B // together, together, T, *rest))
    return sharding.reshape_tokens(jnp.swapaxes(x, 1, 2), (B // together, group_size, *rest))


def join(x_GS: jax.Array, batch: int, length: int) -> jax.Array:
    """The inverse of `split`: [G, S, ...] -> [B, T, ...]."""
    G, S, *rest = x_GS.shape
    if length >= S:
        return sharding.reshape_tokens(x_GS, (batch, length, *rest))
    x = jnp.swapaxes(sharding.reshape_tokens(x_GS, (G, length, S // length, *rest)), 1, 2)
    return sharding.reshape_tokens(x, (batch, length, *rest))


def documents(segment_BT: jax.Array, group_size: int) -> jax.Array:
    """A number for each document of a group, [G, S]: those of one row ascend.

    Args:
      segment_BT: the number of each token's document in its row.
      group_size: S.
    """
    B, T = segment_BT.shape
    together = max(1, group_size // T)
    row_B1 = (jnp.arange(B) % together)[:, None]
    return split(segment_BT * together + row_B1, group_size)


def check(batch: int, length: int, group_size: int) -> None:
    """Refuses a group size that does not tile B sequences of T tokens."""
    whole = group_size % length == 0 and batch % max(1, group_size // length) == 0
    if not (whole or length % group_size == 0):
        raise UserError(
            f"group_size={group_size} does not tile {batch} sequences of {length} tokens:"
            f" use a divisor of {length}, or {length} times a divisor of {batch}"
        )
