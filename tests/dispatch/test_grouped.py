"""Dropless experts: every kernel is plain arithmetic, on every mesh, and spends no FLOPs on E."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import compat, counting, ffn, hlo, sharding, target
from moe.dispatch import blocks, grouped, hopper, ragged
from moe.routing import assignment
from tests import tiny

D = 6
F = 10
IMPLEMENTATIONS = pytest.mark.parametrize("name", ["blocks", "wide_blocks", "ragged_dot"])
CASES = {  # tokens, K, E, how much the first experts are preferred, activation
    "even": (40, 2, 4, 0.0, "geglu"),
    "crowded": (40, 2, 4, 3.0, "relu"),
    "all to one": (37, 1, 5, 99.0, "geglu"),
    "two rows an expert": (40, 1, 16, 1.0, "relu"),
    "fewer rows than experts": (5, 2, 32, 1.0, "geglu"),
}


def case(tokens, k, experts, skew, activation, seed=0):
    """Choices, the last three tokens padding; x, gates and weights."""
    rng = np.random.default_rng(seed)
    score = rng.random((tokens, experts)) + skew * np.arange(experts)[::-1]
    expert_1SK = np.argsort(-score, axis=-1)[None, :, :k].astype(np.int32)
    expert_1SK[0, -3:] = experts
    gate_1SK = np.where(expert_1SK < experts, rng.random((1, tokens, k)), 0)
    shapes = (tokens, D), *((experts, *shape) for shape in ((D, F), (F, D), (D, F)))
    x_SD, w_in, w_out, w_gate = (rng.normal(size=shape) for shape in shapes)
    w_gate = w_gate if ffn.ACTIVATIONS[activation][1] else None
    floats = x_SD, gate_1SK, ffn.Weights(w_in, w_out, w_gate)
    return expert_1SK, jax.tree.map(lambda x: x.astype(np.float32), floats)


def plain(expert_1SK, activation, x_SD, gate_1SK, weights):
    """Every expert on every token."""

    def one(w):
        return ffn.apply(x_SD, w, activation, "S")

    hit_SKE = jax.nn.one_hot(expert_1SK[0], len(weights.w_in), dtype=x_SD.dtype)
    return jnp.einsum("SKE,SK,ESD->SD", hit_SKE, gate_1SK[0], jax.vmap(one)(weights))


def by_kernel(name, expert_1SK, activation, x_SD, gate_1SK, weights):
    choice = assignment.TopKAssignment(expert_1SK, gate_1SK)
    return grouped.IMPLEMENTATIONS[name].apply(x_SD, choice, weights, activation)[0]


def with_gradients(fn, floats):
    """y, and the gradients of a sum of y with weights that differ everywhere."""
    weight = np.random.default_rng(9).normal(size=floats[0].shape)

    def weighted(*floats):
        y_SD = fn(*floats)
        return (y_SD.astype(jnp.float32) * weight.astype(np.float32)).sum(), y_SD

    (_, y_SD), grads = jax.jit(jax.value_and_grad(weighted, (0, 1, 2), has_aux=True))(*floats)
    return y_SD, grads


@functools.cache
def expected(name):
    expert_1SK, floats = case(*CASES[name])
    return with_gradients(functools.partial(plain, expert_1SK, CASES[name][-1]), floats)


@IMPLEMENTATIONS
@pytest.mark.parametrize("loads", CASES)
def test_values_and_gradients_are_those_of_plain_arithmetic(name, loads):
    """And an expert without tokens gets a gradient of exact zeros."""
    (_, _, experts, _, activation) = CASES[loads]
    (expert_1SK, floats) = case(*CASES[loads])
    got = with_gradients(functools.partial(by_kernel, name, expert_1SK, activation), floats)
    tiny.assert_close(got, expected(loads), rtol=1e-4, atol=1e-5)
    met_E = np.isin(np.arange(experts), expert_1SK)
    assert met_E.all() == (loads == "even")
    for grad in jax.tree.leaves(got[1][2]):
        np.testing.assert_array_equal(np.asarray(grad).any((1, 2)), met_E)


@IMPLEMENTATIONS
def test_bfloat16_is_within_three_percent_of_float64(name):
    """Of the largest entry, values and gradients: eight bits, and sums of tens of terms."""
    expert_1SK, (x_SD, gate_1SK, weights) = case(*CASES["crowded"])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(np.float64), (x_SD, gate_1SK, weights))
        exact = tiny.host(with_gradients(functools.partial(plain, expert_1SK, "relu"), wide))
    low = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (x_SD, weights))
    fn = functools.partial(by_kernel, name, expert_1SK, "relu")
    y_SD, (dx_SD, dgate, dweights) = with_gradients(fn, (low[0], gate_1SK, low[1]))
    assert {x.dtype.name for x in jax.tree.leaves((y_SD, dx_SD, dweights))} == {"bfloat16"}
    want_y, (want_dx, want_dgate, want_dweights) = exact
    got = (y_SD, dx_SD, dgate, dweights)
    want = (want_y, want_dx, want_dgate, want_dweights)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert b.dtype == np.float64
        assert np.abs(np.asarray(a, np.float64) - b).max() < 0.03 * np.abs(b).max()


def test_what_blocks_compute():
    """Slots, and whole blocks for those who find none."""
    expert_1SK, (x_SD, gate_1SK, weights) = case(*CASES["crowded"])
    choice = assignment.TopKAssignment(expert_1SK, gate_1SK)
    rows = jax.jit(blocks.apply, static_argnums=3)(x_SD, choice, weights, "relu")[1]
    slots, block = blocks.sizes(80, 4)
    over_E = np.maximum(np.bincount(expert_1SK.ravel(), minlength=5)[:4] - slots, 0)
    assert over_E.any() and rows == 4 * slots + (-(-over_E // block)).sum() * block


def test_a_few_tokens_read_the_weights_of_their_own_experts_only():
    expert_1SK, (x_SD, gate_1SK, weights) = case(*CASES["fewer rows than experts"])
    met_E = np.isin(np.arange(32), expert_1SK)
    broken = jax.tree.map(lambda w: np.where(met_E[:, None, None], w, np.nan), weights)
    got = by_kernel("blocks", expert_1SK, "geglu", x_SD, gate_1SK, broken)
    tiny.assert_close(got, expected("fewer rows than experts")[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("experts", [8, 64])
def test_no_program_multiplies_every_row_with_every_expert(experts):
    """FLOPs of the compiled program over those of the rows alone; XLA's own product fails this."""
    expert_1SK, floats = case(512, 1, experts, 0.0, "relu")
    ideal = 3 * 2 * 2 * 512 * D * F

    def over_ideal(name):
        fn = functools.partial(by_kernel, name, expert_1SK, "relu")
        step = jax.grad(lambda *floats: fn(*floats).sum(), (0, 1, 2))
        text = jax.jit(step).lower(*floats).compile().as_text()
        return hlo.products(text) / ideal, step

    compiled, step = over_ideal("blocks")
    slots, block = blocks.sizes(512, experts)
    in_slots = experts * slots / 512
    assert in_slots <= compiled < in_slots + 2 * block / 512 < 1.6
    assert counting.count(step, *floats).total == pytest.approx(in_slots * ideal)
    assert over_ideal("ragged_dot")[0] == experts


