"""GShard's dispatcher: one-hot matrix products (Lepikhin et al. 2020, algorithm 1).

It costs 2 * S * E * C * D FLOPs each way per group, so it wants small groups; it is all matrix
product, which TPUs like, and needs no sort.
"""

import jax
import jax.numpy as jnp

from moe.routing import assignment

KINDS = (assignment.TopKAssignment, assignment.Slots, assignment.DispatchMasks)  # what it carries


def dispatch(x_GSD: jax.Array, slots: assignment.Slots | assignment.DispatchMasks) -> jax.Array:
    """x_GSD -> x_GECD by a one-hot product.

    A token without a slot counts as zeros: 0 times what is not finite would reach every slot.
    """
    mixing = assignment.to_one_hot(slots, x_GSD.shape[1])
    x_GSD = jnp.where(_has_slot(slots, mixing)[..., None], x_GSD, 0)
    one_hot_GSM = _flat(mixing.dispatch_GSEC).astype(x_GSD.dtype)
    x_GMD = jnp.einsum("GSM,GSD->GMD", one_hot_GSM, x_GSD)
    return x_GMD.reshape(x_GMD.shape[0], *mixing.dispatch_GSEC.shape[2:], -1)


def combine(
    y_GECD: jax.Array, slots: assignment.Slots | assignment.DispatchMasks, tokens: int
) -> jax.Array:
    """y_GECD -> y_GSD by the same product, weighted with the gates."""
    mixing = assignment.to_one_hot(slots, tokens)
    G, _, _, D = y_GECD.shape
    weight_GSM = _flat(mixing.combine_GSEC).astype(y_GECD.dtype)
    return jnp.einsum("GSM,GMD->GSD", weight_GSM, y_GECD.reshape(G, -1, D))


def _has_slot(slots, mixing):
    """Which tokens sit in a slot at all, [G, S]; from the tokens' side if they know it."""
    if getattr(slots, "slot_GSK", None) is None:
        return mixing.dispatch_GSEC.any((2, 3))
    _, _, E, C = mixing.dispatch_GSEC.shape
    return (slots.slot_GSK < E * C).any(-1)


def _flat(x_GSEC):
    """x_GSM: sums over two axes are copied and transposed before they are computed on CPUs."""
    return x_GSEC.reshape(*x_GSEC.shape[:2], -1)
