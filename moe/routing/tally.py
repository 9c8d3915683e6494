"""What happened in a router, as sums that add up, and the losses and statistics made of them.

Every quantity here is a sum over tokens, so tallies of micro-batches, groups or devices
are simply added, and only then turned into losses and statistics. That is why neither
gradient accumulation nor the mesh can change what "balanced" means.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Tally(NamedTuple):
    """Sums over the real tokens of one layer. P = (token, choice) pairs."""

    tokens: jax.Array  # real tokens
    chosen_E: jax.Array  # pairs sent to each expert, before any drop
    kept_E: jax.Array  # pairs that found a slot
    probability_E: jax.Array  # sum of the router's probabilities
    entropy: jax.Array  # sum of -p log p, nats
    gate: jax.Array  # sum of the gates of all pairs
    z: jax.Array  # sum of logsumexp(logits)^2
    slots: jax.Array  # slots handed out, filled or not


def count(logits_GSE, mask_GS, choice, slots) -> Tally:
    """Sums up one layer's routing. Gradients flow through probability_E, entropy, gate and z."""
    E = logits_GSE.shape[-1]
    real_GS1 = mask_GS[..., None].astype(jnp.float32)
    log_p_GSE = jax.nn.log_softmax(logits_GSE)
    p_GSE = jnp.exp(log_p_GSE) * real_GS1
    z_GS1 = jax.nn.logsumexp(logits_GSE, axis=-1, keepdims=True)
    filled_GEC = slots.token_GEC < mask_GS.shape[1]
    chosen_GSKE = choice.expert_GSK[..., None] == jnp.arange(E)[None, None, None]
    return Tally(
        tokens=real_GS1.sum(),
        chosen_E=chosen_GSKE.sum((0, 1, 2), dtype=jnp.float32),
        kept_E=filled_GEC.sum((0, 2), dtype=jnp.float32),
        probability_E=p_GSE.sum((0, 1)),
        entropy=-(p_GSE * log_p_GSE).sum(),
        gate=choice.gate_GSK.sum(),
        z=(jnp.square(z_GS1) * real_GS1).sum(),
        slots=jnp.float32(slots.token_GEC.size),
    )


def balance_loss(tally: Tally) -> jax.Array:
    """E * sum_e f_e P_e: exactly 1 at perfect balance, for any K and E.

    f_e is the fraction of (token, choice) pairs sent to expert e, P_e the mean probability of
    e. (Fedus et al. 2021, equations 4 to 6, whose f is the case K = 1.)
    """
    share_E = jax.lax.stop_gradient(tally.chosen_E / _at_least_1(tally.chosen_E.sum()))
    mean_p_E = tally.probability_E / _at_least_1(tally.tokens)
    return tally.chosen_E.shape[-1] * (share_E * mean_p_E).sum()


def z_loss(tally: Tally) -> jax.Array:
    """Mean of logsumexp(logits)^2 over real tokens (Zoph et al. 2022, equation 5)."""
    return tally.z / _at_least_1(tally.tokens)


def statistics(tally: Tally) -> dict[str, jax.Array]:
    """What to log of a layer, whatever the weights of its losses.

    Returns:
      load_E: fraction of pairs sent to each expert, sums to 1.
      dropped: fraction of pairs without a slot.
      entropy: mean entropy of a token's probabilities, nats; log E when undecided.
      max_load: largest load over the mean load, 1 at balance, E / K at collapse.
      unused: number of experts that no token chose.
      gate: mean gate of a pair.
      router_z: mean logsumexp(logits)^2.
      realised_k: pairs per token.
      realised_capacity: slots per pair, the price of static shapes; the experts compute them all
        (behind the oracle dispatcher, they compute every token instead).
      balance: the balance loss, unweighted.
    """
    tokens, pairs = _at_least_1(tally.tokens), _at_least_1(tally.chosen_E.sum())
    return {
        "load_E": tally.chosen_E / pairs,
        "dropped": (tally.chosen_E.sum() - tally.kept_E.sum()) / pairs,
        "entropy": tally.entropy / tokens,
        "max_load": tally.chosen_E.max() / pairs * tally.chosen_E.shape[-1],
        "unused": (tally.chosen_E == 0).sum().astype(jnp.float32),
        "gate": tally.gate / pairs,
        "router_z": z_loss(tally),
        "realised_k": tally.chosen_E.sum() / tokens,
        "realised_capacity": tally.slots / pairs,
        "balance": balance_loss(tally),
    }


def _at_least_1(x):
    return jnp.maximum(x, 1.0)
