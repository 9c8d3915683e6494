"""How every weight matrix is born, and laid out: at rest and in use.

A variance of scale / fan-in truncated at two standard deviations; Switch trains stably at
scale 0.1 (Fedus et al. 2021, section 2.4).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import random

from moe import sharding, zero


def zeros(
    module: nn.Module, name: str, letters: str, shape: tuple[int, ...], dtype: str = "float32"
) -> jax.Array:
    """A float32 parameter that starts at zero, laid out by its letters, in `dtype`."""

    def init(_: jax.Array) -> jax.Array:
        return sharding.reshard(jnp.zeros(shape), letters)

    return module.param(name, init).astype(dtype)


def weight(
    module: nn.Module,
    name: str,
    letters: str,
    shape: tuple[int, ...],
    *,
    fan_in: int,
    scale: float,
    dtype: str = "float32",
) -> jax.Array:
    """A float32 parameter, sharded from the start, in `dtype` and laid out for use.

    Args:
      module: the module that owns it, inside its compact method.
      letters: one letter an axis, see `moe`.
      fan_in: how many numbers one output sums over.
      scale: variance is scale / fan_in.
      dtype: of the arithmetic, in which ZeRO gathers it, too.
    """
    # 0.8796 is the standard deviation of a unit normal truncated at +-2.
    deviation = math.sqrt(scale / fan_in) / 0.87962566103423978

    def init(key: jax.Array) -> jax.Array:
        layout = sharding.at_rest(letters) if sharding.current() else None
        return deviation * random.truncated_normal(
            key, -2, 2, shape, jnp.float32, out_sharding=layout
        )

    return zero.gathered(module.param(name, init).astype(dtype), letters)
