"""The obvious dispatcher: every expert sees every token, and the gates pick what counts.

E / K times the FLOPs; it exists to be right. Here C = S: slot c of every expert is token c.
"""

import jax
import jax.numpy as jnp

from moe.routing import assignment

KINDS = (assignment.TopKAssignment, assignment.Slots)  # what it carries


def dispatch(x_GSD: jax.Array, slots: assignment.Slots) -> jax.Array:
    """x_GSD -> x_GESD: all tokens to all experts."""
    E = slots.token_GEC.shape[1]
    return jnp.broadcast_to(x_GSD[:, None], (x_GSD.shape[0], E, *x_GSD.shape[1:]))


def combine(y_GESD: jax.Array, slots: assignment.Slots, tokens: int) -> jax.Array:
    """Sum over the experts that kept a token, weighted by its gate."""
    kept_GECS = jax.nn.one_hot(slots.token_GEC, tokens, dtype=jnp.float32)
    gate_GES = (kept_GECS * slots.gate_GEC[..., None]).sum(2)
    return jnp.einsum("GES,GESD->GSD", gate_GES.astype(y_GESD.dtype), y_GESD)
