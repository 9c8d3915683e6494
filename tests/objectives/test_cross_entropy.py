"""The loss in chunks of tokens: the same as of all logits, and at the same cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import counting
from moe.layers import embedding
from moe.objectives import cross_entropy
from tests import tiny


def head_and_targets(dtype="float32"):
    rng = np.random.default_rng(0)
    x_BTD, w_VD = rng.normal(size=(3, 5, 8)), rng.normal(size=(11, 8))
    head = embedding.Head(jnp.asarray(x_BTD, dtype), jnp.asarray(w_VD, dtype))
    return head, rng.integers(0, 11, (3, 5)), rng.random((3, 5)) > 0.3


@pytest.mark.parametrize("tokens", [1, 4, 5, 100])
def test_in_chunks_and_whole(tokens, monkeypatch):
    """Fifteen tokens in chunks of so many, the last of which may be padded."""
    monkeypatch.setitem(cross_entropy.LOGITS, "cpu", 11 * tokens)
    head, targets_BT, counted_BT = head_and_targets()

    def weighted(whole, x_BTD, w_VD):
        head = embedding.Head(x_BTD, w_VD)
        scores = head.logits() if whole else head
        total, nll_BT = cross_entropy.weighted(scores, targets_BT, counted_BT)
        return 3 * total, (total, nll_BT)

    made = [
        jax.jit(jax.value_and_grad(functools.partial(weighted, whole), (0, 1), has_aux=True))(*head)
        for whole in (False, True)
    ]
    tiny.assert_close(*made, rtol=1e-5, atol=5e-6)  # sums over V in another order
    (_, (total, nll_BT)), _ = made[0]
    alone = cross_entropy.weighted(head, targets_BT, counted_BT)
    tiny.assert_close(alone, (total, nll_BT))  # without gradients
    assert not np.asarray(nll_BT)[~counted_BT].any() and (np.asarray(nll_BT)[counted_BT] > 0).all()


def test_chunks_cost_the_flops_of_the_whole(monkeypatch):
    monkeypatch.setitem(cross_entropy.LOGITS, "cpu", 11 * 5)
    head, targets_BT, counted_BT = head_and_targets()

    def total(*head):
        return cross_entropy.weighted(embedding.Head(*head), targets_BT, counted_BT)[0]

    assert counting.count(jax.grad(total, (0, 1)), *head).total == 3 * 2 * 15 * 11 * 8


def test_factors_in_bfloat16_get_gradients_of_their_type():
    head, targets_BT, counted_BT = head_and_targets("bfloat16")

    def total(*head):
        return cross_entropy.weighted(embedding.Head(*head), targets_BT, counted_BT)[0]

    value, grads = jax.value_and_grad(total, (0, 1))(*head)
    assert value.dtype == "float32" and {x.dtype.name for x in grads} == {"bfloat16"}
    wide = jax.grad(total, (0, 1))(*(x.astype("float32") for x in head))
    tiny.assert_close(jax.tree.map(lambda x: x.astype("float32"), grads), wide, rtol=0.1, atol=0.05)
