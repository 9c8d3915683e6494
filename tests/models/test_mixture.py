"""The mixture of 1991: its losses against their definitions, and a single network as one expert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.models import mixture
from moe.models.mixture import MixtureConfig

CONFIG = MixtureConfig(inputs=2, outputs=2, experts=3)


@pytest.fixture
def problem():
    """Log gates [R, E], outputs [R, E, O], targets [R, O]."""
    keys = jax.random.split(jax.random.key(0), 3)
    log_gate_RE = jax.nn.log_softmax(jax.random.normal(keys[0], (5, 3)))
    return log_gate_RE, jax.random.normal(keys[1], (5, 3, 2)), jax.random.normal(keys[2], (5, 2))


def test_losses_are_the_equations(problem):
    log_p, o, d = (np.asarray(a, float) for a in problem)
    p = np.exp(log_p)
    squares = ((d[:, None] - o) ** 2).sum(-1)
    want = {
        "cooperative": ((d - (p[..., None] * o).sum(1)) ** 2).sum(-1),
        "expected": (p * squares).sum(-1),
        "competitive": -np.log((p * np.exp(-squares / 2)).sum(-1)),
    }
    assert set(want) == set(mixture.LOSSES)
    for name, values in want.items():
        np.testing.assert_allclose(mixture.LOSSES[name](*problem), values, rtol=1e-5, err_msg=name)


def test_an_expert_learns_by_its_posterior(problem):
    """Equation 1.5: the gradient of the competitive loss is -h (d - o)."""
    log_gate_RE, out_REO, target_RO = problem
    slope = jax.grad(lambda o: mixture.competitive(log_gate_RE, o, target_RO).sum())(out_REO)
    gap = target_RO[:, None] - out_REO
    post_RE = jax.nn.softmax(log_gate_RE - jnp.square(gap).sum(-1) / 2)
    np.testing.assert_allclose(slope, -post_RE[..., None] * gap, rtol=1e-4, atol=1e-6)


def test_one_expert_is_one_network():
    """Its gate is 1, and the competitive loss is half the squared error."""
    config = MixtureConfig(inputs=2, outputs=2, experts=1, hidden=3)
    params = mixture.init(config, jax.random.key(1))
    x_RI = jax.random.normal(jax.random.key(2), (5, 2))
    hidden = jax.nn.sigmoid(mixture.with_bias(x_RI) @ params["hidden"][0])
    want = jax.nn.sigmoid(mixture.with_bias(hidden) @ params["out"][0])
    log_gate_RE, out_REO = mixture.log_gates(params, x_RI), mixture.outputs(config, params, x_RI)
    np.testing.assert_allclose(mixture.blend(log_gate_RE, out_REO), want, rtol=1e-6)
    target_RO = jnp.ones((5, 2))
    half = jnp.square(target_RO - want).sum(-1) / 2
    np.testing.assert_allclose(
        mixture.competitive(log_gate_RE, out_REO, target_RO), half, rtol=1e-5
    )


def test_weights_are_as_many_as_in_the_paper():
    """4 and 8 experts with one output have about as many as 6 and 12 hidden units."""
    sizes = [{"experts": 4}, {"experts": 1, "hidden": 6}]
    sizes += [{"experts": 8}, {"experts": 1, "hidden": 12}]
    found = [mixture.parameters(MixtureConfig(inputs=2, outputs=1, **size)) for size in sizes]
    assert found == [24, 25, 48, 49]


def test_wrong_configs_are_refused():
    with pytest.raises(ValueError, match="mixture.squash='relu' is not one of"):
        MixtureConfig(inputs=2, outputs=1, squash="relu")
    with pytest.raises(ValueError, match="mixture.experts=0 must be above 0"):
        MixtureConfig(inputs=2, outputs=1, experts=0)
