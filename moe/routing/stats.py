"""What happened in a router, as sums that add up, and the losses and statistics made of them.

Every quantity here is a sum over tokens, so router_stats of micro-batches, groups or devices
are simply added, and only then turned into losses and statistics. That is why neither
gradient accumulation nor the mesh can change what "balanced" means.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from moe import sharding
from moe.routing import assignment, contract


class RouterStats(NamedTuple):
    """Sums over the real tokens of one layer; None where a router has no such thing.

    P = (token, choice) pairs. A router whose slots choose or mix tokens has one rank of choice.
    """

    tokens: jax.Array  # real tokens
    # Pairs sent to each expert by rank of choice, before any is dropped or moves on.
    chosen_KE: jax.Array
    kept_KE: jax.Array  # pairs that found a slot
    unrouted: jax.Array  # tokens that no expert takes
    gate: jax.Array  # sum of the gates of all pairs
    slots: jax.Array  # slots handed out, filled or not
    probability_E: jax.Array | None = None  # sum of the router's probabilities
    entropy: jax.Array | None = None  # sum of -p log p, nats
    z: jax.Array | None = None  # sum of logsumexp(logits)^2
    extra: Mapping[str, jax.Array] = {}  # what only this router's losses need


def compute(
    routed: contract.RouterOutput,
    slots: assignment.Slots | assignment.DispatchMasks | assignment.DispatchResult,
    mask_GS: jax.Array,
) -> RouterStats:
    """Sums up one layer's routing. Gradients flow through probability_E, entropy, gate, z and
    extra.

    Args:
      routed: what the router said.
      slots: Slots, DispatchMasks, in which every slot takes a part of every token, or
      DispatchResult.
      mask_GS: True for real tokens.
    """
    real_GS1 = mask_GS[..., None].astype(jnp.float32)
    p_GSE = routed.p_GSE
    logits_GSE = routed.logits_GSE
    return RouterStats(
        tokens=real_GS1.sum(),
        **_COUNTS[type(routed.assignment)](routed, slots, mask_GS),
        probability_E=None if p_GSE is None else (p_GSE * real_GS1).sum((0, 1)),
        entropy=None if p_GSE is None else (_entr(p_GSE) * real_GS1).sum(),
        z=None if logits_GSE is None else (_square_lse(logits_GSE) * real_GS1).sum(),
        extra=dict(routed.sums),
    )


def _square_lse(logits_GSE):
    return jnp.square(jax.nn.logsumexp(logits_GSE, axis=-1, keepdims=True))


def _entr(p_GSE):
    """-p log p. At a p that underflowed its gradient is 0, where log p would make it NaN."""
    positive_GSE = p_GSE >= jnp.finfo(p_GSE.dtype).tiny
    return -jnp.where(positive_GSE, p_GSE * jnp.log(jnp.where(positive_GSE, p_GSE, 1.0)), 0.0)


def _of_choice(routed, slots, mask_GS):
    choice = routed.assignment
    kept_GSK, rows, E = assignment.dispatch_result(slots)
    requested_GSK = choice.expert_GSK
    if routed.requested is not None:
        requested_GSK = jnp.where(mask_GS[..., None], routed.requested, E)
    return {
        "chosen_KE": _by_expert(requested_GSK, E),
        "kept_KE": _by_expert(jnp.where(kept_GSK, choice.expert_GSK, E), E),
        "unrouted": (mask_GS & ~kept_GSK.any(-1)).sum(dtype=jnp.float32),
        "gate": choice.gate_GSK.sum(),
        "slots": rows,
    }


def _by_expert(expert_GSK, experts):
    is_GSKE = expert_GSK[..., None] == jnp.arange(experts)[None, None, None]
    return is_GSKE.sum((0, 1), dtype=jnp.float32)


def _of_slots(routed, slots, mask_GS):
    filled_GEC = slots.token_GEC < mask_GS.shape[1]
    taken_1E = filled_GEC.sum((0, 2), dtype=jnp.float32)[None]
    is_routed_GS = sharding.map_groups(assignment.is_routed)(slots.token_GEC, mask_GS)
    return {
        "chosen_KE": taken_1E,
        "kept_KE": taken_1E,
        "unrouted": (mask_GS & ~is_routed_GS).sum(dtype=jnp.float32),
        "gate": slots.gate_GEC.sum(),
        "slots": jnp.float32(slots.token_GEC.size),
    }


def _of_mixing(routed, mixing, mask_GS):
    G, _, E, C = mixing.dispatch_GSEC.shape
    all_1E = jnp.full((1, E), G * C, jnp.float32)
    return {
        "chosen_KE": all_1E,
        "kept_KE": all_1E,
        "unrouted": jnp.float32(0),
        "gate": mixing.combine_GSEC.sum(),
        "slots": jnp.float32(G * E * C),
    }


_COUNTS = {
    assignment.TopKAssignment: _of_choice,
    assignment.Slots: _of_slots,
    assignment.DispatchMasks: _of_mixing,
}


def balance_loss(sums: RouterStats) -> jax.Array:
    """E * sum_e f_e p_e: exactly 1 at perfect balance, for any K and E.

    f_e is the fraction of choices sent to expert e, p_e the mean probability of
    e. (Fedus et al. 2021, equations 4 to 6, whose f is the case K = 1.)
    """
    return _balance(sums, sums.chosen_KE.sum(0))


def first_choice_balance_loss(sums: RouterStats) -> jax.Array:
    """The same, f_e the fraction of first choices (Lepikhin et al. 2020, algorithm 1)."""
    return _balance(sums, sums.chosen_KE[0])


def _balance(sums, chosen_E):
    share_E = jax.lax.stop_gradient(chosen_E / _at_least_1(chosen_E.sum()))
    mean_p_E = sums.probability_E / _at_least_1(sums.tokens)
    return chosen_E.shape[-1] * (share_E * mean_p_E).sum()


def z_loss(sums: RouterStats) -> jax.Array:
    """Mean of logsumexp(logits)^2 over real tokens (Zoph et al. 2022, equation 5)."""
    return sums.z / _at_least_1(sums.tokens)


def entropy_loss(sums: RouterStats) -> jax.Array:
    """Mean entropy of a token's probabilities, nats (Huang et al. 2024, equation 8)."""
    return sums.entropy / _at_least_1(sums.tokens)


