"""What was won for speed stays won: operations of a training step on one CPU, none timed."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import ffn, models
from moe.layers import dot_product
from moe.models import contract
from moe.training import optimizer, step
from tests import tiny

B = 4
T = 8
V = 96
LAYERS = 3


@functools.cache
def programs(scan_unroll=0, **changes):
    """The jaxpr and the compiled text of a training step of three dense layers."""
    config = tiny.model(
        vocab_size=V, num_layers=LAYERS, moe_every=1, experts=None, activation="swiglu",
        scan_unroll=scan_unroll, **changes,
    )  # fmt: skip
    tx = optimizer.make(optimizer.OptimizerConfig(), 10)
    train_step = step.make_train_step(tiny.task_of(config), tx, 0)
    state = jax.eval_shape(lambda: step.init(models.build(config), tx, 0))
    given = contract.batch_shapes(B, T)
    jaxpr = jax.make_jaxpr(train_step)(state, given)
    return str(jaxpr), train_step.lower(state, given).compile().as_text()


def loops(text):
    """Over arrays of all layers, in the compiled program."""
    return [x for x in text.splitlines() if " while(" in x and f"f32[{LAYERS}," in x]


def test_few_layers_are_not_scanned():
    """A scan copies weights and gradients in and out of stacked arrays."""
    assert not loops(programs()[1])
    assert loops(programs(scan_unroll=1)[1])


def test_angles_are_made_once_for_all_layers_and_heads():
    for unroll in (0, 1):
        assert programs(unroll)[0].count(" sin ") == 1


def test_there_is_no_array_of_all_logits(monkeypatch):
    """Neither forward nor backward; chunks are of half of the tokens."""
    from moe.objectives import cross_entropy

    monkeypatch.setitem(cross_entropy.LOGITS, "cpu", V * B * T // 2)
    programs.cache_clear()
    jaxpr, text = programs()
    programs.cache_clear()
    for found in (jaxpr, text):
        sizes = [
            np.prod([int(n) for n in shape.split(",")])
            for shape in re.findall(r"f(?:loat)?32\[([\d,]+)\]", found)
        ]
        assert max(sizes) == V * B * T // 2


def test_a_gate_keeps_two_arrays_for_its_gradient():
    rng = np.random.default_rng(0)
    shapes = ((4, 8), (8, 16), (16, 8), (8, 16))
    x_SD, w_in, w_out, w_gate = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)

    def apply(x_SD, weights):
        return ffn.apply(x_SD, weights, "swiglu", "S")

    _, back = jax.vjp(apply, x_SD, ffn.Weights(w_in, w_out, w_gate))
    kept = [x for x in jax.tree.leaves(back) if getattr(x, "shape", None) == (4, 16)]
    assert len(kept) == 2  # what is gated, and the gate


@pytest.mark.parametrize(("rows", "turned"), [(32, True), (8, False)])
def test_the_gradient_of_a_wide_matrix_is_multiplied_turned(rows, turned):
    """[D, F] and not [F, D], where there are more rows than F."""
    D, F = 8, 16

    def apply(h_SF, w_FD):
        zeros_DF = jnp.zeros((D, F))
        weights = ffn.Weights(zeros_DF, w_FD)
        return ffn.apply(h_SF[:, :D], weights, "relu", "S").sum()

    jaxpr = str(jax.make_jaxpr(jax.grad(apply, 1))(jnp.ones((rows, F)), jnp.ones((F, D))))
    assert (f"f32[{D},{F}] = optimization_barrier" in jaxpr) == turned


def test_attention_keeps_its_arguments_and_the_probabilities():
    """And no scores, masks or copies that are laid out anew."""
    shape = (2, 128, 2, 4)  # [B, T, N, H], two blocks of queries
    q, k, v = (jax.random.normal(jax.random.key(i), shape) for i in range(3))
    segment_BT = jnp.ones(shape[:2], jnp.int32)

    def attend(q, k, v):
        return dot_product.attend(q, k, v, segment_BT, segment_BT)

    _, back = jax.vjp(attend, q, k, v)
    kept = [x.shape for x in jax.tree.leaves(back) if getattr(x, "dtype", None) == jnp.float32]
    assert sorted(kept) == sorted([shape] * 3 + [(2, 2, 64, 64), (2, 2, 64, 128)])
