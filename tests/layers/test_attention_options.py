"""What published models do differently in attention, against NumPy; on a mesh; and its FLOPs."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import counting
from moe.attention_config import AttentionConfig
from moe.layers import attention, dot_product, relative
from moe.models import ideal
from tests import tiny

B, T, N, K, H, D = 8, 12, 4, 2, 6, 10
SEGMENT = np.sort(np.random.default_rng(0).integers(0, 3, (B, T)))
POSITION = np.stack([[(row[:t] == row[t]).sum() for t in range(T)] for row in SEGMENT])
OPTIONS = {
    "none": {},
    "bias": {"qkv_bias": True},
    "norm of the width": {"qk_norm": "width"},
    "norm of a head": {"qk_norm": "head"},
    "clipped": {"clip_qkv": 0.5},
    "theta": {"rope_theta": 20.0},
    "pairs": {"rope_layout": "pairs"},
    "unscaled": {"scaled": False},
    "window": {"window": 3},
    "all": {
        "qkv_bias": True, "qk_norm": "head", "clip_qkv": 1.0, "rope_theta": 1e6,
        "rope_layout": "pairs", "scaled": False, "window": 4,
    },
}  # fmt: skip


@pytest.fixture(params=OPTIONS)
def how(request):
    return AttentionConfig(**OPTIONS[request.param])


def layer_of(how):
    return attention.Attention(N, K, H, "rotary", 1.0, "float32", how=how, epsilon=1e-3)


def random_params(how):
    """Of the layer's own names and shapes, none of them at its start; one name, one array."""
    info = attention.TokenInfo(SEGMENT, POSITION)
    zeros_BTD = jnp.zeros((B, T, D))
    made = jax.eval_shape(layer_of(how).init, jax.random.key(0), zeros_BTD, q_info=info)["params"]

    def draw(path, x):
        rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
        return 0.5 * rng.normal(size=x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, made)


@functools.cache
def compiled(how):
    def run(params, x_BTD, segment_BT, position_BT):
        info = attention.TokenInfo(segment_BT, position_BT)
        return layer_of(how).apply({"params": params}, x_BTD, q_info=info)

    return jax.jit(run)


def random_x():
    return np.random.default_rng(2).normal(size=(B, T, D)).astype(np.float32)


