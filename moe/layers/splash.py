"""Attention on TPUs by JAX's splash kernel, which never writes the scores to memory.

The TPU compiler takes it, and on a CPU, interpreted, it computes what our own equations do. It has
not run on a TPU here: neither its speed nor the choice of its blocks, MaxText's, is measured.

The kernel's modules are imported where it is called: only TPUs need them.
"""

import math

import jax
import jax.numpy as jnp

from moe import target

DTYPES = ("bfloat16", "float32")
LANES = 128  # a block of queries or keys is a multiple of them
LARGEST_BLOCK = 512
LARGEST_HEAD = 512  # the widest that was compiled: the kernel states no bound


Shaped = jax.Array | jax.ShapeDtypeStruct


def misfit(q_BTNH: Shaped, position: str, context: bool = False) -> str:
    """What the kernel wants and does not get; "" if it fits. Arguments: `attention_kernels`."""
    (_, T, _, H) = q_BTNH.shape
    if target.platform() != "tpu":
        return f"a TPU, not {target.platform()}"
    if q_BTNH.dtype.name not in DTYPES:
        return f"model.dtype={' or '.join(map(repr, DTYPES))}, not {q_BTNH.dtype.name!r}"
    if position == "relative":
        return f"no learned bias, so model.position='rotary', not {position!r}"
    if context:  # where a token may see none: the kernel has no gradient for it
        return "tokens that attend to themselves, not to an encoder's"
    if H > LARGEST_HEAD:
        return f"a model.d_head of at most {LARGEST_HEAD}, not {H}"
    return f"a train.seq_len that is a multiple of {LANES}, not {T}" if T % LANES else ""


def attend(
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    q_segment_BT: jax.Array,
    kv_segment_BT: jax.Array,
    *,
    causal: bool,
    scaled: bool = True,
    window: int = 0,
    interpret: bool = False,
) -> jax.Array:
    """As `dot_product.attend` without a bias; keys and values may have fewer heads than queries.

    Args:
      window: in causal attention.
      interpret: XLA computes the kernel, for tests on CPUs.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention

    (_, T, N, H) = q_BTNH.shape
    mask = splash_attention.MultiHeadMask([_mask(T, causal, window)] * N)
    sizes = splash_attention.BlockSizes(**_blocks(T))
    kernel = splash_attention.make_splash_mha_single_device(
        mask, block_sizes=sizes, interpret=interpret
    )
    q_BTNH = q_BTNH / (math.sqrt(H) if scaled else 1.0)
    q_BNTH, k_BNTH, v_BNTH = (jnp.swapaxes(x, 1, 2) for x in (q_BTNH, k_BTNH, v_BTNH))
    segments = splash_attention.SegmentIds(q_segment_BT, kv_segment_BT)
    return jnp.swapaxes(jax.vmap(kernel)(q_BNTH, k_BNTH, v_BNTH, segments), 1, 2)


def _mask(length, causal, window):
    from jax.experimental.pallas.ops.tpu import splash_attention

    shape = (length, length)
    if not causal:
        return splash_attention.FullMask(shape)
    before = window - 1 if window else None
    return splash_attention.LocalMask(shape, (before, 0), offset=0)


def _blocks(length):
    """The sizes of all blocks: the largest multiple of 128 that divides the length."""
    sizes = range(LANES, min(length, LARGEST_BLOCK) + 1, LANES)
    size = max(size for size in sizes if length % size == 0)
    of = ("q", "kv", "q_dkv", "kv_dkv", "q_dq", "kv_dq")
    return {f"block_{name}": size for name in of}
