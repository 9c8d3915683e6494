"""Attention: against a loop in NumPy, positions that are relative, documents that do not mix."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import counting
from moe.layers import attention, dot_product, relative, rotary
from tests import tiny

B = 2
T = 6
N = 2
H = 4
D = 8
SEGMENT = np.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 0, 0]])
POSITION = np.array([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 0, 0]])

attend = jax.jit(dot_product.attend)


@jax.jit
def rotate(x_BTNH, position_BT):
    return rotary.rotate(x_BTNH, rotary.of(position_BT, x_BTNH.shape[-1]))


def qkv(seed=0):
    return np.random.default_rng(seed).normal(size=(3, B, T, N, H)).astype(np.float32)


def random_params(position):
    shapes = {"w_q": (D, N, H), "w_k": (D, N, H), "w_v": (D, N, H), "w_o": (N, H, D)}
    shapes |= {"relative": (N, relative.BUCKETS)} if position == "relative" else {}
    rng = np.random.default_rng(1)
    return {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}


def apply(layer, params, x_BTD, segment_BT, position_BT):
    """Self-attention."""
    info = attention.TokenInfo(segment_BT, position_BT)
    return layer.apply({"params": params}, x_BTD, q_info=info)


def by_loop(q, k, v, bias_NTT):
    """softmax(q k / sqrt(H) + bias) v over earlier positions of the same segment."""
    y = np.zeros((B, T, N, H))
    for b, t, n in np.ndindex(B, T, N):
        seen = [u for u in range(t + 1) if SEGMENT[b, u] == SEGMENT[b, t]]
        score = np.array([q[b, t, n] @ k[b, u, n] / 2 + bias_NTT[n, t, u] for u in seen])
        p = np.exp(score - score.max())
        y[b, t, n] = (p / p.sum()) @ v[b, seen, n]
    return y


def test_against_the_loop():
    q, k, v = qkv()
    bias_NTT = np.random.default_rng(1).normal(size=(N, T, T)).astype(np.float32)
    tiny.assert_close(
        attend(q, k, v, SEGMENT, SEGMENT, bias_NTT), by_loop(q, k, v, bias_NTT), rtol=1e-4
    )
    tiny.assert_close(attend(q, k, v, SEGMENT, SEGMENT), by_loop(q, k, v, 0 * bias_NTT), rtol=1e-4)


def test_softmax_is_float32_whatever_the_input():
    """Among 4,000 equal positions each gets 1/4000: bfloat16 sums would lose most of them."""
    length = 4000
    zeros = jnp.zeros((1, length, 1, 2), jnp.bfloat16)
    segment = jnp.ones((1, length), jnp.int32)
    y = jax.eval_shape(dot_product.attend, zeros, zeros, zeros, segment, segment)
    assert y.dtype == jnp.bfloat16
    jaxpr = str(jax.make_jaxpr(dot_product.attend)(zeros, zeros, zeros, segment, segment))
    assert f"f32[1,1,{length // dot_product.MAX_BLOCKS},{length}] = exp" in jaxpr
    assert not re.search(r"bf16\[[\d,]*\] = exp", jaxpr)


def test_blocks_of_queries_are_the_whole():
    """Values and all gradients, in three blocks of which the last is short."""
    length = 150
    rng = np.random.default_rng(0)
    assert dot_product.blocks(length) == [(0, 64), (64, 128), (128, 150)]
    q, k, v = jnp.asarray(rng.normal(size=(3, B, length, N, H)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=(N, length, length)), jnp.float32)
    segment = np.sort(rng.integers(0, 3, (B, length)), axis=-1)
    seen = (segment[:, :, None] == segment[:, None]) & np.tri(length, dtype=bool)[None]

    def plain(q, k, v, bias):
        score = jnp.einsum("BTNH,BUNH->BNTU", q, k) / 2 + bias[None]
        p = jax.nn.softmax(jnp.where(seen[:, None], score, -jnp.inf))
        return jnp.einsum("BNTU,BUNH->BTNH", p, v)

    def with_gradients(fn):
        y, transpose = jax.vjp(fn, q, k, v, bias)
        return y, transpose(jnp.cos(v))

    got = with_gradients(lambda q, k, v, bias: dot_product.attend(q, k, v, segment, segment, bias))
    tiny.assert_close(got, with_gradients(plain), rtol=1e-4, atol=1e-5)


def test_little_of_the_future_is_computed():
    """Of 8 x 8 blocks the 36 up to the diagonal."""
    x = jax.ShapeDtypeStruct((1, 512, 1, 2), jnp.float32)
    segment = jax.ShapeDtypeStruct((1, 512), jnp.int32)
    found = [
        counting.count(
            functools.partial(dot_product.attend, causal=causal), x, x, x, segment, segment
        )
        for causal in (True, False)
    ]
    assert found[0].total == found[1].total * 36 / 64


@pytest.mark.parametrize("position", ["rotary", "relative"])
def test_no_gradient_from_the_future_or_another_document(position):
    """dy_t / dx_u is exactly zero unless u <= t in the same document, and then it is not."""
    layer = attention.Attention(N, N, H, position, 1.0, "float32")
    x_BTD = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    params = random_params(position)

    def row(x_TD, b):
        y = apply(layer, params, x_TD[None], SEGMENT[b][None], POSITION[b][None])
        return y[0].sum(-1)

    for b in range(B):
        jacobian_TUD = np.asarray(jax.jit(jax.jacrev(row), static_argnums=1)(x_BTD[b], b))
        for t, u in np.ndindex(T, T):
            visible = u <= t and SEGMENT[b, u] == SEGMENT[b, t]
            assert jacobian_TUD[t, u].any() == visible, (b, t, u)


def test_a_document_does_not_know_where_in_the_row_it_stands():
    """The same document alone and as the second of a row gives the same outputs."""
    layer = attention.Attention(N, N, H, "rotary", 1.0, "float32")
    x_BTD = np.random.default_rng(0).normal(size=(1, T, D)).astype(np.float32)
    params = random_params("rotary")
    on_rows = jax.jit(functools.partial(apply, layer, params))
    together = on_rows(x_BTD, SEGMENT[:1], POSITION[:1])
    swapped = on_rows(np.roll(x_BTD, 3, axis=1), SEGMENT[:1], POSITION[:1])
    tiny.assert_close(np.roll(swapped, 3, axis=1), together, atol=1e-5)


def test_rotary_scores_depend_on_distance_only():
    q, k, _ = qkv()
    position = np.array([[0, 3, 5, 9, 1, 2]] * B)

    def scores(shift):
        turned = (rotate(x, position + shift) for x in (q, k))
        return np.einsum("BTNH,BUNH->BNTU", *turned)

    tiny.assert_close(scores(0), scores(100), rtol=1e-3, atol=1e-4)
    unlike = np.einsum("BTNH,BUNH->BNTU", rotate(q, position), rotate(k, position + 1))
    assert np.abs(unlike - scores(0)).max() > 0.1


def test_rotary_by_hand():
    """H = 4: the pair (0, 2) turns by t radians, the pair (1, 3) by t / 100."""
    x = np.array([1.0, 1, 0, 0], np.float32).reshape(1, 1, 1, 4)
    t = 2
    want = [np.cos(t), np.cos(t / 100), np.sin(t), np.sin(t / 100)]
    np.testing.assert_allclose(rotate(x, np.array([[t]]))[0, 0, 0], want, rtol=1e-5)
    np.testing.assert_array_equal(rotate(x, np.array([[0]])), x)


def test_rotary_keeps_lengths_and_type():
    q = qkv()[0]
    turned = rotate(q, POSITION)
    tiny.assert_close(np.linalg.norm(turned, axis=-1), np.linalg.norm(q, axis=-1))
    assert rotate(q.astype(jnp.bfloat16), POSITION).dtype == jnp.bfloat16


# T5's `_relative_position_bucket(bidirectional=False, num_buckets=32, max_distance=128)`.
T5_BUCKETS = {
    0: 0, 1: 1, 8: 8, 15: 15, 16: 16, 17: 16, 18: 16, 19: 17, 20: 17, 21: 18, 23: 18, 24: 19,
    26: 19, 27: 20, 30: 20, 31: 21, 34: 21, 35: 22, 39: 22, 40: 23, 45: 23, 46: 24, 51: 24,
    52: 25, 58: 25, 59: 26, 66: 26, 67: 27, 76: 27, 77: 28, 86: 28, 87: 29, 98: 29, 99: 30,
    112: 30, 113: 31, 127: 31, 128: 31, 1000: 31,
}  # fmt: skip


def test_buckets_are_those_of_t5():
    distance = np.array(list(T5_BUCKETS))
    assert jax.jit(relative.bucket)(distance).tolist() == list(T5_BUCKETS.values())


def test_the_future_falls_into_bucket_0():
    """It is masked, but the table must be read inside its bounds."""
    assert relative.bucket(np.array([-1, -500])).tolist() == [0, 0]


def test_the_relative_bias_is_that_of_the_distance():
    """Without a query, and with one-hot values, the output is softmax(bias) itself."""
    length = 40
    eye = jnp.eye(length)
    bias_X = np.random.default_rng(0).normal(size=relative.BUCKETS).astype(np.float32)
    params = {
        "w_q": jnp.zeros((length, 1, length)),
        "w_k": eye[:, None],
        "w_v": eye[:, None],
        "w_o": eye[None],
        "relative": jnp.asarray(bias_X[None]),
    }
    layer = attention.Attention(1, 1, length, "relative", 1.0, "float32")
    ones = jnp.ones((1, length), jnp.int32)
    p_TU = np.asarray(jax.jit(functools.partial(apply, layer))(params, eye[None], ones, ones))[0]
    np.testing.assert_allclose(p_TU.sum(-1), 1, rtol=1e-5)
    for t, u in [(5, 0), (5, 4), (15, 0), (16, 0), (39, 0), (39, 24), (39, 23), (30, 0)]:
        want = bias_X[T5_BUCKETS.get(t - u, t - u)] - bias_X[0]
        np.testing.assert_allclose(np.log(p_TU[t, u] / p_TU[t, t]), want, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
def test_grouped_queries_are_as_many_heads_with_shared_keys(heads):
    """Neighbouring query heads share a key and a value head (Ainslie et al. 2023, figure 2)."""
    few = attention.Attention(4, heads, H, "rotary", 1.0, "float32")
    many = attention.Attention(4, 4, H, "rotary", 1.0, "float32")
    x_BTD = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    info = attention.TokenInfo(SEGMENT, POSITION)
    params = jax.jit(few.init)(jax.random.key(0), x_BTD, q_info=info)["params"]
    assert params["w_k"].shape == params["w_v"].shape == (D, heads, H)
    repeated = {n: jnp.repeat(params[n], 4 // heads, axis=1) for n in ("w_k", "w_v")}
    got, want = (
        jax.jit(functools.partial(apply, layer))(p, x_BTD, SEGMENT, POSITION)
        for layer, p in ((few, params), (many, {**params, **repeated}))
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
