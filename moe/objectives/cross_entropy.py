"""Cross-entropy without a second array of logits, and on one device without a first.

On one device tokens go in chunks: the logits of a chunk are made, its loss, and at once the
gradients of both factors of the logits, which the backward pass only scales. So no array [B, T, V]
is ever there, and no product is done twice (as in Liger, Hsu et al. 2024, section 3.2).

Letters of this file: J tokens of a chunk, N tokens of the batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from moe import sharding, target
from moe.layers import embedding

LOGITS = {"cpu": 2**21}  # of a chunk: as many as stay in a cache
OTHERWISE = 2**26


def weighted(
    scores: jax.Array | embedding.Head,
    targets_BT: jax.Array | np.ndarray,
    weight_BT: jax.Array | np.ndarray,
) -> tuple[jax.Array, jax.Array]:
    """The sum of -log p(target) times its weight, and each of them, float32 nats [B, T].

    Only the sum has a gradient.

    Args:
      scores: logits_BTV, or their factors.
      targets_BT: ids.
      weight_BT: of every target, 0 where it does not count.
    """
    if isinstance(scores, embedding.Head) and sharding.num_devices() == 1:
        return _on_one_device(scores, targets_BT, weight_BT)
    targets_BT = jnp.asarray(targets_BT)
    logits_BTV = scores.logits() if isinstance(scores, embedding.Head) else scores
    nll_BT = cross_entropy(logits_BTV, targets_BT) * weight_BT
    return nll_BT.sum(), jax.lax.stop_gradient(nll_BT)


@jax.custom_vjp
def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """-log p(target), float32 nats [B, T].

    Of [B, T, V] nothing is kept but the logits, and the gradient is written in one pass.
    """
    return _forward(logits_BTV, targets_BT)[0]


def _forward(logits_BTV, targets_BT):
    total_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    nll_BT = total_BT - embedding.pick(logits_BTV, targets_BT)
    return nll_BT, (logits_BTV, targets_BT, total_BT)


def _backward(saved, dnll_BT):
    logits_BTV, targets_BT, total_BT = saved
    p_BTV = jnp.exp(logits_BTV - total_BT[..., None])
    hit_BTV = embedding.hit(targets_BT, logits_BTV.shape[-1])
    return (p_BTV - hit_BTV) * dnll_BT[..., None], None


cross_entropy.defvjp(_forward, _backward)


def _on_one_device(head, targets_BT, weight_BT):
    """`weighted`, all tokens in one axis, which nothing divides."""
    B, T, D = head.x_BTD.shape
    V = len(head.w_VD)
    x_NTD = sharding.reshard(head.x_BTD, "...")
    weight_BT = weight_BT.astype(jnp.float32)
    flat = [sharding.reshard(x, "..").reshape(B * T) for x in (targets_BT, weight_BT)]
    w_VD = sharding.reshard(head.w_VD, "..")
    size = max(1, LOGITS.get(target.platform(), OTHERWISE) // V)
    with jax.named_scope("head"):
        total, nll_N = _in_chunks(min(size, B * T), x_NTD.reshape(B * T, D), w_VD, *flat)
    return total, jax.lax.stop_gradient(sharding.reshard(nll_N.reshape(B, T), "BT"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_chunks(size, x_ND, w_VD, targets_N, weight_N):
    """Sum and parts, in chunks of so many tokens."""

    def one(_: None, chunk: tuple) -> tuple[None, jax.Array]:
        return None, _chunk(w_VD, *chunk)[0]

    _, nll_N = _over_chunks(size, one, None, x_ND, targets_N, weight_N)
    return nll_N.sum(), nll_N


def _in_chunks_forward(size, x_ND, w_VD, targets_N, weight_N):
    """The same, and the gradients of the sum."""

    def one(dw_VD: jax.Array, chunk: tuple) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        nll_J, dlogits_JV = _chunk(w_VD, *chunk)
        dw_VD += jnp.einsum("JV,JD->VD", dlogits_JV, chunk[0], preferred_element_type=jnp.float32)
        return dw_VD, (nll_J, jnp.einsum("JV,VD->JD", dlogits_JV, w_VD))

    zeros_VD = jnp.zeros(w_VD.shape, jnp.float32)
    dw_VD, (nll_N, dx_ND) = _over_chunks(size, one, zeros_VD, x_ND, targets_N, weight_N)
    return (nll_N.sum(), nll_N), (dx_ND, dw_VD.astype(w_VD.dtype))


def _in_chunks_backward(size, saved, gradients):
    del size
    dx_ND, dw_VD = saved
    dtotal, _ = gradients
    return (dx_ND * dtotal).astype(dx_ND.dtype), (dw_VD * dtotal).astype(dw_VD.dtype), None, None


_in_chunks.defvjp(_in_chunks_forward, _in_chunks_backward)


def _chunk(w_VD, x_JD, targets_J, weight_J):
    """The weighted losses of a chunk, and the gradient of their sum for its logits."""
    logits_JV = jnp.einsum("JD,VD->JV", x_JD, w_VD, preferred_element_type=jnp.float32)
    nll_J, saved = _forward(logits_JV, targets_J)
    return nll_J * weight_J, _backward(saved, weight_J)[0].astype(x_JD.dtype)


def _over_chunks(size, one, start, *arrays):
    """A scan of `one` over chunks of arrays [N, ...]; what it gives for each token, [N, ...].

    The last chunk is padded with zeros, whose weight is 0. A single chunk needs no loop.
    """
    N = len(arrays[0])
    if size == N:
        return one(start, arrays)

    def split(x: jax.Array) -> jax.Array:
        padding = [(0, -N % size)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(-1, size, *x.shape[1:])

    end, given = jax.lax.scan(one, start, tuple(map(split, arrays)))
    return end, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:N], given)
