"""The mixture of 1991: its losses against their definitions, and a single network as one expert."""

import jax
import numpy as np
import pytest

from moe.models import mixture
from moe.models.mixture import MixtureConfig


@pytest.fixture
def problem():
    """Log gates [R, E], outputs [R, E, O], targets [R, O]."""
    rng = np.random.default_rng(0)
    gate_RE = rng.dirichlet(np.ones(3), 5)
    found = np.log(gate_RE), rng.normal(size=(5, 3, 2)), rng.normal(size=(5, 2))
    return [a.astype(np.float32) for a in found]


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
        np.testing.assert_allclose(
            jax.jit(mixture.LOSSES[name])(*problem), values, rtol=1e-5, err_msg=name
        )


def test_an_expert_learns_by_its_posterior(problem):
    """Equation 1.5: the gradient of the competitive loss is -h (d - o)."""
    log_gate_RE, out_REO, target_RO = problem
    of_outputs = jax.grad(lambda o: mixture.competitive(log_gate_RE, o, target_RO).sum())
    slope = jax.jit(of_outputs)(out_REO)
    gap = target_RO[:, None] - out_REO
    joint_RE = np.exp(log_gate_RE - (gap**2).sum(-1) / 2)
    post_RE = joint_RE / joint_RE.sum(-1, keepdims=True)
    np.testing.assert_allclose(slope, -post_RE[..., None] * gap, rtol=1e-4, atol=1e-6)


def test_one_expert_is_one_network():
    """Its gate is 1, and the competitive loss is half the squared error."""
    config = MixtureConfig(inputs=2, outputs=2, experts=1, hidden=3)
    x_RI, target_RO = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)

    @jax.jit
    def run(key):
        params = mixture.init(config, key)
        said = mixture.log_gates(params, x_RI), mixture.outputs(config, params, x_RI)
        return params, mixture.blend(*said), mixture.competitive(*said, target_RO)

    params, answer_RO, loss_R = jax.tree.map(np.asarray, run(jax.random.key(1)))
    hidden = logistic(np.c_[x_RI, np.ones(5)] @ params["hidden"][0])
    want = logistic(np.c_[hidden, np.ones(5)] @ params["out"][0])
    np.testing.assert_allclose(answer_RO, want, rtol=1e-5)
    np.testing.assert_allclose(loss_R, ((target_RO - want) ** 2).sum(-1) / 2, rtol=1e-4)


def logistic(x):
    return 1 / (1 + np.exp(-x))


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
