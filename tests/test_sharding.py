"""The mesh: what it refuses, where it puts arrays, and that no result depends on it."""

import dataclasses
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moe import hlo, models, objectives, sharding
from moe.dispatch import grouped, transport
from moe.layers import attention
from moe.models import classifier
from moe.training import step
from tests import tiny
from tests.training import toys


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((2, 4), (2, 4, 1)), ((-1, 4), (2, 4, 1)), ((4, -1), (4, 2, 1)), ((-1, 1), (8, 1, 1)),
        ((1, 8), (1, 8, 1)), ((-1, 2, 2), (2, 2, 2)), ((1, 2, -1), (1, 2, 4)),
    ],
)  # fmt: skip
def test_make_mesh(sizes, shape):
    mesh = sharding.make_mesh(*sizes)
    assert mesh.devices.shape == shape and mesh.axis_names == ("data", "expert", "model")
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Explicit}


@pytest.mark.parametrize(
    "sizes",
    [(3, -1), (-1, -1), (2, 2), (16, 1), (0, -1), (-2, -4), (-1, 0), (-1, -2), (2, 2, 3)],
)  # fmt: skip
def test_a_mesh_that_does_not_fit(sizes):
    data, expert, model = (*sizes, 1)[:3]
    message = f"data={data}, expert={expert}, model={model} does not fit 8 devices"
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(*sizes)


def test_a_mesh_that_does_not_fit_the_links(monkeypatch):
    """As data=2, expert=64 on a torus of 4 x 4 x 8."""

    def refuse(*_, **__):
        raise NotImplementedError("no such sides")

    monkeypatch.setattr(jax, "make_mesh", refuse)
    with pytest.raises(ValueError, match="'data': 2, 'expert': 4, 'model': 1}: no such sides"):
        sharding.make_mesh(2, 4)


def test_some_devices():
    assert sharding.make_mesh(1, -1, devices=jax.devices()[:2]).devices.shape == (1, 2, 1)


def test_the_leftmost_letter_claims_first():
    tokens = ("data", "expert")
    assert sharding.spec("BTD") == P(tokens, None, None)
    assert sharding.spec("GSE") == P(tokens, None, None)
    assert sharding.spec("EGCD") == P("expert", "data", None, None)
    assert sharding.spec("EDF") == P("expert", None, "model")
    assert sharding.spec("BTNH") == P(tokens, None, "model", None)
    assert sharding.spec("VD") == P("model", None)
    assert sharding.spec("D.") == P(None, None)


def test_at_rest_d_claims_what_is_left_under_zero():
    with tiny.on("2x2x2"):
        assert sharding.at_rest("EDF") == sharding.spec("EDF")
    with tiny.on("2x2x2", zero=True):
        assert sharding.at_rest("EDF") == P("expert", "data", "model")
        assert sharding.at_rest("NHD") == P("model", None, ("data", "expert"))
        assert sharding.at_rest("VD") == P("model", ("data", "expert"))
        assert sharding.spec("EDF") == P("expert", None, "model")
    with tiny.on("2x2x2"):
        assert sharding.at_rest("EDF") == sharding.spec("EDF")


def test_without_a_mesh():
    x = jnp.arange(6.0).reshape(2, 3)
    assert not sharding.current() and sharding.num_devices() == 1
    assert sharding.out_sharding("BT") is None and sharding.reshard(x, "BT") is x
    assert sharding.map_groups(len) is len
    np.testing.assert_array_equal(sharding.shard_batch({"x": np.ones(3)})["x"], np.ones(3))


def test_put():
    rows = np.arange(16).reshape(8, 2)
    with tiny.on("2x4"):
        x = sharding.shard_batch((rows,))[0]
        assert x.sharding.spec == sharding.spec("B") and sharding.num_devices() == 8
        np.testing.assert_array_equal(x, rows)
        assert [s.data.tolist() for s in x.addressable_shards] == rows[:, None].tolist()


def test_copies_along_the_model_axis_are_made_once():
    asked = []
    with tiny.on("2x2x2"):
        x = sharding.shard_rows(lambda numbers: asked.append(numbers) or numbers[:, None], 8)
    assert len(asked) == 1 and asked[0].tolist() == list(range(8))
    assert [s.data.ravel().tolist() for s in x.addressable_shards[:4]] == [
        [0, 1],
        [0, 1],
        [2, 3],
        [2, 3],
    ]


def check(data, expert, model=1, **changes):
    tokens = sharding.TOKENS
    needs = {"batch_size": (16, tokens), "num_experts": (8, ("expert",)), "heads": (4, ("model",))}
    needs |= {name: (number, needs[name][1]) for name, number in changes.items()}
    sharding.check(sharding.make_mesh(data, expert, model), needs)


