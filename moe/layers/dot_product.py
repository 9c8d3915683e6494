"""Softmax attention in equations of arrays: inside documents, causal or not, biased or not.

Vaswani et al. 2017, equation 1, and what a mask and a window leave of it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from moe import matmul, sharding
from moe.layers import relative

MAX_BLOCKS = 8
MIN_BLOCK = 64  # queries


def share(x_BTNH: jax.Array, heads: int) -> jax.Array:
    """Key or value heads, each repeated for the query heads that share it."""
    B, T, N, H = x_BTNH.shape
    if heads == N:
        return x_BTNH
    x = jnp.broadcast_to(x_BTNH[:, :, :, None], (B, T, N, heads // N, H))
    return sharding.reshape(x, (B, T, heads, H), "BTNH")


def attend_relative(
    q_BTNH: jax.Array,
    k_BUNH: jax.Array,
    v_BUNH: jax.Array,
    q_segment_BT: jax.Array,
    kv_segment_BU: jax.Array,
    table_NX: jax.Array,
    *,
    causal: bool = True,
    first: jax.Array | None = None,
    **how: Any,
) -> jax.Array:
    """`attend` with the bias of a table, see `moe.layers.relative`."""
    table_NX = sharding.pvary(table_NX)  # here, not after the lookup, is its gradient summed
    index_T, index_U = _indices(q_BTNH, k_BUNH, first)
    bias_NTU = relative.bias(table_NX, index_T, index_U, causal)
    given = (q_BTNH, k_BUNH, v_BUNH, q_segment_BT, kv_segment_BU, bias_NTU)
    return attend(*given, causal=causal, first=first, **how)


def attend(
    q_BTNH: jax.Array,
    k_BUNH: jax.Array,
    v_BUNH: jax.Array,
    q_segment_BT: jax.Array,
    kv_segment_BU: jax.Array,
    bias_NTU: jax.Array | None = None,
    *,
    causal: bool = True,
    first: jax.Array | None = None,
    scaled: bool = True,
    window: int = 0,
) -> jax.Array:
    """Softmax attention over the tokens of the same segment; causal: not over later ones.

    The softmax is in float32. In causal training, queries go in blocks that meet no key behind
    their last, so of what lies in the future less than a block is computed.

    Segment 0 is padding, which attends to padding: its rows are finite and never used.

    Args:
      q_BTNH, k_BUNH, v_BUNH: queries, keys and values.
      q_segment_BT, kv_segment_BU: the documents of queries and of keys.
      bias_NTU: is added to the scores.
      causal: no token attends to a later one.
      first: in decoding, where the first query lies among the keys.
      scaled: scores are divided by sqrt(H).
      window: in causal attention, how many tokens a token sees, itself the last; 0: all.
    """
    index_T, index_U = _indices(q_BTNH, k_BUNH, first)
    visible_BTU = q_segment_BT[:, :, None] == kv_segment_BU[:, None, :]
    if causal:
        visible_BTU &= (index_U[None, :] <= index_T[:, None])[None]
    if window:
        visible_BTU &= (index_U[None, :] > index_T[:, None] - window)[None]
    divisor = math.sqrt(q_BTNH.shape[-1]) if scaled else 1.0
    spans = [(0, len(index_T), 0, len(index_U))]
    if causal and first is None:
        spans = [(start, end, seen, end) for start, end, seen in _seen(len(index_T), window)]
    return _in_blocks(q_BTNH, k_BUNH, v_BUNH, visible_BTU, bias_NTU, tuple(spans), divisor)


KEEP_PROBABILITIES = jax.checkpoint_policies.save_only_these_names("probabilities")


@functools.partial(jax.checkpoint, static_argnums=(5, 6), policy=KEEP_PROBABILITIES)
def _in_blocks(q_BTNH, k_BUNH, v_BUNH, visible_BTU, bias_NTU, spans, divisor):
    """Queries from start to end over keys from seen to last, for each of the spans.

    For the gradient only arguments and probabilities are kept, not copies laid out anew.
    """
    q_BTNH = q_BTNH / divisor  # not the scores, which are more
    y = []
    for start, end, seen, last in spans:
        rows, keys = slice(start, end), slice(seen, last)
        bias = None if bias_NTU is None else bias_NTU[:, rows, keys]
        visible = visible_BTU[:, rows, keys]
        y.append(_attend(q_BTNH[:, rows], k_BUNH[:, keys], v_BUNH[:, keys], visible, bias))
    return jnp.concatenate(y, axis=1)


def _seen(length, window):
    """Blocks of queries, and the first key that one of the block sees."""
    for start, end in blocks(length):
        yield start, end, max(0, start - window + 1) if window else 0


def blocks(length: int) -> list[tuple[int, int]]:
    """Where each block of queries begins and ends."""
    size = max(MIN_BLOCK, math.ceil(length / MAX_BLOCKS))
    return [(first, min(first + size, length)) for first in range(0, length, size)]


def _attend(q_BTNH, k_BUNH, v_BUNH, visible_BTU, bias_NTU):
    score = matmul.with_float32_output(functools.partial(jnp.einsum, "BTNH,BUNH->BNTU"))
    score_BNTU = score(q_BTNH, k_BUNH)
    if bias_NTU is not None:
        score_BNTU += bias_NTU[None]
    p_BNTU = _softmax(jnp.where(visible_BTU[:, None], score_BNTU, -1e30))
    return jnp.einsum("BNTU,BUNH->BTNH", p_BNTU.astype(v_BUNH.dtype), v_BUNH)


@jax.custom_vjp
def _softmax(score_BNTU):
    """Over keys. Its gradient reads the probabilities under the name by which they are kept."""
    return jax.nn.softmax(score_BNTU)


def _softmax_forward(score_BNTU):
    p_BNTU = checkpoint_name(jax.nn.softmax(score_BNTU), "probabilities")
    return p_BNTU, p_BNTU


def _softmax_backward(p_BNTU, dp_BNTU):
    mean_BNT1 = (p_BNTU * dp_BNTU).sum(-1, keepdims=True)
    return (p_BNTU * (dp_BNTU - mean_BNT1),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


def _indices(q_BTNH, k_BUNH, first):
    """Where queries and keys lie in the sequence."""
    start = 0 if first is None else first
    return start + jnp.arange(q_BTNH.shape[1]), jnp.arange(k_BUNH.shape[1])
