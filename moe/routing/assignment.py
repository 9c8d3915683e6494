"""Who goes where: the choices of tokens, the slots of experts, and capacity, which drops tokens.

A router makes a `TopKAssignment`: tokens choose experts. `assign_slots` turns it into `Slots`:
every expert of a group has C slots, taken in order of position, and who comes late is dropped.
`to_one_hot` gives the exact one-hot form of GShard (Lepikhin et al. 2020, algorithm 1).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from moe import sharding
from moe.errors import UserError


class TopKAssignment(NamedTuple):
    """Tokens choose experts. A padded token's choices go to the non-existent expert E."""

    expert_GSK: jax.Array  # int32 in [0, E]; the K of one real token are distinct
    gate_GSK: jax.Array  # float32, 0 for padding


class Slots(NamedTuple):
    """Who sits in each expert's slots, with what weight the result returns."""

    token_GEC: jax.Array  # int32 in [0, S]; S marks an empty slot
    gate_GEC: jax.Array  # float32, 0 for an empty slot
    # int32 in [0, E * C]: the slots seen from the tokens; E * C is dropped. None where slots chose
    # the tokens: there is no K.
    slot_GSK: jax.Array | None


class DispatchMasks(NamedTuple):
    """Dense weights between tokens and slots."""

    dispatch_GSEC: jax.Array
    combine_GSEC: jax.Array


class Order(NamedTuple):
    """The P = S * K (token, choice) pairs of each group, those of the same expert together."""

    pair_GP: jax.Array  # pair s * K + k; those without an expert come last
    start_GE: jax.Array  # where each expert's pairs start
    count_GE: jax.Array


class DispatchResult(NamedTuple):
    """What became of choices that have no slots."""

    kept_GSK: jax.Array  # True where an expert took the token
    rows: jax.Array  # that experts computed, padding included
    experts: int  # E


def capacity(factor: float, tokens: int, k: int, experts: int) -> int:
    """Slots per expert in a group: C = ceil(factor * S * K / E), from 1 to S.

    More than S slots could never be filled, since a token's K experts are distinct.
    (Lepikhin et al. 2020, section 2.2; Fedus et al. 2021, equation 3.)
    """
    return min(tokens, max(1, math.ceil(round(factor * tokens * k / experts, 6))))


def assign_slots(
    choice: TopKAssignment, experts: int, slots: int, priority_GS: jax.Array | None = None
) -> Slots:
    """Gives each choice a slot of its expert, first come first served, and drops the rest.

    The order of a group is the order of its S axis and then of K, so with tokens laid out
    by position (`dispatch.groups`) no later token can evict an earlier one.

    Args:
      choice: expert and gate of every token, [G, S, K].
      experts: E.
      slots: C, slots per expert and group.
      priority_GS: the largest is given a slot first instead, and all first choices before any
      second (batch priority, Riquelme et al. 2021, section 4.1). Not causal.

    Returns:
      Slots with token_GEC, gate_GEC and slot_GSK.

    Raises:
      UserError: if a group is too large for its sort keys to be int32.
    """
    return slots_of(choice, order(choice.expert_GSK, experts, priority_GS), slots)


def order(expert_GSK: jax.Array, experts: int, priority_GS: jax.Array | None = None) -> Order:
    """Sorts the pairs of each group by expert, and inside one as `assign_slots` says."""
    G, S, K = expert_GSK.shape
    if (experts + 1) * S * K > 2**31:
        raise UserError(
            f"(num_experts={experts} + 1) * group_size={S} * k={K} exceeds 2^31: use smaller groups"
        )
    expert_GP = expert_GSK.reshape(G, S * K)
    # One integer carries expert and order, so that a plain sort is a stable one.
    if priority_GS is not None:
        comes_GS = jnp.argsort(-priority_GS, axis=-1, stable=True)
        comes_GP = (comes_GS[:, None] * K + jnp.arange(K)[None, :, None]).reshape(G, S * K)
        sorted_GP = jnp.sort(_take(expert_GP, comes_GP) * (S * K) + jnp.arange(S * K)[None])
        pair_GP = _take(comes_GP, sorted_GP % (S * K))
    else:
        sorted_GP = jnp.sort(expert_GP * (S * K) + jnp.arange(S * K)[None], axis=-1)
        pair_GP = sorted_GP % (S * K)
    count_GE = (expert_GP[..., None] == jnp.arange(experts)[None, None]).sum(1, dtype=jnp.int32)
    return Order(pair_GP, jnp.cumsum(count_GE, axis=-1) - count_GE, count_GE)


