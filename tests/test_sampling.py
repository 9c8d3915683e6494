"""Drawing a token: frequencies, and what top-k, top-p and min-p leave of a distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import sampling
from moe.sampling import Sampling

P = np.array([0.5, 0.3, 0.15, 0.05])
LOGITS = jnp.log(jnp.array([P, P[::-1]])) + 3  # softmax ignores the 3


def frequencies(how, draws=20_000):
    logits_BV = jnp.broadcast_to(LOGITS[:1], (draws, 4))
    return np.bincount(sampling.sample(logits_BV, how, jax.random.key(0)), minlength=4) / draws


@pytest.mark.parametrize(
    ("how", "want"),
    [
        (Sampling(), P),
        (Sampling(temperature=0.5), P**2 / (P**2).sum()),
        (Sampling(top_k=2), np.array([5, 3, 0, 0]) / 8),
        (Sampling(top_p=0.9), np.array([10, 6, 3, 0]) / 19),
        (Sampling(min_p=0.5), np.array([5, 3, 0, 0]) / 8),
        (Sampling(temperature=0.0), np.array([1, 0, 0, 0])),
    ],
)
def test_draws_have_the_frequencies_of_what_is_left(how, want):
    np.testing.assert_allclose(frequencies(how), want, atol=0.012)  # three standard deviations


@pytest.mark.parametrize(
    ("how", "left"),
    [
        (Sampling(top_k=1), 1),
        (Sampling(top_k=99), 4),
        (Sampling(top_p=0.49), 1),
        (Sampling(top_p=0.51), 2),
        (Sampling(top_p=1e-6), 1),
        (Sampling(min_p=1.0), 1),
        (Sampling(min_p=0.31), 2),  # 0.15 is 0.3 of 0.5
        (Sampling(min_p=0.29), 3),
        (Sampling(temperature=2.0, min_p=0.5), 3),  # the roots of 0.6 and 0.3 are above a half
        (Sampling(top_k=3, top_p=0.6), 2),  # of 0.95 that are left 0.5 are 0.53
        (Sampling(top_k=2, top_p=0.6), 1),  # of 0.8 that are left 0.5 are 0.63
    ],
)
def test_so_many_are_left(how, left):
    """In both orders of the tokens."""
    limited = np.asarray(sampling.limited(LOGITS / how.temperature, how))
    assert np.isfinite(limited[0]).tolist() == [i < left for i in range(4)]
    assert np.isfinite(limited[1]).tolist() == [i >= 4 - left for i in range(4)]
    np.testing.assert_array_equal(limited[0][:left], (LOGITS / how.temperature)[0][:left])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Sampling(temperature=-1.0), "temperature=-1.0 must be 0 or more"),
        (Sampling(temperature=float("nan")), "temperature=nan must be 0 or more"),
        (Sampling(top_k=-1), "top_k=-1 must be"),
        (Sampling(top_p=0.0), "top_p=0.0 must be above 0"),
        (Sampling(min_p=1.5), "min_p=1.5 must be between"),
        (Sampling(temperature=0.0, top_k=3), "takes the most probable token, so .*top_k=3"),
    ],
)
def test_what_draws_nothing_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        how.check()
