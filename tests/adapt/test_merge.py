"""Experts that are alike become one, and nothing else changes."""

import numpy as np
import pytest

from moe import adapt
from moe.adapt import merge, observing
from moe.adapt.banks import Trained
from tests import tiny
from tests.adapt import cases

PAIRS = np.repeat(np.arange(4), 2)[None].repeat(2, 0)  # group_LE


def copies(name, w):
    """Every second expert is the one before it."""
    return w[:, np.arange(8) // 2 * 2]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_equal_experts_merge_into_one(k):
    """Tokens go where they went, though two of their choices may lead to one expert."""
    found = cases.with_experts(cases.trained(experts={"k": k}), copies)
    smaller = merge.to_fewer(found, PAIRS, np.ones((2, 8)))
    assert smaller.model.experts.num_experts == 4
    assert smaller.model.experts.options.columns == 8
    tiny.assert_close(cases.logits(smaller), cases.logits(found))
    again = merge.to_fewer(smaller, np.array([[0, 1, 2, 2]] * 2), np.ones((2, 4)))
    assert np.asarray(again.router_state["expert"])[1].tolist() == [0, 0, 1, 1, 2, 2, 2, 2]


def test_equal_experts_make_a_dense_model():
    found = cases.trained(experts={"d_ff": 16})
    found = cases.with_experts(found, lambda name, w: w[:, :1].repeat(8, 1))
    dense = merge.to_dense(found, np.ones((2, 8)))
    assert dense.model.experts is None
    tiny.assert_close(cases.logits(dense), cases.logits(found))


def test_a_dense_model_is_as_loud_as_the_experts_were():
    """With one choice a gate is a probability: the mean of gates stands for each of them."""
    found = cases.trained(experts={"d_ff": 16, "k": 1})
    found = cases.with_experts(found, lambda name, w: w[:, :1].repeat(8, 1))

    def look(measure, trained):
        return observing.observe(trained, [tiny.inputs()], measure)

    dense = adapt.METHODS["merge_use"].apply(found, adapt.Ask(look))
    loud = merge.to_dense(found, np.ones((2, 8)))
    want = cases.logits(found)
    errors = [np.abs(cases.logits(model) - want).mean() for model in (dense, loud)]
    assert errors[0] < errors[1] / 3


def test_means_are_weighted():
    found = cases.trained()
    weight_LE = np.random.default_rng(0).uniform(size=(2, 8))
    weight_LE[:, :2] = 0  # a group that nobody uses: a plain mean
    smaller = merge.to_fewer(found, PAIRS, weight_LE)
    before = np.asarray(found.params["block"]["layer_1"]["moe"]["experts"]["w_out"])
    after = np.asarray(smaller.params["block"]["layer_1"]["moe"]["experts"]["w_out"])
    tiny.assert_close(after[:, 0], before[:, :2].mean(1))
    share = weight_LE[1, 6] / weight_LE[1, 6:].sum()
    tiny.assert_close(after[1, 3], share * before[1, 6] + (1 - share) * before[1, 7])


def test_hidden_units_are_aligned():
    """Copies in another order become equal, and the model says what it said."""
    order_EF = np.stack([np.random.default_rng(e).permutation(8) for e in range(8)])

    def shuffled(name, w):
        w = w[:, :1].repeat(8, 1)
        if name == "w_out":
            return np.take_along_axis(w, order_EF[None, :, :, None], axis=2)
        return np.take_along_axis(w, order_EF[None, :, None], axis=3)

    found = cases.with_experts(cases.trained(activation="swiglu"), shuffled)
    same = merge.aligned(found, np.zeros((2, 8), int))
    tiny.assert_close(cases.logits(same), cases.logits(found))
    for w in same.params["block"]["layer_1"]["moe"]["experts"].values():
        tiny.assert_equal(np.asarray(w), np.asarray(w)[:, :1].repeat(8, 1))


def test_others_join_the_leader_that_scores_most_alike():
    use_LE = np.array([[5, 1, 9, 0, 0, 0, 0, 0]] * 2)
    found = cases.trained()
    router = np.asarray(found.params["block"]["layer_1"]["moe"]["router"]).copy()
    router[:, :, 0], router[:, :, 2] = np.eye(8)[:2]
    for expert, near in enumerate([0, 2, 2, 0, 2, 0, 2, 0]):
        router[:, :, expert] = router[:, :, near] * (1 + expert)
    moe = found.params["block"]["layer_1"]["moe"] | {"router": router}
    layer = found.params["block"]["layer_1"] | {"moe": moe}
    block = found.params["block"] | {"layer_1": layer}
    found = found._replace(params=found.params | {"block": block})
    moments_LEDD = np.eye(8)[None, None].repeat(2, 0).repeat(8, 1)
    group_LE = merge.grouped(found, use_LE, moments_LEDD, 2)
    np.testing.assert_array_equal(group_LE, [[0, 1, 1, 0, 1, 0, 1, 0]] * 2)
    np.testing.assert_array_equal(merge.leaders(group_LE, use_LE), [[0, 2, 2, 0, 2, 0, 2, 0]] * 2)


def test_on_a_mesh():
    found = cases.trained(experts={"d_ff": 16})
    leader_LE = PAIRS * 2
    weight_LE = np.random.default_rng(0).uniform(size=(2, 8))

    def both(found):
        moments = observing.observe(found, [tiny.inputs()], observing.moments)
        same = merge.aligned(found, leader_LE)
        fewer = merge.to_fewer(same, PAIRS, weight_LE)
        dense = merge.to_dense(same, weight_LE)
        return moments, cases.logits(fewer), cases.logits(dense)

    want = both(found)
    with tiny.on("2x2x2"):
        got = both(Trained(found.model, tiny.params(found.model), {}))
    for ours, theirs in zip(got, want, strict=True):
        tiny.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_cannot_be():
    found = cases.trained()
    with pytest.raises(ValueError, match="experts are 8 wide and dense layers 16"):
        merge.to_dense(found, np.ones((2, 8)))
    with pytest.raises(ValueError, match=r"no expert of MoE layer 1 is in the groups \[0\]"):
        merge.to_fewer(found, np.array([[0, 1] * 4, [1] * 8]), np.ones((2, 8)))
    with pytest.raises(ValueError, match="'sigmoid' with these options cannot lead to merged"):
        merge.check(cases.trained(experts={"router": "sigmoid"}))
    with pytest.raises(ValueError, match="expected from 1 to 8 groups of 8 experts; got 0"):
        merge.grouped(found, np.ones((2, 8)), np.ones((2, 8, 8, 8)), 0)
