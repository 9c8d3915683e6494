"""Tokens as rows of one matrix: the plain product and its gradients, wherever their axes are."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import ffn, matmul
from tests import tiny

SIZES = {"B": 8, "T": 3, "G": 8, "C": 3, "E": 4, "D": 5, "N": 2, "H": 6, "F": 7, "V": 9, "S": 3}


def draw(letters, seed):
    shape = tuple(SIZES[letter] for letter in letters)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    "equation",
    ["BTD,DF->BTF", "BTD,DNH->BTNH", "BTNH,NHD->BTD", "BTD,VD->BTV", "GSD,DE->GSE",
     "EGCD,EDF->EGCF"],
)  # fmt: skip
def test_it_is_the_plain_product(equation):
    of_x, of_w = equation.split("->")[0].split(",")
    x = draw(of_x, 0)
    w = draw(of_w, 1)

    def with_gradients(einsum):
        y, transpose = jax.vjp(lambda x, w: einsum(equation, x, w), x, w)
        return y, transpose(jnp.cos(y))

    tiny.assert_close(with_gradients(matmul.einsum), with_gradients(jnp.einsum))


@pytest.mark.parametrize(("tokens", "experts"), [("BT", ""), ("EGC", "E")])
def test_no_gradient_sums_over_two_axes_of_tokens(tokens, experts):
    """Which would be copied and transposed first, on CPUs."""
    weights = ffn.Weights(draw(experts + "DF", 1), draw(experts + "FD", 2), draw(experts + "DF", 3))

    def total(x, weights):
        return ffn.apply(x, weights, "swiglu", tokens, experts).sum()

    jaxpr = jax.make_jaxpr(jax.grad(total, (0, 1)))(draw(tokens + "D", 0), weights)
    summed = re.findall(r"dimension_numbers=\(\(\[([\d, ]*)\]", str(jaxpr))
    assert len(summed) == 9 and {len(axes.split(",")) for axes in summed} == {1}
