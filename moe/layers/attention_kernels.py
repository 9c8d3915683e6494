"""What computes attention: our own equations, compiled by XLA, or a fused kernel.

cuDNN's is here, that of TPUs in `moe.layers.splash`. They never write the scores to memory. On an
H100 cuDNN's takes a quarter of the time of our own (16 x 1,024 tokens, 16 heads of 64, forward and
backward; RESULTS.md, 2026-11-26).
"""

import functools
from collections.abc import Callable

import jax

from moe import target
from moe.attention_config import AttentionConfig
from moe.layers import splash
from moe.schema import require

KERNELS = ("auto", "plain", "cudnn", "splash")  # auto: the fused one that fits, or plain
DTYPES = ("bfloat16", "float16")
LARGEST_HEAD = 128


def choose(
    kernel: str,
    q_BTNH: splash.Shaped,
    position: str,
    how: AttentionConfig,
    context: bool = False,
) -> str:
    """What computes it: plain, cudnn or splash.

    Args:
      kernel: of KERNELS.
      q_BTNH: queries, of training or scoring.
      position: of the model.
      how: of the model.
      context: do they attend to other tokens than their own, an encoder's?

    Raises:
      UserError: if a fused one is asked for and does not fit, with the reason.
    """
    if kernel == "plain":
        return kernel
    reasons = misfits(q_BTNH, position, how, context)
    if kernel == "auto":
        return next((name for name, reason in reasons.items() if not reason), "plain")
    reason = reasons[kernel]
    require(not reason, f"mesh.attention={kernel!r} wants {reason}. Use 'auto' or 'plain'")
    return kernel


def misfits(
    q_BTNH: splash.Shaped, position: str, how: AttentionConfig, context: bool = False
) -> dict[str, str]:
    """What each fused kernel wants and does not get; "" of one that fits. As `choose`."""
    return {
        "cudnn": misfit(q_BTNH, position, how),
        "splash": splash.misfit(q_BTNH, position, context),
    }


def fused(kernel: str, causal: bool, how: AttentionConfig) -> Callable[..., jax.Array]:
    """The kernel "cudnn" or "splash", of queries, keys, values and the segments of both."""
    if kernel == "cudnn":  # without a window, and scaled: see `misfit`
        return functools.partial(by_cudnn, causal=causal)
    return functools.partial(splash.attend, causal=causal, scaled=how.scaled, window=how.window)


def misfit(q_BTNH: splash.Shaped, position: str, how: AttentionConfig) -> str:
    """What cuDNN's kernel wants and does not get; "" if it fits."""
    (_, T, _, H) = q_BTNH.shape
    if not on_cuda():
        return f"an NVIDIA GPU, not {jax.devices()[0].device_kind}"
    if q_BTNH.dtype.name not in DTYPES:
        return f"model.dtype={' or '.join(map(repr, DTYPES))}, not {q_BTNH.dtype.name!r}"
    if position == "relative":
        return f"no learned bias, so model.position='rotary', not {position!r}"
    if how.window or not how.scaled:
        return "model.attention.window=0 and model.attention.scaled=True"
    if H % 8 or H > LARGEST_HEAD:
        return f"a model.d_head that is a multiple of 8 and at most {LARGEST_HEAD}, not {H}"
    return f"an even train.seq_len, not {T}" if T % 2 else ""


def on_cuda() -> bool:
    """Is the first device an NVIDIA GPU, and what is compiled for?"""
    return target.platform() == "gpu" and "cuda" in jax.devices()[0].client.platform_version


def by_cudnn(
    q_BTNH: jax.Array,
    k_BUNH: jax.Array,
    v_BUNH: jax.Array,
    q_segment_BT: jax.Array,
    kv_segment_BU: jax.Array,
    *,
    causal: bool,
) -> jax.Array:
    """As `dot_product.attend` without a bias; keys and values may have fewer heads than queries."""
    visible_B1TU = (q_segment_BT[:, :, None] == kv_segment_BU[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q_BTNH, k_BUNH, v_BUNH, mask=visible_B1TU, is_causal=causal, implementation="cudnn"
    )
