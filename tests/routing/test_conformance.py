"""What every router must hold, over the whole table; a new line there is tested here."""

import dataclasses
import textwrap

import jax
import numpy as np
import pytest

from configs import train as train_config
from moe import routing, schema
from moe.training.config import RunConfig
from tests import tiny
from tests.routing import cases
from tests.routing.cases import CASES, CHOICES, LEARNED, NOISY, TREES, B, T

each = pytest.mark.parametrize("name", CASES)

each_choice = pytest.mark.parametrize("name", CHOICES)

each_learned = pytest.mark.parametrize("name", LEARNED)

DRAWS_ALWAYS = ("gshard", "gshard sampled", "random")  # in evaluation, too

# Not those in which the order of experts means something: groups of them, slots with weights.
EQUIVARIANT = {*LEARNED} - {*DRAWS_ALWAYS, "limited", "soft", "merged", *TREES}

CAUSAL = [name for name, c in CASES.items() if c.experts.causal == "always"]


def test_every_router_has_a_case():
    assert {c.experts.router for c in CASES.values()} == set(routing.ROUTERS)


def test_the_router_of_the_docstring_is_one(monkeypatch):
    """As it stands there, it is a line of the table that the layer can use."""
    code = routing.__doc__.split("in full:")[1].split("Imported below")[0]
    names = {}
    exec(textwrap.dedent(code), names)
    monkeypatch.setitem(routing.ROUTERS, "position", names["ROUTER"])
    result = cases.run(cases.case("position"), train=False)
    mask_BT = np.asarray(cases.inputs().mask_BT)
    want = np.where(mask_BT, np.arange(T)[None] % cases.E, cases.E)
    np.testing.assert_array_equal(cases.experts_of(result)[..., 0], want)


@pytest.mark.parametrize("name", routing.ROUTERS)
def test_the_training_config_can_ask_for_it(name):
    config = train_config.get_config(name)
    run = schema.from_config_dict(RunConfig, config)
    assert run.model.experts.router == name
    assert run.model.causal == (run.model.experts.causal == "always")


@each_choice
def test_k_distinct_experts_and_none_for_padding(name):
    experts = CASES[name].experts
    mask_BT = np.asarray(cases.inputs().mask_BT)
    expert_GSK = cases.experts_of(cases.run(CASES[name]))
    assert expert_GSK.dtype == np.int32 and expert_GSK.shape == (B, T, experts.k)
    assert (expert_GSK[~mask_BT] == experts.num_experts).all()
    real = np.sort(expert_GSK[mask_BT])
    assert real.min() >= 0 and real.max() <= experts.num_experts
    twice = (real[:, 1:] == real[:, :-1]) & (real[:, 1:] < experts.num_experts)
    assert not twice.any()
    if name not in ("gshard", "top_p", "merged"):
        assert real.max() < experts.num_experts  # of those only, a token may use fewer than K


SUMS = {
    **dict.fromkeys(("top_1", "base", "batch priority"), "below 1"),
    **dict.fromkeys((*TREES, "top_p", "gshard"), "below 1"),
    **dict.fromkeys(("top_2", "moving on", "limited", "noisy_top_k", "sinkhorn", "merged"), 1),
    **dict.fromkeys(("emo", "emo running"), 1),
    **dict.fromkeys(("gshard sampled", "sigmoid", "reinforce", "random"), 1),
    **dict.fromkeys(("hash", "rre", "domain"), 1),
    "multihash": 2,
}  # of a token's gates


@each_choice
def test_gates_are_not_negative_and_sum_as_stated(name):
    gate_GSK = cases.run(CASES[name]).choices["gate_GSK"]
    assert gate_GSK.dtype == np.float32 and (gate_GSK >= 0).all()
    mask_BT = np.asarray(cases.inputs().mask_BT)
    assert not gate_GSK[~mask_BT].any()
    total = gate_GSK[mask_BT].sum(-1)
    if name not in SUMS:
        assert (total > 0).all()
    elif SUMS[name] == "below 1":
        assert (total > 0).all() and (total <= 1 + 1e-6).all() and total.min() < 0.99
    else:
        np.testing.assert_allclose(total, SUMS[name], rtol=1e-5)


@pytest.mark.parametrize("name", ["expert_choice", "capped"])
def test_slots_choose_real_tokens_each_expert_as_many_as_it_has_slots(name):
    result = cases.run(CASES[name], cases.inputs(padded=False))
    load_E = result.router_stats.kept_KE[0]
    np.testing.assert_array_equal(load_E, result.router_stats.slots / cases.E)


@each
def test_padding_gets_zeros_and_changes_nothing(name):
    """What stands in padding is not read, whatever it is."""
    given = cases.inputs()
    other = cases.inputs(seed=1)
    mask_BT = np.asarray(given.mask_BT)
    swapped = cases.Inputs(
        np.where(mask_BT[..., None], given.x_BTD, 7 * other.x_BTD), mask_BT,
        np.where(mask_BT, given.ids_BT, other.ids_BT),
        np.where(mask_BT, given.domain_BT, 1 - given.domain_BT), given.segment_BT,
    )  # fmt: skip
    want = cases.run(CASES[name], given)
    got = cases.run(CASES[name], swapped)
    assert not want.y_BTD[~mask_BT].any() and want.y_BTD[mask_BT].any()
    assert not want.dx_BTD[~mask_BT].any()
    tiny.assert_close(got.y_BTD, want.y_BTD)
    tiny.assert_close(got.router_stats, want.router_stats)
    tiny.assert_close(got.dparams, want.dparams)


