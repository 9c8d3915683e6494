"""Products of tokens with weights, in which all tokens are the rows of one matrix.

The gradient of a weight sums over tokens. Where these are two axes, as B and T, XLA's compiler for
CPUs writes both factors transposed before it multiplies, which takes longer than the product. So
the two are one axis meanwhile; on a mesh the first of them is spread, and so is the one.
"""

import jax.numpy as jnp

from moe import sharding


def einsum(equation: str, x, w, **how):
    """jnp.einsum(equation, x, w, **how), as of "BTD,DF->BTF", laid out as its letters say.

    x's letters that w has not are its tokens: two neighbours, or else (none, one) it is the plain
    product, which knows no mesh.
    """
    (of_x, of_w), gives = equation.split("->")[0].split(","), equation.split("->")[1]
    tokens = "".join(letter for letter in of_x if letter not in of_w)
    if len(tokens) < 2:
        return jnp.einsum(equation, x, w, **how)
    at, sizes = of_x.index(tokens), x.shape[of_x.index(tokens) :][:2]
    of_x, short = (letters.replace(tokens, tokens[0]) for letters in (of_x, gives))
    x = sharding.reshape(x, (*x.shape[:at], sizes[0] * sizes[1], *x.shape[at + 2 :]), of_x)
    y = jnp.einsum(f"{of_x},{of_w}->{short}", x, w, out_sharding=sharding.out(short), **how)
    at = gives.index(tokens)
    return sharding.reshape(y, (*y.shape[:at], *sizes, *y.shape[at + 1 :]), gives)