def test_what_fits():
    check(2, 4)
    check(8, 1, num_experts=7)
    check(2, 1, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "batch_size=12 is .* by mesh.data x mesh.expert=8.* 8 and 16"),
        ({"num_experts": 6}, "num_experts=6 is .* mesh.expert=4; .* fit: 4 and 8; .*: 1 and 2"),
        ({"batch_size": 3}, r"batch_size=3 is not divisible .*=8"),
        ({"num_experts": 2}, "num_experts=2 is .*=4; nearest num_experts that fit: 4; .*: 1 and 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        check(2, 4, **changes)


# The whole training step.


def recorder() -> optax.GradientTransformation:
    """Keeps the last gradients in the optimizer's state, where a test can read them."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, *_: (grads, grads)
    )


CHAIN = optax.chain(recorder(), optax.adam(3e-3))


class First(NamedTuple):
    """What the first step of Adam from random parameters gives, and the compiled program."""

    metrics: dict
    gradients: dict
    params: dict
    program: jax.stages.Compiled


@functools.cache
def first_step(config, mesh, accumulate=1, zero=False, **execution) -> First:
    with tiny.on(mesh, zero):
        state = tiny.state(config, CHAIN)
        batch = tiny.put(tiny.inputs(16))
        train_step = step.make_train_step(tiny.task_of(config, **execution), CHAIN, 0, accumulate)
        train_step = train_step.lower(state, batch).compile()
        state, metrics = train_step(state, batch)
        assert int(state.step) == 1
        return First(*tiny.host((metrics, state.optimizer[0], state.params)), train_step)


def assert_mesh_changes_nothing(config, mesh, accumulate=1, zero=False, **execution):
    got = first_step(config, mesh, accumulate, zero, **execution)
    want = first_step(config, "none")
    assert want.metrics["dropped"] > 0.1
    tiny.assert_close(got.metrics, want.metrics)
    tiny.assert_close(got.gradients, want.gradients, atol=2e-6)
    # Adam's first step is +-0.003 whatever the size of a gradient, so rounding around 0 shows here.
    certain = jax.tree.map(lambda g: np.abs(g) > 1e-4, want.gradients)
    assert np.mean([x.mean() for x in jax.tree.leaves(certain)]) > 0.8
    got, want = (jax.tree.map(np.where, certain, x.params, want.params) for x in (got, want))
    tiny.assert_close(got, want)


EVERY_MESH = tiny.model(num_heads=4, num_kv_heads=2, experts=tiny.moe_config(num_experts=8))


@pytest.mark.parametrize(
    ("mesh", "name"), [*((mesh, "gather") for mesh in tiny.MESHES), ("2x2x2", "einsum")]
)
def test_no_result_depends_on_the_mesh(mesh, name):
    """A dispatcher sees the groups of one device alone: one mesh will do for the second."""
    experts = dataclasses.replace(EVERY_MESH.experts, dispatcher=name)
    assert_mesh_changes_nothing(dataclasses.replace(EVERY_MESH, experts=experts), mesh)


EVERYTHING = tiny.model(
    num_layers=2, moe_every=1, num_dense_layers=1, num_heads=4, position="relative",
    tie_embeddings=False,
    activation="swiglu", remat=True,
    experts=tiny.moe_config(
        k=2, jitter=0.1, group_size=2 * tiny.T, dispatcher="einsum", capacity_factor=0.75
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "transport"), [("gather", "all_gather"), ("einsum", "constraint")]
)
def test_nor_on_how_parameters_lie_and_tokens_travel(name, transport):
    """ZeRO, groups of two sequences, jitter, relative positions, gates, remat, a dense layer."""
    config = dataclasses.replace(
        EVERYTHING, experts=dataclasses.replace(EVERYTHING.experts, dispatcher=name)
    )
    assert_mesh_changes_nothing(config, "2x2x2", zero=True, transport=transport)


def test_nor_on_micro_batches_on_a_mesh():
    one_layer = dataclasses.replace(EVERY_MESH, num_layers=1, moe_every=1)
    assert_mesh_changes_nothing(one_layer, "2x4x1", accumulate=2)


def test_twenty_steps_are_the_same_on_a_mesh():
    """So are the losses of a whole short run, in which every step builds on the last."""
    losses = {}
    for mesh in ("1x1x1", "2x4x1"):
        train_step = first_step(EVERY_MESH, mesh).program
        with tiny.on(mesh):
            state = tiny.state(EVERY_MESH, CHAIN)
            losses[mesh] = []
            for i in range(20):
                state, metrics = train_step(state, tiny.put(tiny.inputs(16, seed=i % 2)))
                losses[mesh].append(float(metrics["loss"]))
    one, many = losses.values()
    assert one[-1] < one[0] - 0.05
    np.testing.assert_allclose(many, one, rtol=1e-5)


# What travels.


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


SCANNED = dataclasses.replace(EVERY_MESH, num_layers=4, scan_unroll=1)  # two blocks in one scan


@pytest.mark.parametrize(
    ("name", "remat", "crossings"), [("gather", False, 4), ("gather", True, 6), ("einsum", True, 6)]
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


def test_relative_positions_send_their_table_and_not_all_pairs():
    """What is summed over devices is the gradient of [N, 32] numbers, not of [N, T, T]."""
    text = first_step(EVERYTHING, "2x2x2", zero=True, transport="constraint").program.as_text()
    sums = re.findall(r"= \(?(.*?)\)? all-reduce\(", text)
    shapes = {shape for line in sums for shape in re.findall(r"f32\[([\d,]+)\]", line)}
    assert f"2,{attention.BUCKETS}" in shapes and f"2,{tiny.T},{tiny.T}" not in shapes


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
            experts = tree["block"]["layer_1"]["moe"]["experts"]
            specs = {tuple(x.sharding.spec)[:2] for x in experts.values()}
            assert specs == {(None, "expert")}


# How tokens travel is what the run's config says.


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
    sizes = dataclasses.asdict(tiny.model(vocab_size=toys.V)) | {"experts": experts}
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
        batch = models.contract.batch_shapes(8, 8, place)
        heard.clear()
        forward = functools.partial(run.task.forward, train=True)
        jax.eval_shape(forward, params, {}, batch, key=jax.random.key(0))
    assert heard and all(way == mesh for way in heard)
