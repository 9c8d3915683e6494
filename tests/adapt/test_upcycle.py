"""A dense model with experts says what it said, where that is claimed."""

import pathlib

import jax
import numpy as np
import pytest

from moe import interop
from moe.adapt import upcycle
from moe.adapt.banks import Trained
from moe.routing import ranked
from tests import tiny
from tests.adapt import cases

GOLDENS = pathlib.Path(__file__).parents[1] / "interop" / "goldens"
KEY = jax.random.key(0)
EXACT = {"rtol": 1e-6, "atol": 1e-6}


def dense(seed=0, **changes):
    config = tiny.model(experts=None, d_ff=8, **changes)
    return Trained(config, tiny.params(config, seed), {})


def experts(**changes):
    room = {"capacity_factor": 16.0, "eval_capacity_factor": 16.0}
    return tiny.moe_config(**{"k": 2, **room, **changes})


def assert_same_model(got, want):
    tiny.assert_close(cases.logits(got), cases.logits(want), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("activation", "layers", "moe_every"), [("gelu", 2, 1), ("swiglu", 4, 2), ("gelu", 4, 4)]
)
def test_copies(activation, layers, moe_every):
    parent = dense(activation=activation, num_layers=layers)
    made = upcycle.copies(parent, experts(), KEY, moe_every)
    assert made.model.moe_layers == layers // moe_every
    assert_same_model(made, parent)


@pytest.mark.parametrize("router", ["sigmoid", "noisy_top_k", "merged"])
def test_copies_by_every_router_whose_gates_sum_to_one(router):
    assert_same_model(upcycle.copies(dense(), experts(router=router), KEY), dense())


def test_one_choice_is_about_the_same():
    """Its gate is somewhat above 1 / E."""
    parent = dense()
    made = upcycle.copies(parent, experts(k=1), KEY)
    got, want = cases.logits(made), cases.logits(parent)
    error = np.abs(got - want).max() / np.abs(want).max()
    assert 1e-6 < error < 0.15
    raw = experts(k=2, options=ranked.Options(normalise_gates=False))
    got = cases.logits(upcycle.copies(parent, raw, KEY))
    assert 1e-6 < np.abs(got - want).max() / np.abs(want).max() < 0.15
    options = ranked.Options(normalise_gates=True)
    assert_same_model(upcycle.copies(parent, experts(k=1, options=options), KEY), parent)


@pytest.mark.parametrize("k", [1, 2])
def test_parts_and_more_of_them(k):
    """Whole copies are chosen, since the columns of their parts are equal."""
    parent = dense(activation="swiglu")
    options = ranked.Options(normalise_gates=True)
    made = upcycle.copies(parent, experts(k=k, options=options), KEY)
    fine = upcycle.granular(made, 4)
    assert (fine.model.experts.num_experts, fine.model.experts.k) == (16, 4 * k)
    assert fine.model.experts.d_ff == 2
    assert_same_model(fine, parent)
    assert_same_model(upcycle.expanded(fine, 2), parent)


@pytest.mark.parametrize("k", [1, 2])
def test_experts_that_were_trained_are_repeated(k):
    """Gates are halved, whether they are probabilities or sum to 1."""
    found = cases.trained(experts={"k": k})
    more = upcycle.expanded(found, 2)
    assert (more.model.experts.num_experts, more.model.experts.k) == (16, 2 * k)
    assert_same_model(more, found)


def test_drawn_units():
    made = upcycle.copies(dense(activation="swiglu"), experts(num_experts=8), KEY)
    drawn = upcycle.reinitialised(made, 0.5, jax.random.key(1))
    before, after = (
        {n: np.asarray(w) for n, w in t.params["block"]["layer_0"]["moe"]["experts"].items()}
        for t in (made, drawn)
    )
    changed_LEF = (before["w_in"] != after["w_in"]).any(-2)
    assert (changed_LEF.sum(-1) == 4).all()
    assert (changed_LEF[:, 0] != changed_LEF[:, 1]).any()
    np.testing.assert_array_equal(changed_LEF, (before["w_out"] != after["w_out"]).any(-1))
    np.testing.assert_array_equal(changed_LEF, (before["w_gate"] != after["w_gate"]).any(-2))
    assert 0.5 < after["w_in"].std() / before["w_in"].std() < 2
    assert_same_model(upcycle.reinitialised(made, 0.0, KEY), made)