def pretend_to_be_hopper(monkeypatch, product=jax.lax.ragged_dot_general):
    """The kernels for Hopper, of which none runs here, are XLA's product; what was called."""
    asked = []

    def stand_in(name, dimensions):
        def kernel(a, b, count_E):
            asked.append(name)
            return product(a, b, count_E, dimensions)

        monkeypatch.setattr(hopper, name, kernel)

    monkeypatch.setattr(hopper, "check", lambda *sizes: None)
    stand_in("rows", ragged.PD_EDF)
    stand_in("rows_transposed", ragged.PF_EDF)
    stand_in("columns", ragged.PD_PF)
    return asked


def test_every_product_of_hopper_is_asked_of_its_kernel(monkeypatch):
    asked = pretend_to_be_hopper(monkeypatch)
    expert_1SK, floats = case(*CASES["even"])
    got = with_gradients(functools.partial(by_kernel, "hopper", expert_1SK, "geglu"), floats)
    tiny.assert_close(got, expected("even"), rtol=1e-4, atol=1e-5)
    assert sorted(asked) == ["columns"] * 3 + ["rows"] * 3 + ["rows_transposed"] * 3


def test_what_nobody_computed_reaches_nothing(monkeypatch):
    """Kernels leave rows of nobody as they found the memory, and add 0 times such rows."""

    def product(a, b, count_E, dimensions):
        y = jax.lax.ragged_dot_general(a, b, count_E, dimensions)
        nobody_P1 = (jnp.arange(len(a)) >= count_E.sum())[:, None]
        if dimensions == ragged.PD_PF:
            return y + 0 * (jnp.where(nobody_P1, a, 0).sum() + jnp.where(nobody_P1, b, 0).sum())
        return jnp.where(nobody_P1, jnp.nan, y)

    pretend_to_be_hopper(monkeypatch, product)
    expert_1SK, floats = case(*CASES["even"])
    got = with_gradients(functools.partial(by_kernel, "hopper", expert_1SK, "geglu"), floats)
    tiny.assert_close(got, expected("even"), rtol=1e-4, atol=1e-5)


def test_what_hopper_has_no_kernel_for_is_refused():
    expert_1SK, floats = case(*CASES["even"])
    with pytest.raises(ValueError, match="'hopper' wants a Hopper GPU, not cpu. Use 'blocks'"):
        by_kernel("hopper", expert_1SK, "geglu", *floats)


# Through the layer, where choices travel between devices.

BATCH = 16
LENGTH = 8
EXPERTS = 8


