"""Is fused attention right, in y and the gradients of queries, keys and values?

cuDNN's on an NVIDIA GPU and splash on a TPU, where no one has run it yet. What they take is in
`steps`: the dense model with the kernel that fits, and with our own attention.

Documents of unequal lengths in a row, padding behind them, fewer key heads than query heads.
An error is relative to the largest entry of float64's; y and gradients of padding are not read.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.accelerator_parts import reference
from experiments.accelerator_parts.cells import Skipped
from moe.attention_config import AttentionConfig
from moe.layers import attention_kernels, dot_product

TOLERANCE = 0.03  # of the largest entry
HEADS = 4
KV_HEADS = 2
WIDTH = 64
DOCUMENTS = (1, 63, 64, 130, 254)
PADDING = 128  # to a multiple of 128, as splash wants
HOW = AttentionConfig()


def check(kernel: str) -> dict:
    """The row: errors of y and, as dx, of the worst of the three gradients, and the verdict.

    Raises:
      Skipped: where the kernel, "cudnn" or "splash", does not fit.
    """
    arrays, segment_BT, weight = make()
    low = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    reason = attention_kernels.misfits(low[0], "rotary", HOW)[kernel]
    if reason:
        raise Skipped(f"it wants {reason}")
    got = with_gradients(functools.partial(fused, kernel), low, segment_BT, weight)
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) for x in low]
        with jax.default_device(jax.devices("cpu")[0]):
            want = with_gradients(plain, wide, segment_BT, weight)
    real = segment_BT > 0
    found = [reference.relative(a[real], b[real]) for a, b in zip(got, want, strict=True)]
    ok = max(found) <= TOLERANCE
    wrong = [] if ok else [f"y, dq, dk, dv: {', '.join(f'{x:.2g}' for x in found)}"]
    return {"y": found[0], "dx": max(found[1:]), "tolerance": TOLERANCE, "ok": ok, "wrong": wrong}


def make() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """q, k and v; the documents; weights of y, 0 at padding."""
    rng = np.random.default_rng(0)
    documents = (*DOCUMENTS, PADDING)
    numbers = (*range(1, 1 + len(DOCUMENTS)), 0)
    segment_BT = np.tile(np.repeat(np.asarray(numbers, np.int32), documents), (2, 1))
    (B, T) = segment_BT.shape
    q, k, v = (rng.normal(size=(B, T, N, WIDTH)) for N in (HEADS, KV_HEADS, KV_HEADS))
    weight = rng.normal(size=q.shape) * (segment_BT > 0)[..., None, None]
    return [q, k, v], segment_BT, weight


def fused(
    kernel: str, q: jax.Array, k: jax.Array, v: jax.Array, segment_BT: np.ndarray
) -> jax.Array:
    """y_BTNH by the fused kernel."""
    segment = jnp.asarray(segment_BT)
    return attention_kernels.fused(kernel, True, HOW)(q, k, v, segment, segment)


def plain(q: jax.Array, k: jax.Array, v: jax.Array, segment_BT: np.ndarray) -> jax.Array:
    """y_BTNH by a softmax over all pairs of positions."""
    k, v = (dot_product.share(x, HEADS) for x in (k, v))
    (T,) = segment_BT.shape[1:]
    visible_BTU = (segment_BT[:, :, None] == segment_BT[:, None]) & np.tri(T, dtype=bool)
    score_BNTU = jnp.einsum("BTNH,BUNH->BNTU", q, k) / WIDTH**0.5
    p_BNTU = jax.nn.softmax(jnp.where(visible_BTU[:, None], score_BNTU, -np.inf))
    return jnp.einsum("BNTU,BUNH->BTNH", p_BNTU, v)


def with_gradients(
    fn: Callable, arrays: list, segment_BT: np.ndarray, weight: np.ndarray
) -> list[np.ndarray]:
    """y, dq, dk and dv in float64."""

    @jax.jit
    def step(arrays: list) -> tuple:
        y, transpose = jax.vjp(lambda *a: fn(*a, segment_BT), *arrays)
        return y, *transpose(jnp.asarray(weight, y.dtype))

    return [np.asarray(x, np.float64) for x in step(arrays)]
