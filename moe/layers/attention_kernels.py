"""What computes attention: our own equations, compiled by XLA, or cuDNN's fused kernel.

cuDNN never writes the scores to memory. On an H100 it takes a quarter of the time of our own
(16 x 1,024 tokens, 16 heads of 64, forward and backward; RESULTS.md, 2026-11-26).
"""

import jax

from moe.attention_config import AttentionConfig
from moe.errors import UserError

KERNELS = ("auto", "plain", "cudnn")  # auto: cuDNN's where it fits
DTYPES = ("bfloat16", "float16")
LARGEST_HEAD = 128


def choose(kernel: str, q_BTNH: jax.Array, position: str, how: AttentionConfig) -> str:
    """What computes it: plain or cudnn.

    Args:
      kernel: of KERNELS.
      q_BTNH: queries, of training or scoring.
      position: of the model.
      how: of the model.

    Raises:
      UserError: if cuDNN's is asked for and does not fit, with the reason.
    """
    if kernel == "plain":
        return kernel
    reason = misfit(q_BTNH, position, how)
    if kernel == "cudnn" and reason:
        raise UserError(f"mesh.attention='cudnn' wants {reason}. Use 'auto' or 'plain'")
    return "plain" if reason else "cudnn"


def misfit(q_BTNH: jax.Array, position: str, how: AttentionConfig) -> str:
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
    """Is the first device an NVIDIA GPU?"""
    return "cuda" in jax.devices()[0].client.platform_version


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
