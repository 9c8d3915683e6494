"""The parameter as training from scratch draws it."""

import jax

from moe.initialisation import contract


def fresh(drawn: jax.Array, saved: None, key: jax.Array) -> jax.Array:
    """The parameter drawn; nothing is read."""
    del saved, key
    return drawn


RULE = contract.Rule(fresh, reads=False)
