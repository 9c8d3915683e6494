"""What every router must hold inside a layer: dispatchers, meshes, replay, shared experts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import dispatch, flops, routing
from moe.routing import assignment, contract
from tests import tiny
from tests.routing import cases
from tests.routing.cases import CASES, CHOICES, LEARNED, T

# Beside another case of their router these have nothing new to compile.
ALIKE = ("gshard sampled", "hierarchical in one", "multihash")

each_kind = pytest.mark.parametrize("name", [name for name in CASES if name not in ALIKE])


@each_kind
def test_one_device_and_eight(name):
    got, want = (cases.run(CASES[name], mesh=mesh) for mesh in ("2x4", "none"))
    tiny.assert_close(got, want, atol=2e-6)


ONE_A_ROUTER = {c.experts.router: name for name, c in CASES.items()}


@pytest.mark.parametrize("name", ONE_A_ROUTER.values())
@pytest.mark.parametrize("train", [True, False])
def test_a_single_group_on_a_single_device(name, train):
    """Where every axis of the mesh has size 1, JAX lets go of a sharding more easily."""
    with tiny.on("1x1x1"):
        one = cases.Inputs(*(np.asarray(x)[:1] for x in cases.inputs()))
        shapes = jax.eval_shape(*cases.call(CASES[name], one, train, at=cases.weight()[:1]))
    assert jax.tree.leaves(shapes)


@each_kind
def test_compilation_changes_nothing(name):
    """Of the router alone: one operation after the other, and all as one program."""
    experts = CASES[name].experts
    rng = np.random.default_rng(0)
    logits = {
        k: jnp.asarray(rng.normal(size=(2, T, columns)), jnp.float32)
        for k, columns in experts.routing.projections(experts).items()
    }
    state = {k: x[0] for k, x in cases.state_of(CASES[name]).items()}
    given = cases.inputs()
    inputs = contract.RouterInputs(
        logits, given.mask_BT[:2], given.ids_BT[:2], given.domain_BT[:2], jax.random.key(0), state,
        document_GS=given.segment_BT[:2],
    )  # fmt: skip
    settings = contract.RouterSettings(experts.num_experts, experts.k, 3, True, experts.options)
    if experts.router == "soft":
        settings = settings._replace(slots=routing.soft.slots(experts))
    route = functools.partial(experts.routing.route, settings=settings)
    tiny.assert_close(route(inputs), jax.jit(route)(inputs))


@pytest.mark.parametrize("name", ["top_2", "moving on", "gshard", "top_p", "capped", "soft"])
def test_every_dispatcher_that_can_carry_it_does(name):
    """Seats are all that a dispatcher sees: one case of each kind, and choices of no expert."""
    want = cases.run(CASES[name], train=False)
    kind = CASES[name].experts.routing.kind
    able = [n for n, module in dispatch.SLOTTED.items() if kind in module.KINDS]
    assert able == (
        ["einsum"] if kind is assignment.DispatchMasks else ["oracle", "einsum", "gather"]
    )
    for other in {*able} - {CASES[name].experts.dispatcher}:
        experts = dataclasses.replace(CASES[name].experts, dispatcher=other)
        got = cases.run(dataclasses.replace(CASES[name], experts=experts), train=False)
        tiny.assert_close(got, want, atol=2e-6)


@pytest.mark.parametrize("name", ["top_2", "expert_choice"])
def test_and_so_do_their_gradients(name):
    """Where K is known, and where it is not."""
    for other in ("oracle", "einsum"):
        experts = dataclasses.replace(CASES[name].experts, dispatcher=other)
        got = cases.run(dataclasses.replace(CASES[name], experts=experts))
        tiny.assert_close(got, cases.run(CASES[name]), atol=2e-6)


@pytest.mark.parametrize("transport", ["constraint", "all_gather"])
@pytest.mark.parametrize("name", ["top_2", "expert_choice", "soft"])
def test_every_transport_carries_every_kind(name, transport):
    got = cases.run(CASES[name], mesh="2x4", transport=transport)
    tiny.assert_close(got, cases.run(CASES[name]), atol=2e-6)


def without_slots(name):
    """The case with the dispatcher that has none."""
    factors = {"capacity_factor": 0.0, "eval_capacity_factor": 0.0}
    experts = dataclasses.replace(CASES[name].experts, dispatcher="grouped", **factors)
    return dataclasses.replace(CASES[name], experts=experts)


NEED_SLOTS = ("moving on", "batch priority")  # to wait for, to compete for


@pytest.mark.parametrize("name", ["top_1", "top_2", "gshard", "top_p", "hierarchical", "base"])
def test_without_slots_every_choice_is_computed(name):
    """On a mesh, too: as on one device with a slot for everyone."""
    want = cases.run(CASES[name], train=False)
    got = cases.run(without_slots(name), train=False, mesh="2x4", ep_capacity_factor=4.0)
    assert (want.router_stats.kept_KE == want.router_stats.chosen_KE).all()
    empty = {"slots": 0}
    tiny.assert_close(
        got._replace(router_stats=got.router_stats._replace(**empty)),
        want._replace(router_stats=want.router_stats._replace(**empty)),
        atol=2e-6,
    )


@pytest.mark.parametrize("name", [name for name in CHOICES if name not in NEED_SLOTS])
def test_every_router_of_choices_can_do_without_slots(name):
    """The dispatcher sees choices and gates alone, so that of the others the shapes will do."""
    with tiny.on("2x4"):
        shapes = jax.eval_shape(*cases.call(without_slots(name)))
    assert jax.tree.leaves(shapes)


@pytest.mark.parametrize("name", NEED_SLOTS)
def test_what_needs_slots_is_refused_without(name):
    with pytest.raises(ValueError, match="does nothing with experts.dispatcher='grouped'"):
        without_slots(name)


@pytest.mark.parametrize("name", [name for name in CHOICES if name not in ALIKE])
def test_recorded_choices_are_replayed_with_new_gates(name):
    """With other weights the same experts; with the same weights the same result."""
    config = CASES[name]
    want = cases.run(config)
    chosen = cases.experts_of(want)
    again = cases.run(config, replayed=chosen)
    tiny.assert_close(
        again._replace(router_stats=again.router_stats.kept_KE),
        want._replace(router_stats=want.router_stats.kept_KE),
    )
    other = {k: w if k == "experts" else -w for k, w in cases.params(config).items()}
    got = cases.run(config, weights=other, replayed=chosen)
    np.testing.assert_array_equal(cases.experts_of(got), chosen)
    if name in LEARNED:  # left to itself, the router would choose others
        assert (cases.experts_of(cases.run(config, weights=other)) != chosen).any()
    if name in LEARNED and config.experts.router != "reinforce":
        assert (got.y_BTD != want.y_BTD).any()


def test_shared_experts_are_one_feed_forward_beside():
    config = CASES["top_1"]
    shared = dataclasses.replace(
        config, experts=dataclasses.replace(config.experts, shared_experts=2)
    )
    weights = cases.params(shared)
    assert weights["shared"]["w_in"].shape == (tiny.D, 2 * config.experts.d_ff)
    alone = {name: w for name, w in weights.items() if name != "shared"}
    got = cases.run(shared, weights=weights).y_BTD - cases.run(config, weights=alone).y_BTD
    x_BTD = cases.inputs().x_BTD
    want = jax.nn.gelu(x_BTD @ weights["shared"]["w_in"]) @ weights["shared"]["w_out"]
    tiny.assert_close(got, want, atol=1e-5)


def test_expert_dropout_is_of_training_alone_and_keeps_the_mean():
    experts = dataclasses.replace(CASES["top_1"].experts, expert_dropout=0.4)
    config = dataclasses.replace(CASES["top_1"], experts=experts)
    plain, tested = (cases.run(CASES["top_1"], train=train) for train in (True, False))
    tiny.assert_equal(cases.run(config, train=False).y_BTD, tested.y_BTD)
    draws = np.stack([cases.run(config, key=key).y_BTD for key in range(32)])
    assert (draws[0] != draws[1]).any()
    error = draws.mean(0) - plain.y_BTD
    assert np.abs(error).mean() < 4 * draws.std(0).mean() / 32**0.5


def test_a_shared_expert_costs_what_a_token_pays():
    one = tiny.model(experts=tiny.moe_config())
    more = dataclasses.replace(one, experts=tiny.moe_config(shared_experts=1))
    a = flops.ideal(one, T)
    b = flops.ideal(more, T)
    assert b["experts"] == 2 * a["experts"] and b["attention"] == a["attention"]
    idle = flops.parameters(one).total - flops.parameters(one).active
    assert flops.parameters(more).total - flops.parameters(more).active == idle