def test_several_parents():
    """Each expert is one parent's, and the rest their mean."""
    parents = [dense(seed) for seed in range(2)]
    made = upcycle.of_parents(parents, experts(), KEY)
    for e in range(4):
        own = parents[e % 2].params["block"]["layer_1"]["ffn"]["w_out"]
        moe = made.params["block"]["layer_0"]["moe"]  # blocks of one layer now
        tiny.assert_equal(np.asarray(moe["experts"]["w_out"][1::2, e]), np.asarray(own))
    mean = (parents[0].params["embed"] + parents[1].params["embed"]) / 2
    tiny.assert_close(made.params["embed"], mean)
    assert_same_model(upcycle.of_parents([parents[0]] * 3, experts(), KEY), parents[0])


def test_a_published_parent():
    config, params = interop.load(GOLDENS / "llama")
    parent = Trained(config, params, {})
    made = upcycle.copies(parent, experts(d_ff=config.d_ff), KEY)
    batch = tiny.inputs()
    tiny.assert_close(cases.logits(made, batch), cases.logits(parent, batch), rtol=1e-4, atol=1e-5)


def test_on_a_mesh():
    parent = dense()
    want = cases.logits(parent)
    with tiny.on("2x2x2"):
        there = Trained(parent.model, tiny.params(parent.model), {})
        made = upcycle.granular(upcycle.copies(there, experts(), KEY, 2), 2)
        tiny.assert_close(cases.logits(made), want, rtol=1e-4, atol=1e-5)
        drawn = upcycle.reinitialised(made, 0.5, KEY)
        assert np.isfinite(cases.logits(drawn)).all()


def test_what_cannot_be():
    with pytest.raises(ValueError, match="experts.d_ff=4 of copies must be the parent's"):
        upcycle.copies(dense(), experts(d_ff=4), KEY)
    with pytest.raises(ValueError, match="moe_every=3 does not divide"):
        upcycle.copies(dense(), experts(), KEY, 3)
    with pytest.raises(ValueError, match="the parent has experts already"):
        upcycle.copies(cases.trained(), experts(), KEY)
    with pytest.raises(ValueError, match="shared_experts=1 would add"):
        upcycle.copies(dense(), experts(shared_experts=1), KEY)
    with pytest.raises(ValueError, match="parents of different sizes"):
        upcycle.of_parents([dense(), dense(activation="relu")], experts(), KEY)
    for router, k in (("sigmoid", 1), ("gshard", 2), ("hash", 1)):
        with pytest.raises(ValueError, match="it is not known how large a token's gates are"):
            upcycle.copies(dense(), experts(router=router, k=k), KEY)
    made = upcycle.copies(dense(), experts(k=1), KEY)
    with pytest.raises(ValueError, match="gates that do not sum to 1 would weigh parts"):
        upcycle.granular(made, 2)
    with pytest.raises(ValueError, match="expected a divisor of experts.d_ff=8; got 3 parts"):
        upcycle.granular(upcycle.copies(dense(), experts(), KEY), 3)
    with pytest.raises(ValueError, match="only top_k without expert_groups"):
        upcycle.expanded(cases.trained(experts={"router": "sigmoid"}), 2)
    with pytest.raises(ValueError, match="expected a share from 0 to 1"):
        upcycle.reinitialised(made, 2.0, KEY)
    with pytest.raises(ValueError, match="this model is dense"):
        upcycle.expanded(dense(), 2)
