"""GShard's dispatcher: one-hot matrix products (Lepikhin et al. 2020, algorithm 1).

It costs 2 * S * E * C * D FLOPs each way per group, so it wants small groups; it is all matrix
product, which TPUs like, and needs no sort.
"""

import jax.numpy as jnp

from moe.routing import assignment

KINDS = (assignment.Choice, assignment.Slots, assignment.Mixing)  # what it carries


def dispatch(x_GSD, slots):
    """x_GSD -> x_GECD by a one-hot product."""
    mixing = assignment.mix(slots, x_GSD.shape[1])
    return jnp.einsum("GSEC,GSD->GECD", mixing.dispatch_GSEC.astype(x_GSD.dtype), x_GSD)


def combine(y_GECD, slots, tokens):
    """y_GECD -> y_GSD by the same product, weighted with the gates."""
    mixing = assignment.mix(slots, tokens)
    return jnp.einsum("GSEC,GECD->GSD", mixing.combine_GSEC.astype(y_GECD.dtype), y_GECD)
