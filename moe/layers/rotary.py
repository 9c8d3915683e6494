"""Rotary positions (Su et al. 2021, section 3.4.2).

The two numbers that turn together lie H/2 apart as in GPT-NeoX and Llama's published conversions,
or side by side as in the paper.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rotation(NamedTuple):
    """The angles of every token, for all heads and layers."""

    sin: jax.Array  # [B, T, 1, H / 2], float32
    cos: jax.Array


def of(position_BT: jax.Array, width: int, theta: float = 10_000.0) -> Rotation:
    """Pair h of H/2 turns by position / theta^(2h/H) radians.

    Computed once: compilers that may would compute sines anew for every head that reads them.
    """
    frequency = theta ** (-jnp.arange(width // 2, dtype=jnp.float32) * 2 / width)
    angle = position_BT[..., None, None].astype(jnp.float32) * frequency[None, None, None]
    return Rotation(*jax.lax.optimization_barrier((jnp.sin(angle), jnp.cos(angle))))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rotate(x_BTNH: jax.Array, rotation: Rotation, layout: str = "halves") -> jax.Array:
    """x with every pair turned, computed in float32; the gradient is turned back."""
    sin, cos = rotation
    x = x_BTNH.astype(jnp.float32)
    if layout == "pairs":
        a, b = x[..., 0::2], x[..., 1::2]
    else:
        a, b = jnp.split(x, 2, axis=-1)
    turned = (a * cos - b * sin, b * cos + a * sin)
    if layout == "pairs":
        y = jnp.stack(turned, axis=-1).reshape(x.shape)
    else:
        y = jnp.concatenate(turned, axis=-1)
    return y.astype(x_BTNH.dtype)


def _back(layout, rotation, dy_BTNH):
    return rotate(dy_BTNH, Rotation(-rotation.sin, rotation.cos), layout), None


rotate.defvjp(lambda x, rotation, layout: (rotate(x, rotation, layout), rotation), _back)
