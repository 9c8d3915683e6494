"""What steps ask of experts, counted by hand and by the dispatcher itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import ffn
from moe.analysis import decode_loads
from moe.dispatch import blocks
from moe.routing import assignment

CHOSEN = np.array([[[[0, 1], [2, 3]], [[0, 4], [2, 1]]]])  # one layer, two texts, two steps; E = 4
COUNT_TLE = np.array([[[2, 1, 0, 0]], [[0, 1, 2, 1]]])


def test_tokens_are_counted_step_by_step():
    np.testing.assert_array_equal(decode_loads.per_step(CHOSEN, 4), COUNT_TLE)
    found = decode_loads.summary(COUNT_TLE)
    assert found["mean"] == 7 / 8 and found["largest"] == pytest.approx(2 / (7 / 8))
    assert found["varies"] == pytest.approx(np.sqrt((1 + 0 + 1 + 1 / 4) / 4) / (7 / 8))
    assert found["read"] == 5 / 8 and found["unused"] == 0
    assert decode_loads.summary(COUNT_TLE[:1])["unused"] == 1 / 2


def test_others_wait_for_the_busiest_device():
    apart, together = np.array([[0, 1, 0, 1]]), np.array([[0, 0, 1, 1]])
    assert decode_loads.largest_device(COUNT_TLE, apart) == pytest.approx(2 / (7 / 4))
    assert decode_loads.largest_device(COUNT_TLE, together) == pytest.approx(3 / (7 / 4))
    used_LE = np.array([[9, 8, 1, 2]])
    found = decode_loads.placements(used_LE, 2)
    assert found["in_turn"].tolist() == [[0, 0, 1, 1]]
    assert found["even"].tolist() == [[0, 1, 0, 1]]
    assert decode_loads.placements(used_LE, 3) == {}


@pytest.mark.parametrize("tokens", [1, 6])
def test_turns_are_those_of_the_dispatcher(tokens):
    """With fewer choices than experts and with more; expert 0 overflows."""
    E, D, F = 4, 2, 2
    expert_1SK = np.stack([np.zeros(tokens, int), 1 + np.arange(tokens) % 3], axis=1)[None]
    choice = assignment.TopKAssignment(jnp.asarray(expert_1SK), jnp.ones((1, tokens, 2)))
    weights = ffn.Weights(jnp.ones((E, D, F)), jnp.ones((E, F, D)), None)
    _, rows = jax.jit(blocks.apply, static_argnums=3)(
        jnp.ones((tokens, D)), choice, weights, "relu"
    )
    count_TLE = decode_loads.per_step(expert_1SK.reshape(1, tokens, 1, 2), E)
    slots, block = blocks.sizes(2 * tokens, E)
    (turns,) = decode_loads.turns(count_TLE, 2 * tokens)
    assert turns > 0 and int(rows) == E * slots + turns * block
