"""Products of tokens with weights, in which all tokens are the rows of one matrix.

The gradient of a weight sums over tokens. Where these are two axes, as B and T, XLA's compiler for
CPUs writes both factors transposed before it multiplies, which takes longer than the product. So
the two are one axis meanwhile; on a mesh the first of them is spread, and so is the one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from moe import execution, sharding


def with_float32_output(product: Callable) -> Callable:
    """product(a, b) in float32, whatever its factors are, which get gradients of their own type.

    Autodiff would multiply the float32 gradient with bfloat16 factors: in float32, on a GPU.

    Args:
      product: (a, b, preferred_element_type=None).
    """

    def plain(a: jax.Array, b: jax.Array) -> jax.Array:
        return product(a, b, preferred_element_type=jnp.float32)

    def transposed(
        factors: tuple[jax.Array, jax.Array], gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(product, *factors)[1](gradient.astype(jnp.result_type(*factors)))

    return _with_transpose(plain, transposed)


def _with_transpose(plain, transposed):
    """plain(a, b) with its gradients; forward it is nothing but the product, which may be kept."""
    made = jax.custom_vjp(plain)
    made.defvjp(lambda a, b: (plain(a, b), (a, b)), transposed)
    return made


def with_wide_gradient(equation: str, layout: Any) -> Callable:
    """(h, w) -> jnp.einsum(equation, h, w), as of "SF,FD->SD" with F wider than D and S than F.

    The gradient of w is multiplied as [D, F] and then transposed: as [F, D] it takes a fifth to a
    half longer on CPUs (experiments/RESULTS.md, 2026-11-26).
    """
    product = functools.partial(jnp.einsum, equation, out_sharding=layout)
    of_factors, gives = equation.split("->")
    of_h, of_w = of_factors.split(",")
    turned = functools.partial(
        jnp.einsum, f"{of_h},{of_w[:-2]}{of_w[:-3:-1]}->{gives}", out_sharding=layout
    )

    def transposed(factors: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        h, w = factors
        (dh,) = jax.linear_transpose(lambda h: product(h, w), h)(dy)
        (dw_turned,) = jax.linear_transpose(lambda w: turned(h, w), w.mT)(dy)
        return dh, jax.lax.optimization_barrier(dw_turned).mT

    return _with_transpose(product, transposed)


def einsum(
    equation: str, x: jax.Array, w: jax.Array, float32: bool = False, **how: Any
) -> jax.Array:
    """jnp.einsum(equation, x, w, **how), as of "BTD,DF->BTF", laid out as its letters say.

    x's letters that w has not are its tokens, two neighbours. float32: see `with_float32_output`.
    """
    (of_x, of_w) = equation.split("->")[0].split(",")
    gives = equation.split("->")[1]
    tokens = "".join(letter for letter in of_x if letter not in of_w)
    short = equation.replace(tokens, tokens[0])
    layout = sharding.out_sharding(short.split("->")[1])
    product: Callable = functools.partial(jnp.einsum, short, out_sharding=layout, **how)
    product = with_float32_output(product) if float32 else product

    def named(x: jax.Array) -> jax.Array:
        return checkpoint_name(product(x, w), execution.PRODUCT)

    return flatten_tokens(named, x, tokens, of_x, gives)


def flatten_tokens(fn: Callable, x: jax.Array, tokens: str, takes: str, gives: str) -> jax.Array:
    """fn(x) where x's two axes of tokens are one, and so are those of the result.

    Args:
      tokens: their letters; of the one, the first.
      takes, gives: the letters of x and of what is returned.
    """
    at = takes.index(tokens)
    sizes = x.shape[at : at + 2]
    one = x.shape[:at] + (sizes[0] * sizes[1],) + x.shape[at + 2 :]
    y = fn(sharding.reshape(x, one, takes.replace(tokens, tokens[0])))
    at = gives.index(tokens)
    return sharding.reshape(y, y.shape[:at] + sizes + y.shape[at + 1 :], gives)