@pytest.mark.parametrize("name", [name for name in CASES if name not in DRAWS_ALWAYS])
def test_groups_do_not_know_of_each_other(name):
    """Sequences in another order give the same results in that order."""
    order = np.arange(B)[::-1]
    turned = cases.Inputs(*(np.asarray(x)[order] for x in cases.inputs()))
    want = cases.run(CASES[name], train=False)
    got = cases.run(CASES[name], turned, train=False, at=cases.weight()[order])
    tiny.assert_close(got.y_BTD, want.y_BTD[order])
    tiny.assert_close(got.router_stats, want.router_stats)


@pytest.mark.parametrize(
    ("name", "train"),
    [(n, train) for n in LEARNED if n in EQUIVARIANT for train in (False, True)
     if not (train and n in (*NOISY, "base"))],
)  # fmt: skip
def test_experts_in_another_order_are_the_same_experts(name, train):
    """Their weights and their columns of the router go together; in training some are full.

    Not what is drawn for an expert, nor BASE's assignment, in which ties are broken by a table, nor
    merged experts, to which a table leads.
    """
    order = np.arange(CASES[name].experts.num_experts)[::-1]
    weights = tiny.host(cases.params(CASES[name]))
    turned = {k: w[:, order] for k, w in weights.items() if k != "experts" and w.shape[1] > 1}
    experts = {k: w[order] for k, w in weights["experts"].items()}
    want = cases.run(CASES[name], train=train)
    got = cases.run(CASES[name], weights={**weights, **turned, "experts": experts}, train=train)
    tiny.assert_close(got.y_BTD, want.y_BTD)
    tiny.assert_close(got.router_stats.kept_KE, want.router_stats.kept_KE[:, order])


@each
def test_the_key_decides(name):
    config = CASES[name]
    first, again, other = (cases.run(config, key=key) for key in (1, 1, 2))
    tiny.assert_equal(first, again)
    assert (first.y_BTD != other.y_BTD).any() == (name in NOISY)


@each
def test_gradients_are_finite_where_the_router_is_undecided(name):
    """All logits 0: ties, no spread, perfect balance of probabilities."""
    weights = cases.params(CASES[name])
    zeros = {k: w if k == "experts" else w * 0 for k, w in weights.items()}
    result = cases.run(CASES[name], weights=zeros)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))


@each_learned
def test_the_losses_are_finite_and_reach_the_router(name):
    """On random logits and on none; of the task's gradient nothing is left where at is 0."""
    config = CASES[name]
    nothing = np.zeros((B, T, tiny.D), np.float32)
    router = {k: w for k, w in cases.run(config, at=nothing, losses=1.0).dparams.items()}
    assert not any(w.any() for w in router.pop("experts").values())
    assert all(np.abs(w).max() > 1e-6 for w in router.values())
    weights = {k: w if k == "experts" else w * 0 for k, w in cases.params(config).items()}
    undecided = cases.run(config, weights=weights, losses=1.0)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(undecided))


@each_learned
def test_the_task_gives_the_router_a_gradient(name):
    """Through the gates; a policy is taught by its reward instead, see test_tables_and_trees.py."""
    dparams = cases.run(CASES[name]).dparams
    router = {k: np.abs(w).max() for k, w in dparams.items() if k != "experts"}
    if CASES[name].experts.router == "reinforce":
        assert not any(router.values())
    else:
        assert all(largest > 1e-5 for largest in router.values())


@pytest.mark.parametrize("name", CAUSAL)
def test_no_later_token_has_a_gradient(name):
    """Nor changes an earlier result by a bit, in groups of one sequence and where slots are few."""
    config = CASES[name]
    given = cases.inputs(padded=False)
    other = cases.inputs(seed=1, padded=False)
    want = cases.run(config, given)
    assert (want.router_stats.kept_KE < want.router_stats.chosen_KE).any()
    for t in (2, T - 2):
        early_1T1 = (np.arange(T) <= t)[None, :, None]
        got = cases.run(config, given, at=cases.weight() * early_1T1)
        assert not got.dx_BTD[:, t + 1 :].any() and got.dx_BTD[:, : t + 1].any()
        changed = given._replace(
            x_BTD=np.where(early_1T1, given.x_BTD, other.x_BTD),
            ids_BT=np.where(early_1T1[..., 0], given.ids_BT, other.ids_BT),
        )
        got = cases.run(config, changed)
        np.testing.assert_array_equal(got.y_BTD[:, : t + 1], want.y_BTD[:, : t + 1])


def test_a_pool_of_a_whole_document_does_not_pass():
    """Pools are chosen, so no gradient tells; the bits do."""
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        test_no_later_token_has_a_gradient("emo")


@pytest.mark.parametrize("name", [name for name in CASES if name not in CAUSAL])
def test_what_looks_ahead_is_caught_and_refused(name):
    """Those marked so do look ahead in training; in a decoder they need consent."""
    given = cases.inputs(padded=False)
    other = cases.inputs(seed=1, padded=False)
    early_1T1 = (np.arange(T) < T // 2)[None, :, None]
    changed = given._replace(x_BTD=np.where(early_1T1, given.x_BTD, other.x_BTD))

    def differ(train):
        want, got = (cases.run(CASES[name], x, train=train) for x in (given, changed))
        return (got.y_BTD[:, : T // 2] != want.y_BTD[:, : T // 2]).any()

    assert differ(train=True)
    assert differ(train=False) == (CASES[name].experts.causal == "never")
    with pytest.raises(ValueError, match="is not causal"):
        dataclasses.replace(CASES[name], allow_noncausal=False)
