"""Experts that rest with the host are the same as those that never left the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import hosted as experiment
from moe import models, objectives
from moe.adapt import domains
from moe.ensemble import hosted
from moe.routing import rre
from moe.training import optimizer, step
from tests import tiny

EXPERTS = {"num_experts": 6, "k": 1, "router": "rre", "options": rre.Options(groups=3)}
NONE = {"balance_weight": 0.0, "z_weight": 0.0, "router_scale": 0.0}
DROPLESS = {"dispatcher": "grouped", "capacity_factor": 0.0, "eval_capacity_factor": 0.0}
TX = optimizer.make(optimizer.OptimizerConfig(learning_rate=0.01, warmup_steps=1), 10)


@pytest.fixture(scope="module")
def model():
    experts = tiny.moe_config(**EXPERTS, **NONE, **DROPLESS)
    return tiny.model(num_layers=2, experts=experts)


@pytest.fixture(scope="module")
def train_step(model):
    """Of one domain's sub-model."""
    return step.make_train_step(objectives.task(domains.sub_model(model)), TX, 0)


def born(model):
    ids = np.arange(model.vocab_size)
    return step.init(models.build(model), TX, 0, ids)


def rounds(model, train_step, host):
    """Two steps of domain 1, and one of domain 0."""
    at_rest = hosted.apart(born(model), 3, host)
    for domain, seed in ((1, 0), (1, 1), (0, 2)):
        batch = tiny.inputs(seed=seed)
        batch = batch._replace(domain_BT=np.zeros_like(batch.tokens_BT))
        state, _ = train_step(hosted.fetched(at_rest, domain), batch)
        at_rest = hosted.stored(at_rest, domain, state)
    return at_rest


def test_where_experts_rest_changes_no_bit(model, train_step):
    here, away = (rounds(model, train_step, host) for host in (False, True))
    jax.tree.map(np.testing.assert_array_equal, hosted.whole(here), hosted.whole(away))
    assert hosted.held(here.groups).keys() == {jax.devices()[0].default_memory().kind}
    assert hosted.held(away.groups) == {hosted.HOST: sum(hosted.held(here.groups).values())}
    ((_, bytes_fetched),) = hosted.held(hosted.fetched(away, 2)).items()
    ((_, bytes_whole),) = hosted.held(hosted.whole(away)).items()
    assert bytes_fetched == bytes_whole - 2 / 3 * hosted.held(away.groups)[hosted.HOST]


def test_only_experts_of_the_text_are_touched(model, train_step):
    """Parameters and moments of a domain that was not read are those of birth."""
    before = hosted.apart(born(model), 3, host=True)
    after = rounds(model, train_step, host=True)
    jax.tree.map(np.testing.assert_array_equal, before.groups[2], after.groups[2])
    for domain in (0, 1):
        pairs = zip(before.groups[domain], after.groups[domain], strict=True)
        assert all(bool(jnp.any(a != b)) for a, b in pairs)


def test_turns_follow_shares():
    """At any time each domain is within a round of its share."""
    shares = np.array([0.55, 0.3, 0.15])
    order = experiment.turns(shares, 40)
    read = np.cumsum(np.eye(3)[order], axis=0)
    wanted = shares * np.arange(1, 41)[:, None]
    assert np.abs(read - wanted).max() <= 1
