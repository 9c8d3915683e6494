"""The control must be random, fair, and repeatable."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import routing

G = 8
S = 512
E = 4


@functools.partial(jax.jit, static_argnums=(0,))
def choose(k, key, mask_GS=None):
    mask_GS = jnp.ones((G, S), bool) if mask_GS is None else mask_GS
    return routing.route("random", jnp.zeros((G, S, E)), mask_GS, k, key=key).assignment


@pytest.mark.parametrize("k", [1, 2, 4])
def test_k_distinct_experts_with_equal_gates(k):
    expert_GSK, gate_GSK = choose(k, jax.random.key(0))
    assert expert_GSK.shape == gate_GSK.shape == (G, S, k)
    assert (np.diff(np.sort(expert_GSK, axis=-1), axis=-1) > 0).all()
    assert expert_GSK.min() == 0 and expert_GSK.max() == E - 1
    np.testing.assert_array_equal(gate_GSK, np.float32(1 / k))
    assert expert_GSK.dtype == jnp.int32 and gate_GSK.dtype == jnp.float32


@pytest.mark.parametrize("k", [1, 2])
def test_uniform_over_ordered_choices(k):
    """Chi squared over all ordered choices of K experts; 99.99 % are below 4.9 deviations."""
    expert_GSK = np.array(choose(k, jax.random.key(1)).expert_GSK).reshape(-1, k)
    number = (expert_GSK * E ** np.arange(k)).sum(1)
    _, counts = np.unique(number, return_counts=True)
    cells = {1: E, 2: E * (E - 1)}[k]
    assert len(counts) == cells
    expected = G * S / cells
    chi = ((counts - expected) ** 2 / expected).sum()
    assert chi < (cells - 1) + 4.9 * np.sqrt(2 * (cells - 1))


def test_the_key_decides():
    first, again, other = (choose(1, jax.random.key(seed)).expert_GSK for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert 0.15 < np.mean(first == other) < 0.35  # a quarter agree by chance


def test_neighbours_and_groups_are_independent():
    expert_GS = np.array(choose(1, jax.random.key(2)).expert_GSK)[..., 0]
    assert 0.15 < np.mean(expert_GS[:, 1:] == expert_GS[:, :-1]) < 0.35
    assert 0.15 < np.mean(expert_GS[1:] == expert_GS[:-1]) < 0.35


def test_padding_goes_to_the_expert_that_does_not_exist():
    mask_GS = jnp.arange(S)[None] < jnp.arange(G)[:, None]
    expert_GSK, gate_GSK = choose(2, jax.random.key(0), mask_GS)
    real_GSK = np.broadcast_to(mask_GS[..., None], expert_GSK.shape)
    assert (np.array(expert_GSK)[~real_GSK] == E).all() and (expert_GSK[real_GSK] < E).all()
    np.testing.assert_array_equal(gate_GSK, np.where(real_GSK, np.float32(0.5), 0))