@functools.cache
def through_layer(dispatcher, mesh, factor, k=2, **execution):
    """(y, router_stats), and the gradients for x, router and experts."""
    config = tiny.sparse(
        num_experts=EXPERTS, k=k, dispatcher=dispatcher, capacity_factor=factor,
        eval_capacity_factor=factor,
    )  # fmt: skip
    layer = tiny.layer_of(config, **execution)
    weight = np.random.default_rng(9).normal(size=(BATCH, LENGTH, tiny.D)).astype(np.float32)

    def weighted(params, x_BTD, mask_BT, weight_BTD):
        y, aux = layer.apply({"params": params}, x_BTD, mask_BT, True, mutable=["router"])
        return (y * weight_BTD).sum(), (y, aux["router"]["record"].stats)

    with tiny.on(mesh):
        inputs = (*tiny.layer_inputs(BATCH, LENGTH), tiny.put(weight))
        step = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True))
        (_, results), grads = step(tiny.experts_params(config), *inputs)
        return tiny.host((results, grads))


@pytest.mark.parametrize("mesh", ["none", "1x1x1", "8x1x1", "1x8x1", "2x2x2"])
def test_one_device_and_many(mesh):
    """A buffer of e even shares holds whatever comes."""
    (y, router_stats), grads = through_layer("grouped", mesh, 0.0, ep_capacity_factor=8.0)
    (y_want, stats_want), grads_want = through_layer("oracle", "none", EXPERTS / 2)
    tiny.assert_close(y, y_want)
    tiny.assert_close(grads, grads_want)
    assert all(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(grads))
    tiny.assert_close(router_stats._replace(slots=0), stats_want._replace(slots=0))
    pairs = router_stats.chosen_KE.sum()
    assert (
        router_stats.kept_KE.sum() == pairs <= router_stats.slots < 2 * pairs
    )  # and not empty buffers


def test_the_ragged_kernel_on_a_mesh():
    """Which computes the rows that came, and none of an empty buffer."""
    (y, router_stats), grads = through_layer(
        "grouped", "2x4x1", 0.0, ep_capacity_factor=8.0, implementation="ragged_dot"
    )
    (y_want, _), grads_want = through_layer("oracle", "none", EXPERTS / 2)
    tiny.assert_close(y, y_want)
    tiny.assert_close(grads, grads_want)
    assert router_stats.slots == router_stats.kept_KE.sum()


def test_a_kernel_that_forgets_the_mesh(monkeypatch):
    """As a Pallas kernel's: what it returns does not say that it differs between devices."""

    def product(*args):
        return jax.lax.psum(jax.lax.ragged_dot_general(*args), sharding.AXES)  # of one device

    pretend_to_be_hopper(monkeypatch, product)
    (y, _), grads = through_layer(
        "grouped", "1x1x1", 0.0, ep_capacity_factor=8.0, implementation="hopper"
    )
    (y_want, _), grads_want = through_layer("oracle", "none", EXPERTS / 2)
    tiny.assert_close(y, y_want)
    tiny.assert_close(grads, grads_want)


def test_auto_is_the_fastest_that_is_known_and_fits(monkeypatch):
    def chosen(platform):
        with target.compiling_for(platform):
            name = grouped.choose("auto", "bfloat16", 128, 128)
            grouped.check(name)
            return name

    assert chosen("cpu") == chosen("gpu") == "blocks"  # which is no Hopper GPU
    assert chosen("tpu") == ("ragged_dot" if "tpu" in compat.RAGGED_DOT else "blocks")
    monkeypatch.setattr(hopper, "misfit", lambda dtype, *widths: dtype != "bfloat16")
    assert chosen("gpu") == "hopper"
    with target.compiling_for("gpu"):
        assert grouped.choose("auto", "float32", 128, 128) == "blocks"
    assert grouped.choose("wide_blocks", "bfloat16", 128, 128) == "wide_blocks"


def test_kernels_that_would_be_dense_here_are_refused():
    message = "'ragged_dot' is not for cpu in JAX 0.*Use 'auto' or 'blocks'"
    with pytest.raises(ValueError, match=message):
        grouped.check("ragged_dot")
    grouped.check("blocks")


def test_of_tpus_those_of_newer_versions_have_a_kernel():
    """JAX 0.10's multiplies every row with every expert in the gradient of weights."""
    newer = not jax.__version__.startswith("0.10.")
    with target.compiling_for("tpu"):
        assert grouped.fit() == ["blocks", *(["ragged_dot"] * newer)]
        with pytest.raises(ValueError, match="'hopper' is not for tpu"):
            grouped.check("hopper")


def test_what_does_not_fit_into_the_buffer_is_counted():
    """Half an even share holds at most half of a device's choices."""
    (y, router_stats), _ = through_layer("grouped", "2x4x1", 0.0, k=1, ep_capacity_factor=0.5)
    chosen = router_stats.chosen_KE.sum()
    kept = router_stats.kept_KE.sum()
    assert 0.25 * chosen < kept <= 0.55 * chosen
    mask_BT = np.asarray(tiny.layer_inputs(BATCH, LENGTH)[1])
    assert router_stats.unrouted == chosen - kept == (mask_BT & ~y.any(-1)).sum()
