"""Experts that nobody needs go, and nothing else changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import models
from moe.adapt import banks, observing, prune
from moe.adapt.banks import Trained
from moe.execution import Execution
from tests import tiny
from tests.adapt import cases


@pytest.fixture(scope="module")
def trained():
    return cases.trained()


@pytest.fixture(scope="module")
def use(trained):
    return observing.observe(trained, [tiny.inputs(), tiny.inputs(seed=1)], observing.use)


def test_use_by_hand(trained, use):
    """Tokens, gates and outputs of experts, summed one token at a time."""
    want = np.zeros((3, 2, 8))
    for batch in (tiny.inputs(), tiny.inputs(seed=1)):
        for layer, record in enumerate(by_layer(trained, batch)):
            want[:, layer] += by_token(trained, layer, *record)
    tiny.assert_close(np.stack(use), want, rtol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def watched(model, params, batch):
    built = models.build(model, Execution(watched=True))
    return built.apply(params, {}, batch, key=jax.random.key(0), train=False)


def by_layer(trained, batch):
    """(x_SD, expert_SK, gate_SK) of each layer."""
    (record,) = watched(trained.model, trained.params, batch).by_stack
    for layer in range(2):
        flat = (np.asarray(x[layer]) for x in (record.x_GSD, *record.assignment))
        yield [x.reshape(-1, x.shape[-1]) for x in flat]


def by_token(trained, layer, x_SD, expert_SK, gate_SK):
    found = np.zeros((3, 8))
    w = banks.of(trained)[0]["experts"]
    for x_D, expert_K, gate_K in zip(x_SD, expert_SK, gate_SK, strict=True):
        for e, gate in zip(expert_K, gate_K, strict=True):
            if e < 8:
                h_F = np.asarray(jax.nn.gelu(x_D @ np.asarray(w["w_in"][layer, e])))
                norm = np.linalg.norm(h_F @ np.asarray(w["w_out"][layer, e]))
                found[:, e] += [1, gate, gate * norm]
    return found


def test_reap_is_a_mean_over_the_tokens_that_chose():
    use = observing.Use(np.array([[4.0, 0.0, 2.0]]), np.ones((1, 3)), np.array([[2.0, 0.0, 3.0]]))
    np.testing.assert_allclose(prune.reap(use), [[0.5, 0.0, 1.5]])
    np.testing.assert_array_equal(prune.best(prune.reap(use), 2), [[0, 2]])
    np.testing.assert_array_equal(prune.best(prune.by_use(use), 2), [[0, 2]])
    np.testing.assert_array_equal(prune.best(np.ones((2, 3)), 2), [[0, 1]] * 2)


def test_experts_that_no_token_chose_change_nothing(trained):
    """Six tokens choose at most twelve of 16 experts, others in each layer."""
    found = cases.trained(experts={"num_experts": 16})
    batch = few_tokens()
    use = observing.observe(found, [batch], observing.use)
    assert ((use.tokens > 0).sum(1) <= 12).all()
    smaller = prune.keep(found, prune.best(prune.by_use(use), 12))
    assert smaller.model.experts.num_experts == 12
    assert smaller.params["block"]["layer_1"]["moe"]["experts"]["w_in"].shape[1] == 12
    tiny.assert_close(cases.logits(smaller, batch), cases.logits(found, batch))


def few_tokens():
    batch = tiny.inputs(padded=False)
    keep_BT = np.zeros_like(batch.segment_BT)
    keep_BT[0, :6] = 1
    return batch._replace(segment_BT=np.asarray(batch.segment_BT) * keep_BT)


def test_a_bias_goes_with_its_expert():
    """An expert whose bias keeps all away is taken out of the bias, too."""
    found = cases.trained(experts={"router": "sigmoid"})
    bias_LE = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32) / 100
    bias_LE[:, 3] = -100.0
    found = found._replace(router_state={"bias": jnp.asarray(bias_LE)})
    kept_LE = np.array([[0, 1, 2, 4, 5, 6, 7]] * 2)
    smaller = prune.keep(found, kept_LE)
    np.testing.assert_array_equal(smaller.router_state["bias"], bias_LE[:, kept_LE[0]])
    tiny.assert_close(cases.logits(smaller), cases.logits(found))


def test_on_a_mesh(trained, use):
    kept_LE = prune.best(prune.reap(use), 4)
    want = cases.logits(prune.keep(trained, kept_LE))
    with tiny.on("2x2x2"):
        there = Trained(trained.model, tiny.params(trained.model), {})
        seen = observing.observe(there, [tiny.inputs(), tiny.inputs(seed=1)], observing.use)
        smaller = prune.keep(there, kept_LE)
        got = cases.logits(smaller)
    tiny.assert_close(np.stack(seen), np.stack(use), rtol=1e-4)
    tiny.assert_close(got, want, rtol=1e-4)


def test_one_task_alone(trained, use):
    """What is seen of each domain adds up to what is seen of all."""
    batch = tiny.inputs()
    domain_BT = np.random.default_rng(0).integers(0, 2, np.shape(batch.tokens_BT))
    batch = batch._replace(domain_BT=domain_BT.astype(np.int32))
    parts = [observing.observe(trained, [batch], observing.use, domain) for domain in (0, 1)]
    whole = observing.observe(trained, [batch], observing.use)
    tiny.assert_close(np.stack(parts[0]) + np.stack(parts[1]), np.stack(whole), rtol=1e-4)
    with pytest.raises(ValueError, match="no token to look at: give batches of text of domain 5"):
        observing.observe(trained, [batch], observing.use, 5)


def test_what_cannot_be(trained, use):
    with pytest.raises(ValueError, match="expected from 1 to 8 experts to stay in each layer"):
        prune.best(prune.reap(use), 9)
    with pytest.raises(ValueError, match="experts.k=2 exceeds num_experts=1"):
        prune.keep(trained, np.zeros((2, 1), int))
    with pytest.raises(ValueError, match="scores are not finite"):
        prune.best(np.array([[np.nan, 1.0]]), 1)
    with pytest.raises(ValueError, match="no token to look at"):
        observing.observe(trained, [], observing.use)
    table = cases.trained(experts={"router": "hash"})
    with pytest.raises(ValueError, match="'hash' with these options does not have one column"):
        prune.keep(table, np.zeros((2, 4), int))
    with pytest.raises(ValueError, match="this model is dense"):
        prune.check(Trained(tiny.model(experts=None), {}, {}))
