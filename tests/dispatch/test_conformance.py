"""All dispatchers of slots agree with plain arithmetic, in values and every gradient, everywhere.

The one without, `grouped`, has its own tests.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import dispatch
from moe.routing import assignment
from tests import tiny

G = 3
S = 8
D = 5
E = 4
NAMES = pytest.mark.parametrize("name", ["oracle", "einsum", "gather"])
LOW = (jnp.bfloat16, jnp.float32, jnp.bfloat16)  # x, gates and weights


def arrays(k, seed=0):
    """x, gates and weights; choices that overload expert 0, with padding in the last group."""
    rng = np.random.default_rng(seed)
    score = rng.random((G, S, E)) + np.array([1.0, 0, 0, -0.5])
    expert_GSK = np.argsort(-score, axis=-1)[..., :k].astype(np.int32)
    expert_GSK[2, 5:] = E
    gate_GSK = np.where(expert_GSK < E, rng.random((G, S, k)), 0)
    floats = rng.normal(size=(G, S, D)), gate_GSK, rng.normal(size=(E, D, D))
    return expert_GSK, tuple(x.astype(np.float32) for x in floats)


def kept(expert_GSK, slots):
    """Which choices find a slot: tokens in order, their choices in order."""
    keep_GSK = np.zeros(expert_GSK.shape, np.float32)
    for g in range(G):
        used = [0] * E
        for s, k in np.ndindex(expert_GSK.shape[1:]):
            e = expert_GSK[g, s, k]
            if e < E and used[e] < slots:
                used[e] += 1
                keep_GSK[g, s, k] = 1
    return keep_GSK


def expert(x, w_EDF, letters):
    """An expert that makes something of the zeros in an empty slot, which nobody must see."""
    return jnp.cos(jnp.einsum(f"{letters}D,EDF->{letters}F", x, w_EDF))


def plain(keep_GSK, expert_GSK, x_GSD, gate_GSK, w_EDF):
    """y_s = sum_k gate_sk f_e(x_s) over kept choices."""
    y_GESD = expert(jnp.broadcast_to(x_GSD[:, None], (G, E, S, D)), w_EDF, "GES")
    hit_GSKE = jax.nn.one_hot(expert_GSK, E) * (keep_GSK * gate_GSK)[..., None]
    return jnp.einsum("GSKE,GESD->GSD", hit_GSKE, y_GESD)


def travelled(name, slots, expert_GSK, x_GSD, gate_GSK, w_EDF):
    dispatcher = dispatch.SLOTTED[name]
    slots = assignment.assign_slots(assignment.TopKAssignment(expert_GSK, gate_GSK), E, slots)
    y_GECD = expert(dispatcher.dispatch(x_GSD, slots), w_EDF, "GEC")
    return dispatcher.combine(y_GECD, slots, tokens=S)


def value_and_gradients(fn):
    """The program of y, and of the gradients of a sum of y with weights that differ everywhere."""
    weight = np.random.default_rng(9).normal(size=(G, S, D)).astype(np.float32)

    def weighted(expert_GSK, *floats):
        y_GSD = fn(expert_GSK, *floats)
        return (y_GSD.astype(weight.dtype) * weight).sum(), y_GSD

    gradients = jax.jit(jax.value_and_grad(weighted, (1, 2, 3), has_aux=True))

    def values(expert_GSK, floats):
        (_, y_GSD), grads = gradients(expert_GSK, *floats)
        return y_GSD, grads

    return values


@functools.cache
def dispatched(name, slots):
    """One program for all choices."""
    return value_and_gradients(functools.partial(travelled, name, slots))


@functools.cache
def expected(k, slots):
    expert_GSK, floats = arrays(k)
    fn = functools.partial(plain, kept(expert_GSK, slots))
    return value_and_gradients(fn)(expert_GSK, floats)


@NAMES
@pytest.mark.parametrize(("k", "slots"), [(1, 2), (1, 8), (2, 3), (2, 8), (4, 5), (4, 8)])
def test_values_and_gradients_are_those_of_plain_arithmetic(name, k, slots):
    expert_GSK, floats = arrays(k)
    dropped = (expert_GSK < E).sum() - kept(expert_GSK, slots).sum()
    assert (dropped > 0) == (slots < 8)
    tiny.assert_close(dispatched(name, slots)(expert_GSK, floats), expected(k, slots))


@NAMES
def test_tokens_nobody_keeps_get_zeros(name):
    expert_GSK, floats = arrays(1)
    y_GSD, (dx_GSD, dgate_GSK, _) = dispatched(name, 2)(expert_GSK, floats)
    lost_GS = kept(expert_GSK, 2)[..., 0] == 0
    assert lost_GS.any() and not np.asarray(y_GSD)[lost_GS].any()
    assert not np.asarray(dx_GSD)[lost_GS].any() and not np.asarray(dgate_GSK)[lost_GS].any()
    assert np.asarray(y_GSD)[~lost_GS].all()


@NAMES
def test_an_expert_without_tokens_gets_no_gradient(name):
    expert_GSK, floats = arrays(2)
    expert_GSK = np.where(expert_GSK == 3, E, expert_GSK)
    _, (_, _, dw_EDF) = dispatched(name, 8)(expert_GSK, floats)
    assert not np.asarray(dw_EDF)[3].any() and np.asarray(dw_EDF)[:3].all()


@NAMES
def test_bfloat16_is_within_three_percent_of_float64(name):
    """Of the largest entry, values and all gradients; what is low stays low."""
    expert_GSK, floats = arrays(2)
    with jax.enable_x64(True):
        wide = tuple(x.astype(np.float64) for x in floats)
        fn = functools.partial(plain, kept(expert_GSK, 3))
        want = tiny.host(value_and_gradients(fn)(expert_GSK, wide))
    low = tuple(x.astype(kind) for x, kind in zip(floats, LOW, strict=True))
    got = dispatched(name, 3)(expert_GSK, low)
    assert got[0].dtype == jnp.bfloat16 and tuple(x.dtype for x in got[1]) == LOW
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert b.dtype == np.float64
        assert np.abs(np.asarray(a, np.float64) - b).max() < 0.03 * np.abs(b).max()


# The same through the layer, where tokens travel between devices.

GROUPS = {"one sequence": 0, "two sequences": 16, "half a sequence": 4}
BATCH = 16
LENGTH = 8


@functools.cache
def through_layer(name, group_size, mesh):
    """(y, router_stats), and the gradients for x, router and experts, of a layer with 8 experts."""
    config = tiny.sparse(num_experts=8, k=2, dispatcher=name, group_size=group_size)
    layer = tiny.layer_of(config)
    weight = np.random.default_rng(9).normal(size=(BATCH, LENGTH, tiny.D)).astype(np.float32)

    def weighted(params, x_BTD, mask_BT, weight_BTD):
        y, aux = layer.apply({"params": params}, x_BTD, mask_BT, True, mutable=["router"])
        return (y * weight_BTD).sum(), (y, aux["router"]["record"].stats)

    with tiny.on(mesh):
        inputs = (*tiny.layer_inputs(BATCH, LENGTH), tiny.put(weight))
        step = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True))
        (_, results), grads = step(tiny.experts_params(config), *inputs)
        return tiny.host((results, grads))


# A dispatcher is given groups, and does not know what sequences they are made of.
PAIRS = [
    *(("gather", group) for group in GROUPS),
    *((name, "two sequences") for name in ("einsum", "oracle")),
]


@pytest.mark.parametrize("mesh", ["none", "2x4"])
@pytest.mark.parametrize(("name", "group"), PAIRS)
def test_one_device_and_many(name, mesh, group):
    agree(name, group, mesh)


@NAMES
@pytest.mark.parametrize(("mesh", "group"), [("8x1", "two sequences"), ("1x8", "half a sequence")])
def test_only_one_axis(name, mesh, group):
    agree(name, group, mesh)


def agree(name, group, mesh):
    (y, router_stats), grads = through_layer(name, GROUPS[group], mesh)
    (y_want, stats_want), grads_want = through_layer("oracle", GROUPS[group], "none")
    assert 0.05 < 1 - stats_want.kept_KE.sum() / stats_want.chosen_KE.sum() < 0.5
    tiny.assert_close(y, y_want)
    tiny.assert_close(grads, grads_want)
    assert all(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(grads))
    tiny.assert_close(router_stats, stats_want)


@pytest.mark.parametrize("name", ["einsum", "gather"])
def test_what_is_not_finite_in_padding_reaches_nobody(name):
    expert_GSK, (x_GSD, *rest) = arrays(2)
    padded_GS1 = (expert_GSK == E).all(-1)[..., None]
    values = dispatched(name, S)
    got = values(expert_GSK, (np.where(padded_GS1, np.float32(np.nan), x_GSD), *rest))
    tiny.assert_close(got, values(expert_GSK, (x_GSD, *rest)))
