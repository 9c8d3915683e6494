"""Top-k softmax routing on literal logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import routing

P = np.array([[[0.1, 0.2, 0.4, 0.3], [0.7, 0.05, 0.05, 0.2], [0.25, 0.25, 0.25, 0.25]]])
LOGITS = np.log(P).astype(np.float32) + 3  # softmax ignores the 3
MASK = np.ones((1, 3), bool)


@functools.partial(jax.jit, static_argnums=2)
def choose(logits_GSE, mask_GS, k):
    return routing.route("top_k", logits_GSE, mask_GS, k).assignment


def test_one_choice_keeps_the_probability():
    expert_GSK, gate_GSK = choose(LOGITS, MASK, 1)
    assert expert_GSK.tolist() == [[[2], [0], [0]]]
    np.testing.assert_allclose(gate_GSK, [[[0.4], [0.7], [0.25]]], rtol=1e-5)
    assert expert_GSK.dtype == jnp.int32 and gate_GSK.dtype == jnp.float32


def test_two_choices_share_one():
    expert_GSK, gate_GSK = choose(LOGITS, MASK, 2)
    assert expert_GSK.tolist() == [[[2, 3], [0, 3], [0, 1]]]
    want = [[[4 / 7, 3 / 7], [7 / 9, 2 / 9], [0.5, 0.5]]]
    np.testing.assert_allclose(gate_GSK, want, rtol=1e-5)


@pytest.mark.parametrize(("k", "normalise", "want"), [(1, True, [1.0]), (2, False, [0.4, 0.3])])
def test_gates_are_normalised_as_published_models_have_it(k, normalise, want):
    """OLMoE's are not, Mixtral's are at any K."""
    options = routing.ROUTERS["top_k"].options(normalise_gates=normalise)
    routed = routing.route("top_k", LOGITS, MASK, k, options=options)
    np.testing.assert_allclose(routed.assignment.gate_GSK[0, 0], want, rtol=1e-5)


def test_all_experts_are_the_softmax():
    expert_GSK, gate_GSK = choose(LOGITS, MASK, 4)
    assert expert_GSK.tolist() == [[[2, 3, 1, 0], [0, 3, 1, 2], [0, 1, 2, 3]]]
    np.testing.assert_allclose(np.take_along_axis(P, np.array(expert_GSK), -1), gate_GSK, rtol=1e-5)


def test_padding_goes_to_the_expert_that_does_not_exist():
    expert_GSK, gate_GSK = choose(LOGITS, np.array([[True, False, True]]), 2)
    assert expert_GSK.tolist() == [[[2, 3], [4, 4], [0, 1]]]
    assert gate_GSK[0, 1].tolist() == [0, 0]


@pytest.mark.parametrize("k", [1, 2])
def test_the_gate_carries_a_gradient(k):
    """The reason why one gate alone is not renormalised."""
    grad_GSE = jax.jit(jax.grad(lambda s: choose(s, MASK, k).gate_GSK[..., 0].sum()))(LOGITS)
    p = P[0, 0]
    best = 2
    if k == 2:
        p = np.array([0, 0, 4 / 7, 3 / 7])
    want = p[best] * ((np.arange(4) == best) - p)  # of a softmax
    np.testing.assert_allclose(grad_GSE[0, 0], want, atol=1e-6)
    assert np.abs(want).max() > 0.1


def test_a_padded_token_has_no_gradient():
    mask = np.array([[True, False, True]])
    grad_GSE = jax.jit(jax.grad(lambda s: choose(s, mask, 1).gate_GSK.sum()))(LOGITS)
    assert not grad_GSE[0, 1].any() and grad_GSE[0, 0].all()


def test_large_logits_stay_finite():
    logits = jnp.array([[[1e4, -1e4, 0.0]]])
    gate_GSK = choose(logits, np.ones((1, 1), bool), 2).gate_GSK
    assert gate_GSK.tolist() == [[[1.0, 0.0]]]
