"""What travels between devices: tokens, sums and gradients, and nothing else."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from moe import hlo, models, objectives, sharding
from moe.dispatch import grouped, transport
from moe.layers import relative
from moe.models import classifier
from moe.training import gradients
from tests import tiny
from tests.test_sharding import EVERY_MESH, EVERYTHING, first_step
from tests.training import toys


def collectives(text):
    """How many instructions of each collective a program has, but for those of one device."""
    # As JAX 0.10 writes it, and 0.12.
    alone = re.compile(r"replica_groups=(\{\{0\},\{1\}|mesh\[.*'model'=1\] \{'model'\})")
    text = "\n".join(line for line in text.splitlines() if not alone.search(line))
    kinds = re.findall(
        r"(all-gather|all-to-all|all-reduce|reduce-scatter|permute)[-start]*\(", text
    )
    return {kind: kinds.count(kind) for kind in kinds}


@functools.cache
def layer_programs(name, transport):
    """The compiled texts of an MoE layer on 2 x 4: forward, and forward with backward."""
    factors = {"capacity_factor": 0.0, "eval_capacity_factor": 0.0} if name == "grouped" else {}
    config = tiny.sparse(num_experts=8, k=2, dispatcher=name, **factors)
    layer = tiny.layer_of(config, transport=transport)

    def forward(params, x_BTD, mask_BT):
        y_BTD, _ = layer.apply({"params": params}, x_BTD, mask_BT, True, mutable=["router"])
        return jnp.square(y_BTD)

    with tiny.on("2x4"):
        arguments = tiny.experts_params(config), *tiny.layer_inputs(8, 8)
        once = jax.jit(forward).lower(*arguments).compile().as_text()
        backward = jax.grad(lambda *args: forward(*args).sum(), (0, 1))
        return once, jax.jit(backward).lower(*arguments).compile().as_text()


@pytest.mark.parametrize("transport", ["all_to_all", "constraint"])
@pytest.mark.parametrize("name", ["einsum", "gather"])
def test_tokens_travel_there_and_back_and_nothing_is_gathered(name, transport):
    """Two all-to-alls forward, two more backward, no all-gather of tokens or experts."""
    once, both = map(collectives, layer_programs(name, transport))
    assert once == {"all-to-all": 2}
    assert both.pop("all-to-all") == 4 and both.keys() == {"all-reduce"}


def test_without_slots_the_chosen_experts_travel_too():
    """Three all-to-alls forward, two more backward: which expert is no float."""
    once, both = map(collectives, layer_programs("grouped", "all_to_all"))
    assert once == {"all-to-all": 3}
    assert both.pop("all-to-all") == 5 and both.keys() == {"all-reduce"}


def test_the_gathering_transport_sends_no_slots():
    """Tokens and their seats are gathered, results are summed where they are scattered."""
    once, both = map(collectives, layer_programs("gather", "all_gather"))
    assert once.keys() == {"all-gather", "reduce-scatter"} and once["reduce-scatter"] == 1
    assert "all-to-all" not in both and both["reduce-scatter"] >= 2


@pytest.mark.parametrize("router", ["top_k", "random"])
def test_noise_is_drawn_where_it_is_used(router):
    """No device draws the random bits of the tokens of all the others."""
    changes = {"jitter": 0.1} if router == "top_k" else {}
    config = tiny.sparse(num_experts=8, router=router, **changes)
    layer = tiny.layer_of(config)
    groups = 24

    def forward(params, x_BTD, mask_BT, key):
        rngs = {"router": key}
        return layer.apply({"params": params}, x_BTD, mask_BT, True, rngs=rngs, mutable="router")

    with tiny.on("8x1"):
        arguments = tiny.experts_params(config), *tiny.layer_inputs(groups, 10)
        lowered = jax.jit(forward).lower(*arguments, jax.random.key(0))
    bits = set(re.findall(r"u32\[(\d+,10,8)\]", lowered.compile().as_text()))
    assert bits == {f"{groups // 8},10,8"}


SCANNED = dataclasses.replace(EVERY_MESH, num_layers=2, scan_unroll=1)


@pytest.mark.parametrize(
    ("name", "remat", "crossings"), [("gather", False, 4), ("einsum", True, 6)]
)
def test_a_training_step_under_scan(name, remat, crossings):
    """Per MoE layer 2 all-to-alls forward, 2 backward, 2 to recompute; nothing is gathered."""
    config = dataclasses.replace(
        SCANNED, remat=remat, experts=dataclasses.replace(SCANNED.experts, dispatcher=name)
    )
    text = first_step(config, "2x4").program.as_text()
    found = collectives(text)
    assert found.pop("all-to-all") == crossings and found.keys() == {"all-reduce"}
    sent = hlo.traffic(text, {"data": 2, "expert": 4, "model": 1})
    assert sent["all-to-all", "expert"].times == crossings * 2  # in each of two turns


@pytest.mark.parametrize(
    ("policy", "crossings", "products"), [("full", 3 + 3 + 2, 8), ("products", 3 + 2, 6)]
)
def test_what_is_kept_neither_crosses_nor_is_multiplied_again(policy, crossings, products):
    """Without slots: three all-to-alls forward and two backward, two products and four."""
    dropless = {"dispatcher": "grouped", "capacity_factor": 0.0, "eval_capacity_factor": 0.0}
    experts = dataclasses.replace(SCANNED.experts, **dropless)
    config = dataclasses.replace(SCANNED, remat=True, experts=experts)
    task = tiny.task_of(config, implementation="ragged_dot", remat_policy=policy)
    step = functools.partial(gradients.value_and_grad, task)
    with tiny.on("2x4"):
        given = models.parameter_shapes(config), {}, tiny.put(tiny.inputs(16)), jax.random.key(0)
        text = str(jax.make_jaxpr(step)(*given))
    assert (text.count(" all_to_all["), text.count(" ragged_dot_general[")) == (
        crossings, products,
    )  # fmt: skip


def test_relative_positions_send_their_table_and_not_all_pairs():
    """What is summed over devices is the gradient of [N, 32] numbers, not of [N, T, T]."""
    how = {"zero": True, "transport": "constraint", "remat_policy": "products"}  # compiled before
    text = first_step(EVERYTHING, "2x2x2", **how).program.as_text()
    sums = re.findall(r"= \(?(.*?)\)? all-reduce\(", text)
    shapes = {shape for line in sums for shape in re.findall(r"f32\[([\d,]+)\]", line)}
    assert f"2,{relative.BUCKETS}" in shapes and f"2,{tiny.T},{tiny.T}" not in shapes


def test_with_a_model_axis_only_sums_cross_it():
    sent = hlo.traffic(
        first_step(EVERY_MESH, "1x4x2").program.as_text(), {"data": 1, "expert": 4, "model": 2}
    )
    assert {kind for kind, _ in sent} == {"all-to-all", "all-reduce"}
    assert {axes for kind, axes in sent if kind == "all-to-all"} == {"expert"}
    assert ("all-reduce", "model") in sent


def test_zero_gathers_parameters_and_nothing_else():
    """No gathered array has the tokens of the batch, 16 * 8; parameters rest in eighths."""
    with tiny.on("2x4", zero=True):
        params = tiny.params(EVERY_MESH)
        matrices = [x for x in jax.tree.leaves(params) if x.size > tiny.D * 2]
        assert all(x.addressable_shards[0].data.size * 8 == x.size for x in matrices)
    text = first_step(EVERY_MESH, "2x4", zero=True).program.as_text()
    gathered = re.findall(r"= \w+\[([\d,]+)\]\S* all-gather\(", text)
    shapes = {x.shape for x in jax.tree.leaves(params)}
    sizes = {np.prod(shape[1:]) if shape[0] == 1 else np.prod(shape) for shape in shapes}
    local = sizes | {size // 4 for size in sizes}  # an expert bank gathers over 'data' alone
    assert gathered and all(np.prod([*map(int, g.split(","))]) in local for g in gathered)


def test_experts_and_their_gradients_stay_with_their_devices():
    config = dataclasses.replace(EVERY_MESH, remat=True)
    with tiny.on("2x4"):
        params = tiny.params(config)
        shapes = jax.eval_shape(
            tiny.compiled_gradients(config), params, tiny.put(tiny.inputs()), jax.random.key(0)
        )[1]
        for tree in (params, shapes):
            experts = tree["block"]["layer_0"]["moe"]["experts"]
            specs = {tuple(x.sharding.spec)[:2] for x in experts.values()}
            assert specs == {(None, "expert")}


@pytest.mark.parametrize("architecture", ["decoder", "classifier"])
@pytest.mark.parametrize(
    ("dispatcher", "mesh"),
    [
        ("gather", {"transport": "all_gather"}),
        ("grouped", {"implementation": "ragged_dot", "ep_capacity_factor": 0.25}),
    ],
)
def test_the_config_says_how_tokens_travel(architecture, dispatcher, mesh, monkeypatch):
    """As every MoE layer of the run's model hears it."""
    heard = []
    send = transport.send
    apply = grouped.apply

    def heard_send(dispatch, x_GSD, slots, name):
        heard.append({"transport": name})
        return send(dispatch, x_GSD, slots, name)

    def heard_apply(x, choice, weights, activation, implementation, ep_capacity_factor):
        heard.append({"implementation": implementation, "ep_capacity_factor": ep_capacity_factor})
        return apply(x, choice, weights, activation, implementation, ep_capacity_factor)

    monkeypatch.setattr(transport, "send", heard_send)
    monkeypatch.setattr(grouped, "apply", heard_apply)
    factor = 0.0 if dispatcher == "grouped" else 1.25
    experts = tiny.moe_config(
        num_experts=8, dispatcher=dispatcher, capacity_factor=factor, eval_capacity_factor=factor
    )
    sizes = vars(tiny.model(vocab_size=toys.V)) | {"experts": experts}
    if architecture == "classifier":
        model = classifier.ClassifierConfig(**sizes | {"num_classes": 2, "causal": False})
        objective = objectives.ObjectiveConfig(name="classification")
    else:
        model = tiny.model(**sizes)
        objective = objectives.ObjectiveConfig()
    run = dataclasses.replace(
        toys.run_config(), architecture=architecture, model=model, objective=objective
    ).replace(mesh=mesh)
    with tiny.on("2x4"):
        model = run.task.model
        params = models.contract.parameter_shapes(model)
        place = NamedSharding(jax.sharding.get_mesh(), sharding.spec("BT"))
        batch = models.contract.batch_shapes(8, 8, layout=place)
        heard.clear()
        forward = functools.partial(run.task.forward, train=True)
        jax.eval_shape(forward, params, {}, batch, key=jax.random.key(0))
    assert heard and all(way == mesh for way in heard)