def by_hand(how, params, x_BTD):
    """The layer in the order of its options, a score at a time."""
    q, k, v = (np.einsum("BTD,DNH->BTNH", x_BTD, params[f"w_{name}"]) for name in "qkv")
    if how.qkv_bias:
        q, k, v = (x + params[f"w_{n}_bias"] for x, n in zip((q, k, v), "qkv", strict=True))
    if how.qk_norm != "none":
        axes = (-2, -1) if how.qk_norm == "width" else -1
        q = normalised(q, axes) * params["q_norm"]["scale"]
        k = normalised(k, axes) * params["k_norm"]["scale"]
    if how.clip_qkv:
        q, k, v = (np.clip(x, -how.clip_qkv, how.clip_qkv) for x in (q, k, v))
    q, k = (turned(x, how) for x in (q, k))
    y = np.zeros((B, T, N, H))
    for b, t, n in np.ndindex(B, T, N):
        first = max(0, t - how.window + 1) if how.window else 0
        seen = [u for u in range(first, t + 1) if SEGMENT[b, u] == SEGMENT[b, t]]
        score = k[b, seen, n // (N // K)] @ q[b, t, n] / (H**0.5 if how.scaled else 1)
        p = np.exp(score - score.max())
        y[b, t, n] = p / p.sum() @ v[b, seen, n // (N // K)]
    return np.einsum("BTNH,NHD->BTD", y, params["w_o"])


def normalised(x, axes):
    return x / np.sqrt((x**2).mean(axes, keepdims=True) + 1e-3)


def turned(x, how):
    """As complex numbers: a pair is one."""
    angle = POSITION[..., None] * how.rope_theta ** (-np.arange(H // 2) * 2 / H)
    pairs = x.reshape(B, T, -1, H // 2, 2) if how.rope_layout == "pairs" else halves(x)
    y = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angle)[:, :, None]
    axis = -1 if how.rope_layout == "pairs" else -2
    return np.stack([y.real, y.imag], axis=axis).reshape(x.shape)


def halves(x):
    return np.stack([x[..., : H // 2], x[..., H // 2 :]], axis=-1)


def test_against_numpy(how):
    params = random_params(how)
    real = (SEGMENT > 0)[..., None]
    got = compiled(how)(params, random_x(), SEGMENT, POSITION)
    tiny.assert_close(got * real, by_hand(how, params, random_x()) * real, rtol=1e-4, atol=1e-4)


def test_every_option_changes_something():
    """So that the comparison above would see one that is left out."""
    plain = by_hand(AttentionConfig(), random_params(AttentionConfig()), random_x())
    for name, fields in OPTIONS.items():
        how = AttentionConfig(**fields)
        found = by_hand(how, random_params(how), random_x())
        assert (np.abs(found - plain).max() > 0.01) == (name != "none"), name


def test_the_same_on_a_mesh_that_shares_heads(how):
    """Two devices have half of the heads each; the norm of the width is over both halves."""
    params = random_params(how)

    def loss(params, x_BTD, segment_BT, position_BT):
        y_BTD = compiled(how)(params, x_BTD, segment_BT, position_BT)
        return jnp.sin(y_BTD).mean(), y_BTD

    def both(params, *given):
        gradients, y_BTD = jax.jit(jax.grad(loss, has_aux=True))(params, *given)
        return tiny.host((y_BTD, gradients))

    alone = both(params, random_x(), SEGMENT, POSITION)
    with tiny.on("2x2x2"):
        given = tiny.put((random_x(), SEGMENT, POSITION))
        tiny.assert_close(both(params, *given), alone, rtol=1e-4, atol=1e-5)


def test_blocks_leave_out_what_no_window_sees():
    """Values of three blocks of queries, and the products of eight."""
    length = 150
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, length, 2, 4)).astype(np.float32)
    ones = np.ones((2, length), np.int32)
    seen = np.tri(length, dtype=bool) & ~np.tri(length, k=-20, dtype=bool)
    score = np.where(seen, np.einsum("BTNH,BUNH->BNTU", q, k) / 2, -np.inf)
    want = np.einsum("BNTU,BUNH->BTNH", jax.nn.softmax(score), v)
    got = jax.jit(functools.partial(dot_product.attend, window=20))(q, k, v, ones, ones)
    tiny.assert_close(got, want, rtol=1e-4)
    x = jax.ShapeDtypeStruct((1, 512, 1, 2), jnp.float32)
    segment = jax.ShapeDtypeStruct((1, 512), jnp.int32)
    attend = functools.partial(dot_product.attend, window=65)
    blocks = counting.count(attend, x, x, x, segment, segment).total / (2 * 2 * 2 * 64 * 64)
    assert blocks == 8 + 7  # its own, and the one before


def test_ideal_flops_of_a_window_are_those_of_the_pairs_that_are_seen():
    config = tiny.model(attention=AttentionConfig(window=3))
    everything = ideal.flops(tiny.model(), 10)["attention"]
    pairs = sum(min(t + 1, 3) for t in range(10)) / 10
    per_pair = 3 * 4 * config.num_heads * config.d_head * config.num_layers
    lost = (sum(t + 1 for t in range(10)) / 10 - pairs) * per_pair
    assert everything - ideal.flops(config, 10)["attention"] == pytest.approx(lost)


# T5's `_relative_position_bucket(bidirectional=True, num_buckets=32, max_distance=128)` of
# query minus key.
BOTH_SIDES = {
    0: 0, 1: 1, 7: 7, 8: 8, 11: 8, 12: 9, 15: 9, 16: 10, 22: 10, 23: 11, 31: 11, 32: 12, 45: 12,
    46: 13, 63: 13, 64: 14, 90: 14, 91: 15, 128: 15, 1000: 15, -1: 17, -7: 23, -8: 24, -16: 26,
    -32: 28, -64: 30, -128: 31, -1000: 31,
}  # fmt: skip


def test_buckets_of_both_sides_are_those_of_t5():
    distance = np.array(list(BOTH_SIDES))
    buckets = jax.jit(relative.bucket, static_argnums=1)(distance, False)
    assert buckets.tolist() == list(BOTH_SIDES.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position": "relative", "attention": AttentionConfig(rope_theta=2.0)}, "does nothing"),
        ({"causal": False, "attention": AttentionConfig(window=2)}, "counts tokens before each"),
    ],
)
def test_what_has_no_meaning_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny.model(**fields)
