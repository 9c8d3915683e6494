"""The posterior over domains is that of Bayes, by hand; and models are averaged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.ensemble import average, domain_models, posterior
from tests import tiny
from tests.adapt import cases


def by_hand(logp_NT, prior_N):
    """p(d | x_<t) and p(x_t | x_<t) of one document, product by product."""
    weight_N = np.array(prior_N, float)
    weights, found = [], []
    for p_N in np.exp(np.array(logp_NT, float)).T:
        weights.append(weight_N / weight_N.sum())
        found.append((weights[-1] * p_N).sum())
        weight_N = weight_N * p_N
    return np.array(weights).T, np.array(found)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10**6), st.integers(1, 7))
def test_bayes_by_hand(domains, seed, first):
    """Two documents and padding in a row: each begins with the prior."""
    rng = np.random.default_rng(seed)
    logp_NBT = -rng.exponential(2.0, (domains, 1, 10)).astype(np.float32)
    segment_BT = np.array([[1] * first + [2] * (8 - first) + [0, 0]])
    prior_N = rng.dirichlet(np.ones(domains)).astype(np.float32)
    log_NBT = posterior.before(jnp.asarray(logp_NBT), segment_BT, prior_N[:, None])
    tiny.assert_close(jnp.exp(log_NBT).sum(0), np.ones((1, 10)))
    got_BT = np.exp(posterior.mixed(logp_NBT, log_NBT))
    for part in (slice(0, first), slice(first, 8)):
        weights, want = by_hand(logp_NBT[:, 0, part], prior_N)
        tiny.assert_close(np.exp(log_NBT)[:, 0, part], weights, rtol=1e-4, atol=1e-6)
        tiny.assert_close(got_BT[0, part], want, rtol=1e-4, atol=1e-6)


def test_no_token_weighs_its_own_models():
    """Another last token changes nothing of what was known before it."""
    logp_NBT = jnp.log(jnp.array([[[0.5, 0.25]], [[0.25, 0.5]]]))
    ones = jnp.ones((1, 2), jnp.int32)
    found = posterior.before(logp_NBT, ones, posterior.uniform(2)[:, None])
    other = posterior.before(logp_NBT.at[:, 0, 1].set(-9.0), ones, posterior.uniform(2)[:, None])
    tiny.assert_equal(np.asarray(found), np.asarray(other))
    tiny.assert_close(np.exp(found)[:, 0, 1], [2 / 3, 1 / 3])
    certain = posterior.before(logp_NBT, ones, jnp.array([[0.0], [1.0]]))
    tiny.assert_close(np.exp(certain)[:, 0], [[0, 0], [1, 1]])


def test_priors():
    """Of texts seen before, and of a stream, in which what was never likely stays possible."""
    logp_NX = np.log([[0.25, 0.5], [0.125, 1e-30]])
    after_XN = posterior.after(logp_NX, posterior.uniform(2))
    tiny.assert_close(after_XN, [[2 / 3, 1 / 3], [1, 0]])
    tiny.assert_close(posterior.cached(after_XN), [5 / 6, 1 / 6])
    prior = posterior.uniform(2)
    for _ in range(3):
        prior = posterior.updated(prior, np.array([1.0, 0.0]))
    tiny.assert_close(prior, [1 - 0.5 * 0.7**3, 0.5 * 0.7**3])


def test_a_stream_of_one_kind_is_told_from_its_rows():
    """Rows of the second domain: the prior learns it, and one that knew it does better."""
    rng = np.random.default_rng(0)
    logp_NXT = np.stack([rng.normal(-3, 0.1, (6, 4)), rng.normal(-2, 0.1, (6, 4))])
    text = domain_models.Scored(logp_NXT.astype(np.float32), np.ones((6, 4), int))
    losses = [domain_models.with_prior(text, p) for p in (posterior.uniform(2), [0.01, 0.99])]
    assert losses[1] < domain_models.updating(text) < losses[0]
    assert domain_models.cached(text)[1] > 0.9
    certain = domain_models.with_prior(text, np.array([0.0, 1.0]))
    assert certain == pytest.approx(domain_models.nats(text.logp_NXT[1], text.segment_XT))


def test_models_are_averaged():
    models = [cases.trained(seed) for seed in range(2)]
    found = average.averaged(models, [0.25, 0.75])
    want = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, models[0].params, models[1].params)
    tiny.assert_close(found.params["embed"], want["embed"])
    same = average.averaged([models[0]] * 2, [0.5, 0.5])
    tiny.assert_close(cases.logits(same), cases.logits(models[0]))
    with pytest.raises(ValueError, match="expected 2 weights from 0 that sum to 1; got"):
        average.averaged(models, [0.5, 0.6])
    with pytest.raises(ValueError, match="expected models of one size"):
        average.averaged([models[0], cases.trained(experts={"k": 1})], [0.5, 0.5])
