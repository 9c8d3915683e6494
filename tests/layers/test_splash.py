"""The fused attention of TPUs: when it is chosen, and that it computes what ours does.

No test machine has a TPU, so XLA interprets the kernel.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import counting, sharding, target
from moe.attention_config import AttentionConfig
from moe.layers import attention, attention_kernels, dot_product, splash
from tests import tiny

B, T, N, K, H = 2, 256, 4, 2, 16
HOW = AttentionConfig()


@pytest.fixture
def on_tpu():
    with target.compiling_for("tpu"):
        yield


def queries(dtype="bfloat16", length=T, width=H):
    return jax.ShapeDtypeStruct((B, length, N, width), dtype)


def test_auto_takes_it_where_it_fits(on_tpu):
    def chosen(q, position="rotary", how=HOW, **given):
        return attention_kernels.choose("auto", q, position, how, **given)

    assert chosen(queries()) == chosen(queries("float32", 384, 512)) == "splash"
    assert chosen(queries(), how=AttentionConfig(window=7, scaled=False)) == "splash"
    assert chosen(queries(), "relative") == chosen(queries(), context=True) == "plain"
    assert attention_kernels.choose("plain", queries(), "rotary", HOW) == "plain"
    with target.compiling_for("cpu"):
        assert chosen(queries()) == "plain"


@pytest.mark.parametrize(
    ("q", "given", "wants"),
    [
        (queries("float16"), {}, "model.dtype='bfloat16' or 'float32', not 'float16'"),
        (queries(), {"position": "relative"}, "model.position='rotary', not 'relative'"),
        (queries(), {"context": True}, "attend to themselves"),
        (queries(width=1024), {}, "a model.d_head of at most 512, not 1024"),
        (queries(length=192), {}, "a train.seq_len that is a multiple of 128, not 192"),
    ],
)
def test_what_does_not_fit_is_refused(on_tpu, q, given, wants):
    given = {"position": "rotary", "how": HOW} | given
    with pytest.raises(ValueError, match=f"mesh.attention='splash' wants .*{wants}.*Use 'auto'"):
        attention_kernels.choose("splash", q, **given)


def test_without_a_tpu():
    with pytest.raises(ValueError, match="mesh.attention='splash' wants a TPU, not cpu"):
        attention_kernels.choose("splash", queries(), "rotary", HOW)


def test_blocks_divide_the_length():
    sizes = {length: set(splash._blocks(length).values()) for length in (128, 640, 768, 1024)}
    assert sizes == {128: {128}, 640: {128}, 768: {384}, 1024: {512}}


@pytest.mark.parametrize(("causal", "window"), [(True, 0), (False, 0), (True, 3)])
def test_what_a_token_sees(causal, window):
    before = np.arange(8)[:, None] - np.arange(8)
    want = (before >= 0) | (not causal)
    if window:
        want &= before < window
    np.testing.assert_array_equal(splash._mask(8, causal, window)[:, :], want)


def value_and_gradients(attend, mesh):
    """Of two documents and padding in a row, fewer key heads than query heads."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(B, T, heads, H)).astype(np.float32) for heads in (N, K, K, N)]
    segment_BT = np.repeat([[1, 1, 2, 0]], B, 0).repeat(T // 4, 1)

    @jax.jit
    def step(q, k, v, weight, segment_BT):
        real_BT11 = (segment_BT > 0)[..., None, None]

        def weighted(q, k, v):
            y = attend(q, k, v, segment_BT)
            return (y * weight * real_BT11).sum(), y * real_BT11

        return jax.value_and_grad(weighted, (0, 1, 2), has_aux=True)(q, k, v)

    with tiny.on(mesh):
        layouts = (*["BTNH"] * 4, "BT")
        given = zip((*arrays, segment_BT), layouts, strict=True)
        return tiny.host(step(*(sharding.reshard(jnp.asarray(x), at) for x, at in given)))


@pytest.mark.parametrize(
    ("mesh", "causal", "how"),
    [("2x1x2", True, HOW), ("none", False, AttentionConfig(scaled=False))],
)
def test_values_and_gradients_are_those_of_our_own(mesh, causal, how, monkeypatch):
    """Over two blocks of queries and keys."""
    monkeypatch.setattr(splash, "LARGEST_BLOCK", T // 2)
    monkeypatch.setattr(dot_product, "MIN_BLOCK", T)  # one block of ours is compiled sooner
    monkeypatch.setattr(splash, "attend", functools.partial(splash.attend, interpret=True))
    layer = attention.Attention(N, K, H, "rotary", 1.0, "float32", causal, "splash", how)

    def fused(q, k, v, segment_BT):
        return layer.attend_fused("splash", q, k, v, segment_BT, segment_BT)

    def plain(q, k, v, segment_BT):
        info = attention.TokenInfo(segment_BT, segment_BT)
        return layer.attend(q, k, v, info, segment_BT, None)

    want = value_and_gradients(plain, mesh)
    tiny.assert_close(value_and_gradients(fused, mesh), want, rtol=1e-4, atol=1e-5)


def test_its_flops_are_not_counted_as_none(on_tpu):
    """What is counted is our own equations: `flops.executed`."""
    segment = jnp.ones((B, T), jnp.int32)
    attend = attention_kernels.fused("splash", True, HOW)
    with pytest.raises(ValueError, match="FLOPs of a pallas_call cannot be counted"):
        counting.count(attend, *[queries()] * 3, segment, segment)