def squared_variation(sum_E: jax.Array) -> jax.Array:
    """CV^2 = var / mean^2 of non-negative sums (Shazeer et al. 2017, equation 7); 0 if all are 0.

    Not (std / mean)^2, whose gradient at balance is not a number.
    """
    mean = sum_E.mean()
    return jnp.square(sum_E - mean).mean() / jnp.maximum(jnp.square(mean), 1e-9)


def metrics(sums: RouterStats) -> dict[str, jax.Array]:
    """What to log of a layer, whatever the weights of its losses.

    Returns:
      load_E: fraction of pairs sent to each expert, sums to 1.
      dropped: fraction of pairs without a slot; dropped_K by rank of choice.
      unrouted: fraction of tokens that no expert takes.
      max_load: largest load over the mean load, 1 at balance, E / K at collapse.
      unused: number of experts that no token chose.
      gate: mean gate of a pair.
      realised_k: pairs per token.
      realised_capacity: slots per pair, which the experts compute all (behind the oracle
        dispatcher, they compute every token instead), or computed rows: the price of static shapes.
      And of routers with probabilities:
      entropy: mean entropy of a token's probabilities, nats; log E when undecided.
      balance: the balance loss, unweighted.
      And of routers with logits:
      router_z: mean logsumexp(logits)^2.
    """
    tokens = _at_least_1(sums.tokens)
    chosen_E = sums.chosen_KE.sum(0)
    pairs_K = sums.chosen_KE.sum(1)
    pairs = _at_least_1(chosen_E.sum())
    lost_K = pairs_K - sums.kept_KE.sum(1)
    found = {
        "load_E": chosen_E / pairs,
        "dropped": lost_K.sum() / pairs,
        "dropped_K": lost_K / _at_least_1(pairs_K),
        "unrouted": sums.unrouted / tokens,
        "max_load": chosen_E.max() / pairs * chosen_E.shape[-1],
        "unused": (chosen_E == 0).sum().astype(jnp.float32),
        "gate": sums.gate / pairs,
        "realised_k": chosen_E.sum() / tokens,
        "realised_capacity": sums.slots / pairs,
    }
    if sums.probability_E is not None:
        found |= {"entropy": entropy_loss(sums), "balance": balance_loss(sums)}
    return found if sums.z is None else found | {"router_z": z_loss(sums)}


def _at_least_1(x):
    return jnp.maximum(x, 1.0)
