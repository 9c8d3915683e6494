"""The loss of a changed model is that of its objective."""

import jax
import numpy as np
import pytest

from moe import objectives
from moe.adapt import observing
from moe.adapt.banks import Trained
from tests import tiny
from tests.adapt import cases
from tests.objectives import test_classification as classes


def test_the_next_token():
    found = cases.trained()
    batches = [tiny.inputs(), tiny.inputs(seed=1)]
    log_p = [cases.logits(found, batch) for batch in batches]
    total = counted = 0.0
    for logits, batch in zip(log_p, batches, strict=True):
        targets = np.asarray(batch.targets_BT)[np.asarray(batch.segment_BT) > 0]
        nll = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(targets)), targets]
        total, counted = total + nll.sum(), counted + len(targets)
    assert observing.loss(found, batches) == pytest.approx(total / counted, rel=1e-5)


def test_classes():
    """Of a model that has one score a row, not of its tokens."""
    config = classes.CONFIG
    found = Trained(config, tiny.params(config), tiny.routing_state(config))
    batch = tiny.inputs()
    batch = batch._replace(domain_BT=np.zeros_like(batch.tokens_BT))
    task = objectives.task(config)
    forward = jax.jit(task.forward, static_argnums=4)
    sums = forward(found.params, found.router_state, batch, jax.random.key(0), False).sums
    got = observing.loss(found, [batch])
    assert got == pytest.approx(float(sums.nll / sums.targets), rel=1e-5)
