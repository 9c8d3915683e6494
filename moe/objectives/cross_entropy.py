"""Cross-entropy without a second array of logits."""

import jax
import jax.numpy as jnp

from moe.layers import embedding


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
