"""Sort and gather: tokens are copied into their slots and back, with no product at all.

Both directions know the slots from both sides (`token_GEC` and `slot_GSK`), so each is a gather,
and each is the other's transpose: the gradient of a gather is a gather too, where autodiff
would emit a scatter-add.
"""

import functools

import jax
import jax.numpy as jnp

from moe.routing import assignment

KINDS = (assignment.TopKAssignment, assignment.Slots)  # what it carries


def dispatch(x_GSD: jax.Array, slots: assignment.Slots) -> jax.Array:
    """x_GSD -> x_GECD: copies each token to its slots, zeros into empty ones."""
    G, E, C = slots.token_GEC.shape
    x_GMD = _spread(x_GSD, slots.token_GEC.reshape(G, E * C), slots.slot_GSK, x_GSD.shape[1])
    return x_GMD.reshape(G, E, C, -1)


def combine(y_GECD: jax.Array, slots: assignment.Slots, tokens: int) -> jax.Array:
    """y_GECD -> y_GSD: each token sums its K slots, weighted by their gates."""
    G, E, C, D = y_GECD.shape
    token_GM, gate_GM = (x.reshape(G, E * C) for x in (slots.token_GEC, slots.gate_GEC))
    return _weighted(y_GECD.reshape(G, E * C, D), gate_GM, token_GM, slots.slot_GSK, tokens)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _spread(x_GSD, token_GM, slot_GSK, tokens):
    return _take_or_zero(x_GSD, token_GM)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _collect(z_GMD, token_GM, slot_GSK, tokens):
    if slot_GSK is None:  # slots chose tokens: nobody knows how many have the same one
        return jax.vmap(functools.partial(_add_up, tokens))(z_GMD, token_GM)
    K = slot_GSK.shape[-1]
    return sum(_take_or_zero(z_GMD, slot_GSK[..., k]) for k in range(K))


def _spread_fwd(x, token, slot, tokens):
    return _spread(x, token, slot, tokens), (token, slot)


def _collect_fwd(z, token, slot, tokens):
    return _collect(z, token, slot, tokens), (token, slot)


_spread.defvjp(_spread_fwd, lambda S, slots, g: (_collect(g, *slots, S), None, None))
_collect.defvjp(_collect_fwd, lambda S, slots, g: (_spread(g, *slots, S), None, None))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _weighted(y_GMD, gate_GM, token_GM, slot_GSK, tokens):
    z_GMD = y_GMD * gate_GM[..., None].astype(y_GMD.dtype)
    return _collect(z_GMD, token_GM, slot_GSK, tokens)


def _weighted_fwd(y, gate, token, slot, tokens):
    return _weighted(y, gate, token, slot, tokens), (y, gate, token)


def _weighted_bwd(tokens, saved, dy_GSD):
    """Autodiff's, but for the `where`: a bare sum of products is many times slower in JAX 0.10."""
    y_GMD, gate_GM, token_GM = saved
    dy_GMD = _take(dy_GSD, token_GM)
    taken_GM1 = (token_GM < tokens)[..., None]
    product_GMD = dy_GMD.astype(gate_GM.dtype) * y_GMD.astype(gate_GM.dtype)
    dgate_GM = jnp.where(taken_GM1, product_GMD, 0).sum(-1)
    return dy_GMD * gate_GM[..., None].astype(dy_GMD.dtype), dgate_GM, None, None


_weighted.defvjp(_weighted_fwd, _weighted_bwd)


def _add_up(tokens, z_MD, token_M):
    return jnp.zeros((tokens, z_MD.shape[-1]), z_MD.dtype).at[token_M].add(z_MD, mode="drop")


def _take_or_zero(rows, index):
    """rows[g, index[g]] of each group g, zeros where an index is past the last row."""
    return jnp.where((index < rows.shape[1])[..., None], _take(rows, index), 0)


def _take(rows, index):
    """The same, but the last row where an index is past it."""
    return jax.vmap(lambda x, i: jnp.take(x, i, axis=0, mode="clip"))(rows, index)
