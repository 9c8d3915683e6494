"""cuDNN's fused attention: when it is chosen, and that it is asked for what ours computes.

No test machine has an NVIDIA GPU, so XLA computes what cuDNN is asked for. On a GPU
`experiments.accelerator` compares cuDNN's own values and gradients with float64.
For the kernel of TPUs see `test_splash`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.accelerator_parts import attention as conformance
from experiments.accelerator_parts.cells import Skipped
from moe.attention_config import AttentionConfig
from moe.layers import attention, attention_kernels
from tests import tiny

B, T, N, K, H, D = 8, 16, 4, 2, 8, 12
HOW = AttentionConfig()


@pytest.fixture
def on_cuda(monkeypatch):
    """XLA in cuDNN's place; what was asked for."""
    asked = []
    by_xla = jax.nn.dot_product_attention

    def by_cudnn(*arrays, implementation, **how):
        asked.append(implementation)
        return by_xla(*arrays, implementation="xla", **how)

    monkeypatch.setattr(attention_kernels, "on_cuda", lambda: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", by_cudnn)
    return asked


def queries(dtype="bfloat16", length=T, width=H):
    return jnp.zeros((B, length, N, width), dtype)


def test_auto_takes_it_where_it_fits(on_cuda):
    assert attention_kernels.choose("auto", queries(), "rotary", HOW) == "cudnn"
    assert attention_kernels.choose("plain", queries(), "rotary", HOW) == "plain"
    assert attention_kernels.choose("auto", queries("float32"), "rotary", HOW) == "plain"


@pytest.mark.parametrize(
    ("q", "position", "wants"),
    [
        (queries("float32"), "rotary", "model.dtype='bfloat16' or 'float16', not 'float32'"),
        (queries(), "relative", "model.position='rotary', not 'relative'"),
        (queries(width=12), "rotary", "a multiple of 8 and at most 128, not 12"),
        (queries(width=136), "rotary", "at most 128, not 136"),
        (queries(length=7), "rotary", "an even train.seq_len, not 7"),
    ],
)
def test_what_does_not_fit_is_refused(on_cuda, q, position, wants):
    with pytest.raises(ValueError, match=f"mesh.attention='cudnn' wants .*{wants}. Use 'auto'"):
        attention_kernels.choose("cudnn", q, position, HOW)


def test_without_an_nvidia_gpu():
    assert attention_kernels.choose("auto", queries(), "rotary", HOW) == "plain"
    with pytest.raises(ValueError, match="an NVIDIA GPU, not cpu"):
        attention_kernels.choose("cudnn", queries(), "rotary", HOW)
    with pytest.raises(Skipped, match="an NVIDIA GPU"):
        conformance.check("cudnn")


def layer(kernel, causal):
    return attention.Attention(N, K, H, "rotary", 1.0, "float32", causal, kernel)


def value_and_gradients(kernel, causal, mesh):
    rng = np.random.default_rng(0)
    x_BTD = rng.normal(size=(B, T, D)).astype(np.float32)
    weight = rng.normal(size=(B, T, D)).astype(np.float32)
    segment_BT = np.repeat([[1, 1, 2, 0]], B, 0).repeat(T // 4, 1)
    weight *= (segment_BT > 0)[..., None]
    position_BT = np.tile(np.arange(T), (B, 1))

    def weighted(params, x_BTD, weight, *info):
        info = attention.TokenInfo(*info)
        y = layer(kernel, causal).apply(params, x_BTD, q_info=info)
        return (y * weight).sum(), y * (info.segment_BT > 0)[..., None]

    with tiny.on(mesh):
        given = tiny.put((x_BTD, weight, segment_BT, position_BT))
        info = attention.TokenInfo(*given[2:])
        init = jax.jit(layer("plain", causal).init)
        params = init(jax.random.key(0), given[0], q_info=info)
        step = jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True))
        return tiny.host(step(params, *given))


@pytest.mark.parametrize("mesh", ["none", "2x1x2"])
@pytest.mark.parametrize("causal", [True, False])
def test_values_and_gradients_are_those_of_our_own(on_cuda, causal, mesh, monkeypatch):
    """Documents and padding in a row, fewer key heads than query heads."""
    monkeypatch.setattr(attention_kernels, "DTYPES", ("float32",))  # which XLA multiplies exactly
    fused = value_and_gradients("cudnn", causal, mesh)
    assert set(on_cuda) == {"cudnn"}
    tiny.assert_close(fused, value_and_gradients("plain", causal, mesh), rtol=1e-4, atol=1e-4)


def test_the_check_for_accelerators_tells_right_from_wrong(on_cuda, monkeypatch):
    assert conformance.check("cudnn")["ok"]
    wrong = functools.partial(jax.nn.dot_product_attention)

    def leaks(*arrays, mask, **how):
        del mask
        return wrong(*arrays, **how)

    monkeypatch.setattr(jax.nn, "dot_product_attention", leaks)
    row = conformance.check("cudnn")
    assert not row["ok"] and row["y"] > 0.03
