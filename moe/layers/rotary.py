"""Rotary positions: Su et al. 2021, section 3.4.2, on halves of H as in GPT-NeoX."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rotation(NamedTuple):
    """The angles of every token, for all heads and layers."""

    sin: jax.Array  # [B, T, 1, H / 2], float32
    cos: jax.Array


def of(position_BT: jax.Array, width: int) -> Rotation:
    """Pair (h, h + H/2) turns by position / 10000^(2h/H) radians.

    Computed once: compilers that may would compute sines anew for every head that reads them.
    """
    frequency = 10_000.0 ** (-jnp.arange(width // 2, dtype=jnp.float32) * 2 / width)
    angle = position_BT[..., None, None].astype(jnp.float32) * frequency[None, None, None]
    return Rotation(*jax.lax.optimization_barrier((jnp.sin(angle), jnp.cos(angle))))


@jax.custom_vjp
def rotate(x_BTNH: jax.Array, rotation: Rotation) -> jax.Array:
    """x with every pair turned, computed in float32; the gradient is turned back."""
    sin, cos = rotation
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)


def _back(rotation, dy_BTNH):
    return rotate(dy_BTNH, Rotation(-rotation.sin, rotation.cos)), None


rotate.defvjp(lambda x, rotation: (rotate(x, rotation), rotation), _back)
