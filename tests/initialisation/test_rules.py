"""The rules by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from moe.initialisation import RULES

KEY = jax.random.key(0)


def test_take_is_what_was_saved():
    saved = jnp.arange(6.0).reshape(2, 3)
    taken = RULES["take"].apply(jnp.zeros((2, 3), jnp.bfloat16), saved, KEY)
    assert taken.dtype == jnp.bfloat16
    np.testing.assert_array_equal(taken, saved)


def test_tile_gives_every_expert_the_feed_forward():
    saved_LDF = jnp.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    experts_LEDF = RULES["tile"].apply(jnp.zeros((2, 5, 3, 4)), saved_LDF, KEY)
    for e in range(5):
        np.testing.assert_array_equal(experts_LEDF[:, e], saved_LDF)


def test_tile_repeats_a_few_experts():
    saved_EDF = jnp.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    experts_EDF = RULES["tile"].apply(jnp.zeros((6, 3, 4)), saved_EDF, KEY)
    for e in range(6):
        np.testing.assert_array_equal(experts_EDF[e], saved_EDF[e % 2])


def test_fresh_is_what_was_drawn():
    drawn = jnp.ones((2, 3))
    assert not RULES["fresh"].reads
    np.testing.assert_array_equal(RULES["fresh"].apply(drawn, None, KEY), drawn)