@jax.vmap
def inverse(pair_P: jax.Array) -> jax.Array:
    """Where each pair of a group comes in its order. (On CPUs a sort takes ten times the time.)"""
    place_P = jnp.arange(len(pair_P), dtype=jnp.int32)
    return jnp.zeros_like(place_P).at[pair_P].set(place_P, unique_indices=True)


def slots_of(choice: TopKAssignment, order: Order, slots: int) -> Slots:
    """The first `slots` pairs of each expert sit down."""
    G, S, K = choice.expert_GSK.shape
    pair_GP, start_GE, count_GE = order
    experts = start_GE.shape[1]
    end_GE = start_GE + count_GE
    expert_GP = choice.expert_GSK.reshape(G, S * K)

    at_GEC = start_GE[..., None] + jnp.arange(slots)[None, None]
    taken_GEC = at_GEC < end_GE[..., None]
    pair_GEC = _take(pair_GP, jnp.where(taken_GEC, at_GEC, 0))
    token_GEC = jnp.where(taken_GEC, pair_GEC // K, S)
    gate_GEC = jnp.where(taken_GEC, _take(choice.gate_GSK.reshape(G, S * K), pair_GEC), 0.0)

    rank_GP = inverse(pair_GP) - _take(start_GE, expert_GP)
    kept_GP = (rank_GP < slots) & (expert_GP < experts)
    slot_GP = jnp.where(kept_GP, expert_GP * slots + rank_GP, experts * slots)
    return Slots(token_GEC, gate_GEC, slot_GP.reshape(G, S, K).astype(jnp.int32))


def is_routed(token_GEC: jax.Array, mask_GS: jax.Array) -> jax.Array:
    """Which tokens sit in a slot at all, [G, S]."""
    nobody_GS = jnp.zeros_like(mask_GS)

    def mark(row_S: jax.Array, token_EC: jax.Array) -> jax.Array:
        return row_S.at[token_EC.ravel()].set(True, mode="drop")

    return jax.vmap(mark)(nobody_GS, token_GEC)


def largest(score_GSE: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """(value_GSK, index_GSK) of the K largest, each device for its own groups.

    Left to itself, the compiler gathers the scores of all devices for `top_k`.
    """
    return sharding.map_groups(functools.partial(jax.lax.top_k, k=k))(score_GSE)


def to_one_hot(slots: Slots | DispatchMasks, tokens: int) -> DispatchMasks:
    """The one-hot form of Slots over S tokens: dispatch in {0, 1}, combine = dispatch * gate."""
    if isinstance(slots, DispatchMasks):
        return slots
    dispatch_GSEC = jnp.moveaxis(jax.nn.one_hot(slots.token_GEC, tokens, dtype=jnp.float32), -1, 1)
    return DispatchMasks(dispatch_GSEC, dispatch_GSEC * slots.gate_GEC[:, None])


def dispatch_result(slots: Slots | DispatchResult) -> DispatchResult:
    """What became of the choices that were given a slot."""
    if isinstance(slots, DispatchResult):
        return slots
    _, E, C = slots.token_GEC.shape
    assert slots.slot_GSK is not None, "slots that chose tokens are no choices"
    return DispatchResult(slots.slot_GSK < E * C, jnp.float32(slots.token_GEC.size), E)


def of_experts(
    slots: Slots | DispatchMasks, first: jax.Array, number: int
) -> Slots | DispatchMasks:
    """The part of `number` experts from the `first` on, which may be traced."""
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=number)
    if isinstance(slots, DispatchMasks):
        return DispatchMasks(*(cut(x, axis=2) for x in slots))
    token_GEC, gate_GEC, slot_GSK = slots
    if slot_GSK is not None:
        C = token_GEC.shape[2]
        slot_GSK = slot_GSK - first * C
        slot_GSK = jnp.where((slot_GSK >= 0) & (slot_GSK < number * C), slot_GSK, number * C)
    return Slots(cut(token_GEC, axis=1), cut(gate_GEC, axis=1), slot_GSK)


def _take(x_GP, index_G):
    """x[g, index[g, ...]] for an index of any rank."""
    G = x_GP.shape[0]
    flat = jnp.take_along_axis(x_GP, index_G.reshape(G, -1), axis=1, mode="clip")
    return flat.reshape(index_G.shape)
