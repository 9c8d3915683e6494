"""The MoE layer: what the router sees, what leaves it, and what it keeps to itself."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.layers import moe_layer
from moe.routing import stats
from tests import tiny

B = 4
T = 8


@functools.partial(jax.jit, static_argnums=(0, 5))
def apply(config, params, x_BTD, mask_BT, key, train=True):
    y_BTD, aux = tiny.layer_of(config).apply(
        {"params": params}, x_BTD, mask_BT, train, rngs={"router": key}, mutable=["router"]
    )
    return y_BTD, aux["router"]["record"].stats


def run(config, mesh="none", key=0, train=True, batch=B):
    """(y, router_stats) of random parameters and inputs."""
    with tiny.on(mesh):
        x_BTD, mask_BT = tiny.layer_inputs(batch, T)
        params = tiny.experts_params(config)
        return tiny.host(apply(config, params, x_BTD, mask_BT, jax.random.key(key), train))


def no_drops(**changes):
    return tiny.sparse(capacity_factor=4.0, eval_capacity_factor=4.0, **changes)


def test_the_stats_of_a_layer():
    got = run(tiny.sparse(k=2))[1]
    assert isinstance(got, stats.RouterStats)
    real = B * T - 2 * T // 4
    assert (
        got.tokens == real
        and got.chosen_KE.sum() == got.probability_E.sum().round(3) * 2 == 2 * real
    )
    assert 0 < got.kept_KE.sum() < 2 * real and got.slots == B * tiny.E * 4
    assert got.kept_KE.sum(0).max() <= B * 4


def test_scores_of_a_router_in_bfloat16_are_rounded():
    """What the router does in float32 is all of the difference; experts compute as before."""
    exact = run(no_drops(k=2))
    rounded = run(no_drops(k=2, router_dtype="bfloat16"))
    assert 0 < np.abs(exact[0] - rounded[0]).max() < 0.1
    assert 1e-6 < abs(exact[1].probability_E - rounded[1].probability_E).max() < 0.3
    assert rounded[1].tokens == exact[1].tokens


def test_padding_gets_zeros():
    y_BTD, _ = run(no_drops())
    mask_BT = np.asarray(tiny.layer_inputs(B, T)[1])
    assert not y_BTD[~mask_BT].any() and y_BTD[mask_BT].all()


def test_train_and_evaluation_capacity():
    config = tiny.sparse(capacity_factor=0.5, eval_capacity_factor=2.0)
    assert run(config, train=True)[1].slots == B * tiny.E * 1
    assert run(config, train=False)[1].slots == B * tiny.E * 4


def test_one_gate_scales_what_the_expert_says():
    """K = 1, no drops: y = p_e f_e(x), worked out in NumPy."""
    config = no_drops()
    x_BTD, mask_BT = map(np.asarray, tiny.layer_inputs(B, T))
    params = tiny.host(tiny.experts_params(config))
    logits = x_BTD @ params["router"]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    best = p.argmax(-1)
    w_in = params["experts"]["w_in"][best]
    w_out = params["experts"]["w_out"][best]
    h = np.asarray(jax.nn.gelu(np.einsum("BTD,BTDF->BTF", x_BTD, w_in)))
    want = np.einsum("BTF,BTFD->BTD", h, w_out) * p.max(-1)[..., None] * mask_BT[..., None]
    tiny.assert_close(run(config)[0], want, atol=1e-5)


def test_jitter_moves_the_router_but_not_what_experts_see():
    """Without drops a token of an unchanged choice is changed by its gate alone."""
    config = no_drops(jitter=0.5)
    (y, t) = run(config)
    (y_plain, t_plain) = run(no_drops())
    assert t.z != t_plain.z and (t.chosen_KE != t_plain.chosen_KE).any()
    mask_BT = np.asarray(tiny.layer_inputs(B, T)[1])
    a = y[mask_BT]
    b = y_plain[mask_BT]
    ratio = (a * b).sum(-1) / (b * b).sum(-1)
    parallel = np.abs(a - ratio[:, None] * b).max(-1) < 1e-5
    assert 0.3 < parallel.mean() < 1 and (ratio[parallel] != 1).all()


def test_jitter_is_of_training_only_and_follows_the_key():
    config = no_drops(jitter=0.3)
    tiny.assert_equal(run(config, train=False), run(no_drops(), train=False))
    tiny.assert_equal(run(config, key=3), run(config, key=3))
    assert (run(config, key=3)[0] != run(config, key=4)[0]).any()


def test_jitter_stays_in_its_bounds():
    """x is multiplied by U(1 - j, 1 + j); with x = 1 and w = 1 / D the logit is the mean of D."""
    config = tiny.sparse(num_experts=1, jitter=0.25)
    params = tiny.experts_params(config) | {"router": jnp.ones((tiny.D, 1)) / tiny.D}
    x_BTD = jnp.ones((256, T, tiny.D))
    mask_BT = jnp.ones((256, T), bool)
    _, got = apply(config, params, x_BTD, mask_BT, jax.random.key(0), True)
    mean_square = got.z / got.tokens
    np.testing.assert_allclose(mean_square, 1 + 0.25**2 / 3 / tiny.D, rtol=3e-3)


def test_compilation_changes_nothing():
    config = tiny.sparse(k=2)
    x_BTD, mask_BT = tiny.layer_inputs(B, T)
    with jax.disable_jit():
        got = apply(config, tiny.experts_params(config), x_BTD, mask_BT, jax.random.key(0))
    tiny.assert_close(tiny.host(got), run(config))


def router_equations(dtype):
    """The equations inside the layer's router scope, as (primitive name, equation)."""
    config = tiny.model(dtype=dtype, experts=tiny.moe_config(k=2, jitter=0.1))
    x_BTD = jnp.zeros((B, T, tiny.D), dtype)
    fn = functools.partial(apply.__wrapped__, config)
    closed = jax.make_jaxpr(fn)(
        tiny.experts_params(config), x_BTD, jnp.ones((B, T), bool), jax.random.key(0)
    )
    return [e for e in closed.jaxpr.eqns if "router" in str(e.source_info.name_stack)]


