"""The decoder: causal to the last bit, equal to its dense twin where it must be."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import config as configs
from moe import counting, models, routing
from moe.layers import attention
from moe.models import contract, decoder
from moe.training import gradients
from tests import tiny

B = 4
T = 8
GROUPS = {"one sequence": 0, "all sequences": B * T, "half a sequence": T // 2}
# Routers do not know of groups, nor groups of routers.
TIGHT = [*(("top_k", group) for group in GROUPS), ("random", "one sequence")]


def tight(router: str, group_size: int) -> configs.ModelConfig:
    """Capacity for half of all tokens at best."""
    experts = tiny.moe_config(router=router, k=2, capacity_factor=0.5, group_size=group_size)
    return tiny.model(experts=experts)


def place_of(batch):
    fields = tiny.inputs(batch, T, padded=False)
    return attention.TokenInfo(fields.segment_BT, fields.position_BT, fields.tokens_BT, None)


@functools.cache
def block(config):
    """The compiled (params, x) -> (y, kept tokens by expert, dy / dx) of one block of layers."""
    place = place_of(B)

    def forward(params, x_BTD):
        y_BTD, aux = decoder.Block(config).apply(
            {"params": params}, x_BTD, place, True,
            rngs={"router": jax.random.key(0)}, mutable=["router"],
        )  # fmt: skip
        router_stats = jax.tree.leaves(aux, is_leaf=lambda x: hasattr(x, "kept_KE"))[0]
        return y_BTD[0], router_stats

    @jax.jit
    def run(params, x_BTD):
        y_BTD, pull, router_stats = jax.vjp(functools.partial(forward, params), x_BTD, has_aux=True)
        one_hot = jnp.eye(B * T).reshape(B * T, B, T, 1) * jnp.ones((1, 1, 1, tiny.D))
        (jacobian,) = jax.vmap(pull)(one_hot)
        return y_BTD, router_stats, jacobian.reshape(B, T, B, T, tiny.D)

    return run


def block_params(config):
    return jax.tree.map(lambda x: x[0], tiny.params(config)["block"])


def random_x(seed):
    return np.random.default_rng(seed).normal(size=(B, T, tiny.D)).astype(np.float32)


def leaks(config):
    """How often a change of all tokens after t, in all sequences, changed a y at or before t."""
    run = block(config)
    params = block_params(config)
    x_BTD = random_x(0)
    other_BTD = random_x(1)
    y_BTD, router_stats, _ = tiny.host(run(params, x_BTD))
    count = 0
    for t in range(T - 1):
        later = (np.arange(T) > t)[None, :, None]
        changed, *_ = tiny.host(run(params, np.where(later, other_BTD, x_BTD)))
        count += (changed[:, : t + 1] != y_BTD[:, : t + 1]).sum()
        assert (changed[:, t + 1 :] != y_BTD[:, t + 1 :]).mean() > 0.5
    assert router_stats.kept_KE.sum() < 0.6 * router_stats.chosen_KE.sum()
    return count


@pytest.mark.parametrize(("router", "group"), TIGHT)
def test_no_later_token_changes_an_earlier_one(router, group):
    """Bit for bit, where experts are so full that who came first decides."""
    assert leaks(tight(router, GROUPS[group])) == 0


@pytest.mark.parametrize(("router", "group"), TIGHT)
def test_gradients_stay_in_the_document_and_its_past(router, group):
    config = tight(router, GROUPS[group])
    _, _, jacobian = tiny.host(block(config)(block_params(config), random_x(0)))
    document = np.asarray(tiny.inputs(B, T, padded=False).segment_BT)
    for b, t, c, u in np.ndindex(B, T, B, T):
        visible = b == c and u <= t and document[b, t] == document[b, u]
        assert jacobian[b, t, c, u].any() == visible, (b, t, c, u)


def test_gradients_stay_in_the_past_on_a_mesh():
    """Where tokens travel to experts on other devices, four rows to a group."""
    config = tight("top_k", 4 * T)
    with tiny.on("2x4"):
        params = block_params(config)
        x_BTD = np.random.default_rng(0).normal(size=(32, T, tiny.D)).astype(np.float32)
        x_BTD, place = tiny.put((x_BTD, place_of(32)))

        @jax.jit
        def pulled(x_BTD, last):
            def early(x_BTD):
                (y_BTD, _), _ = decoder.Block(config).apply(
                    {"params": params}, x_BTD, place, True, mutable=["router"]
                )
                return (y_BTD * (jnp.arange(T) <= last)[None, :, None]).sum()

            return jax.grad(early)(x_BTD)

        for last in range(T):
            dx_BTD = np.asarray(pulled(x_BTD, last))
            assert not dx_BTD[:, last + 1 :].any() and dx_BTD[:, : last + 1].any(-1).all()


def test_a_router_that_looks_ahead_is_caught(monkeypatch):
    """The test above has teeth: here the mean of the group decides, whatever the table says."""

    def route(inputs, settings):
        logits_GSE = inputs.logits["router"]
        ahead_GSE = logits_GSE - 3 * logits_GSE.mean(1, keepdims=True)
        return routing.top_k.route(inputs._replace(logits={"router": ahead_GSE}), settings)

    peeking = routing.top_k.ROUTER._replace(route=route)
    monkeypatch.setitem(routing.ROUTERS, "peeking", peeking)
    assert leaks(tight("peeking", 0)) > 0


def test_slots_given_out_by_sequence_first_are_caught(monkeypatch):
    """So has it for groups of several sequences: their order inside the group matters."""
    monkeypatch.setattr("moe.dispatch.groups.split", lambda x, S: x.reshape(-1, S, *x.shape[2:]))
    monkeypatch.setattr("moe.dispatch.groups.join", lambda x, B, T: x.reshape(B, T, *x.shape[2:]))
    config = dataclasses.replace(tight("top_k", B * T), init_scale=2.0)  # not one compiled before
    assert leaks(config) > 0


@functools.partial(jax.jit, static_argnums=(0, 3))
def logits(config, params, inputs, train=False):
    keys = {"router": jax.random.key(0)}
    apply = functools.partial(decoder.Decoder(config).apply, rngs=keys, mutable=["router"])
    tokens, _, segment, position = inputs[:4]
    return apply({"params": params}, tokens, segment, position, train)[0]


@pytest.mark.parametrize("mesh", ["none", "8x1"])
def test_one_expert_is_the_dense_model(mesh):
    """E = K = 1: the gate is 1 and every token has a seat."""
    dense = tiny.model(experts=None)
    config = tiny.model(experts=tiny.moe_config(num_experts=1, d_ff=dense.d_ff))
    inputs = tiny.inputs()
    real = np.asarray(inputs.segment_BT) > 0
    with tiny.on(mesh):
        params = tiny.params(config)
        twin = jax.tree.map(lambda x: x, params)
        twin["block"]["layer_1"]["ffn"] = {
            name: w[:, 0] for name, w in twin["block"]["layer_1"].pop("moe")["experts"].items()
        }
        sparse_BTV = np.asarray(logits(config, params, tiny.put(inputs)))
        dense_BTV = np.asarray(logits(dense, twin, tiny.put(inputs)))
    tiny.assert_close(sparse_BTV[real], dense_BTV[real])
    assert np.ptp(sparse_BTV) > 1


@pytest.mark.parametrize("mesh", ["none", "2x4"])
def test_what_stands_at_padding_changes_nothing(mesh):
    """Not even where tokens compete for slots across sequences."""
    config = tiny.sparse(group_size=2 * tiny.T, capacity_factor=0.5)
    inputs = tiny.inputs(16)
    real = np.asarray(inputs.segment_BT) > 0
    noise = np.random.default_rng(5).integers(0, tiny.V, real.shape)
    other = inputs._replace(tokens_BT=jnp.where(real, inputs.tokens_BT, noise))
    with tiny.on(mesh):
        params = tiny.params(config)
        a, b = (np.asarray(logits(config, params, tiny.put(x), True)) for x in (inputs, other))
    assert not real.all() and (a[~real] != b[~real]).any()
    np.testing.assert_array_equal(a[real], b[real])


@pytest.mark.parametrize("position", ["rotary", "relative"])
def test_packed_documents_are_documents_alone(position):
    """Two documents in a row, or each in its own row: the same logits, as no expert overflows."""
    config = dataclasses.replace(tiny.sparse(eval_capacity_factor=9.0), position=position)
    params = tiny.params(config)
    packed = tiny.inputs(B, T, padded=False)
    half = T // 2
    first = jax.tree.map(lambda x: x.at[:, half:].set(0), packed)
    second = jax.tree.map(lambda x: jnp.roll(x, half, 1).at[:, half:].set(0), packed)
    got = [np.asarray(logits(config, params, x)) for x in (packed, first, second)]
    tiny.assert_close(got[1][:, :half], got[0][:, :half], atol=1e-5)
    tiny.assert_close(got[2][:, :half], got[0][:, half:], atol=1e-5)


@pytest.mark.parametrize("dense", [0, 1])
def test_layers_are_scanned_in_their_order(dense):
    """Dense layers first if any, one block after the other, between embedding and head."""
    config = tiny.model(
        moe_every=1, num_layers=2 + dense, num_dense_layers=dense, tie_embeddings=not dense
    )
    params = tiny.params(config)
    inputs = tiny.inputs()

    @jax.jit
    def by_hand(params, inputs):
        x_BTD = params["embed"][inputs.tokens_BT] * tiny.D**0.5
        place = attention.TokenInfo(inputs.segment_BT, inputs.position_BT, inputs.tokens_BT, None)
        without = dataclasses.replace(config, experts=None)
        blocks = [("dense_block", 0, without)] * dense + [("block", i, config) for i in range(2)]
        for name, i, layer in blocks:
            weights = jax.tree.map(lambda x, i=i: x[i], params[name])
            (x_BTD, _), _ = decoder.Block(layer).apply(
                {"params": weights}, x_BTD, place, False, mutable=["router"]
            )
        square = jnp.square(x_BTD).mean(-1, keepdims=True)
        normed_BTD = x_BTD / jnp.sqrt(square + 1e-6) * params["norm"]["scale"][None, None]
        return normed_BTD @ params["head" if dense else "embed"].T

    tiny.assert_close(logits(config, params, inputs), by_hand(params, inputs), atol=1e-5)


def test_remat_and_unrolling_change_nothing():
    config = tiny.model(moe_every=1, experts=tiny.moe_config(jitter=0.1))
    want = tiny.value_and_grad(config, tiny.inputs())
    changed = dataclasses.replace(config, remat=True, scan_unroll=2)
    tiny.assert_close(tiny.value_and_grad(changed, tiny.inputs()), want)


def test_low_precision_ends_at_the_logits():
    """The arithmetic is bfloat16; parameters, and logits with all their digits, are float32."""
    config = tiny.model(dtype="bfloat16")
    params = tiny.params(config)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    low_BTV = np.asarray(logits(config, params, tiny.inputs()))
    assert low_BTV.dtype == np.float32
    high_BTV = np.asarray(logits(tiny.model(), params, tiny.inputs()))
    difference = np.abs(low_BTV - high_BTV)
    assert 1e-4 < difference.mean() < 0.1
    rounded_BTV = low_BTV.astype(jnp.bfloat16).astype(np.float32)
    assert (low_BTV != rounded_BTV).mean() > 0.5, "the logits were rounded to bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embeddings_are_rounded_once(dtype, monkeypatch):
    """sqrt(8) itself is not a number of bfloat16: scaled in float32, then cast."""
    config = tiny.model(dtype=dtype, experts=None)
    inputs = tiny.inputs()
    seen = []
    layers = decoder.Decoder.layers

    def watched(self, x_BTD, info, train):
        seen.append(x_BTD)
        return layers(self, x_BTD, info, train)

    monkeypatch.setattr(decoder.Decoder, "layers", watched)
    params = tiny.params(config)
    place = inputs.segment_BT, inputs.position_BT
    decoder.Decoder(config).apply({"params": params}, inputs.tokens_BT, *place, False)
    want = (params["embed"][inputs.tokens_BT] * tiny.D**0.5).astype(dtype)
    tiny.assert_equal(seen[-1], want)


def test_shapes_are_known_without_memory():
    huge = tiny.model(d_model=2**14, experts=tiny.moe_config(num_experts=2048, d_ff=2**16))
    experts = models.parameter_shapes(huge)["block"]["layer_1"]["moe"]["experts"]
    assert experts["w_in"].shape == (1, 2048, 2**14, 2**16)


def test_a_group_need_not_be_even():
    odd, even = (tiny.model(experts=tiny.moe_config(group_size=size)) for size in (3, 8))
    assert models.parameter_shapes(odd) == models.parameter_shapes(even)


@pytest.mark.parametrize("experts", [None, tiny.moe_config(num_experts=5, dispatcher="gather")])
def test_products_of_bfloat16_are_of_bfloat16_in_gradients_too(experts):
    """But for the router's; a float32 gradient times bfloat16 would be a product in float32."""
    config = tiny.model(experts=experts, dtype="bfloat16")

    def step(params, inputs, key):
        return gradients.value_and_grad(tiny.task_of(config), params, {}, inputs, key)

    key = jax.eval_shape(jax.random.key, 0)
    found = counting.products(
        step, models.parameter_shapes(config), contract.batch_shapes(4, 8), key
    )
    wide = [product for product in found if "float32" in {dtype for _, dtype in product.of}]
    routers = {(tiny.D, 5), (32, 5)}  # its matrix, and logits
    assert len(found) > 15 and bool(wide) == bool(experts)
    assert all(routers & {shape for shape, _ in product.of} for product in wide)
