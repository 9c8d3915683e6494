"""Dropless experts by a grouped matrix product: rows sorted by expert, and how many each has.

`jax.lax.ragged_dot` is a kernel on TPUs from JAX 0.11 on. On CPUs and NVIDIA GPUs (jax 0.10 to
0.12) XLA makes of it a product of every row with every expert, and so does JAX 0.10 on TPUs of the
gradient of weights: there it is refused. `tokamax.ragged_dot` has kernels for GPUs, too.
"""

import functools

import jax
import jax.numpy as jnp

from moe.dispatch import gather
from moe.layers import bank
from moe.routing import assignment


def apply(x_SD, choice: assignment.Choice, weights: bank.Weights, activation: str, dot):
    """As `blocks.apply`; dot(x_PD, w_EDF, count_E) is the grouped product."""
    (_, S, K), E = choice.expert_GSK.shape, len(weights.w_in)
    P = S * K
    rows, count_E = sort(choice, E)
    x_PD = gather.dispatch(x_SD[None], rows)[0, 0]
    function, gated = bank.ACTIVATIONS[activation]
    with jax.named_scope("experts"):
        h = dot(x_PD, weights.w_in, count_E)
        h = function(dot(x_PD, weights.w_gate, count_E)) * h if gated else function(h)
        y_PD = dot(h, weights.w_out, count_E)
    return gather.combine(y_PD[None, None], rows, S)[0], jnp.int32(P)


def sort(choice: assignment.Choice, experts: int):
    """All pairs in the slots of one expert, sorted by the real ones; and rows of each."""
    order = assignment.order(choice.expert_GSK, experts)
    (_, S, K), pair_GP = choice.expert_GSK.shape, order.pair_GP
    P = S * K
    real_GP = jnp.arange(P)[None] < order.count_GE.sum(-1, keepdims=True)
    token_GP = jnp.where(real_GP, pair_GP // K, S)
    gate_GP = jnp.take_along_axis(choice.gate_GSK.reshape(1, P), pair_GP, axis=-1)
    place_GP = jnp.argsort(pair_GP, axis=-1)
    place_GP = jnp.where(choice.expert_GSK.reshape(1, P) < experts, place_GP, P)
    seats = token_GP[:, None], jnp.where(real_GP, gate_GP, 0)[:, None], place_GP.reshape(1, S, K)
    return assignment.Slots(*seats), order.count_GE[0]


def by_xla(x_SD, choice, weights, activation):
    """By `jax.lax.ragged_dot`."""
    return apply(x_SD, choice, weights, activation, jax.lax.ragged_dot)


def by_tokamax(x_SD, choice, weights, activation):
    """By `tokamax.ragged_dot`, its own kernels only: it would fall back to XLA's."""
    import tokamax

    dot = functools.partial(tokamax.ragged_dot, implementation=("mosaic", "triton"))
    return apply(x_SD, choice, weights, activation, dot)