def test_the_router_computes_in_float32_inside_a_bfloat16_model():
    equations = router_equations("bfloat16")
    products = [e for e in equations if e.primitive.name == "dot_general"]
    assert len(products) == 1
    assert all(v.aval.dtype == jnp.float32 for v in (*products[0].invars, *products[0].outvars))
    low = {"bfloat16", "float16"}
    converted = [e for e in equations if any(str(v.aval.dtype) in low for v in e.outvars)]
    assert converted == []


def test_the_router_asks_for_float32_products():
    """By default a TPU multiplies float32 in bfloat16 passes, and a GPU in TF32."""
    (product,) = (e for e in router_equations("bfloat16") if e.primitive.name == "dot_general")
    highest = jax.lax.Precision.HIGHEST
    assert product.params["precision"] in (highest, (highest, highest))


def test_the_layer_answers_in_the_type_it_was_asked():
    config = tiny.model(dtype="bfloat16")
    x_BTD, mask_BT = tiny.layer_inputs(B, T)
    arguments = (config, tiny.experts_params(config), x_BTD.astype(jnp.bfloat16), mask_BT)
    y_BTD, got = jax.eval_shape(
        functools.partial(apply.__wrapped__, arguments[0]), *arguments[1:], jax.random.key(0)
    )
    assert y_BTD.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(got)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("router", "options", "missing"),
    [
        ("random", {}, "this router needs rngs={'router': key}, in init and in apply"),
        ("domain", {}, "this router needs domain_BT"),
        ("hash", {}, "this router keeps 'table' in the collection 'router_state'"),
        ("sigmoid", {}, "this router keeps 'bias' in the collection 'router_state'"),
        ("top_k", {"jitter": 0.1}, "jitter=0.1 draws in training: pass rngs={'router': key}"),
    ],
)
def test_a_router_says_what_it_needs(router, options, missing):
    """In someone else's model that does not know what routers read."""
    layer = tiny.layer_of(tiny.sparse(router=router, **options))
    with pytest.raises(ValueError, match=re.escape(missing)):
        layer.init({"params": jax.random.key(0)}, jnp.ones((B, T, tiny.D)), train=True)


def test_a_router_of_ids_needs_ids():
    layer = tiny.layer_of(tiny.sparse(router="hash"))
    state = {"table": jnp.zeros((32, 1), jnp.int32)}
    with pytest.raises(ValueError, match="this router needs ids_BT"):
        layer.apply({"router_state": state}, jnp.ones((B, T, tiny.D)))


def test_what_no_experts_take_is_refused():
    layer = moe_layer.MoELayer(tiny.moe_config(), activation="swish")
    with pytest.raises(ValueError, match="activation='swish' is not one of 'relu', 'gelu'"):
        layer.init(jax.random.key(0), jnp.ones((B, T, tiny.D)))
    with pytest.raises(ValueError, match=r"must be \[batch, positions, width\], not \(4, 8\)"):
        tiny.layer_of(tiny.sparse()).init(jax.random.key(0), jnp.ones((B, tiny.D)))
