"""Choosing by a score, as most routers do, and what can be added to it.

- Group-limited choice (DeepSeek-AI 2024, section 2.1.2): experts lie in groups, on one device or
  node each, and a token may only use those of its best groups, judged by the sum of their best K /
  groups_used scores. What it sends then reaches few devices.
- No token left behind (Fedus et al. 2021, appendix B): a token over its expert's capacity moves on
  to its next best expert, for a stated number of rounds. Earlier positions keep precedence in every
  round, also over tokens that came first by rank: so no later token can take an earlier one's slot,
  and what a token gets depends on its past alone. Loads and losses count first wishes: a router
  that sends all to one expert is out of balance, wherever its tokens end up.
- Batch priority (Riquelme et al. 2021, section 4.1): the tokens with the largest probability are
  given a slot first, all first choices before any second one. Not causal.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from moe import sharding
from moe.errors import UserError
from moe.routing import assignment, contract


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """What can be added to a choice by score."""

    reroute_rounds: int = 0  # how often a token that found its expert full moves on
    batch_priority: bool = False
    expert_groups: int = 1  # groups of experts...
    groups_used: int = 1  # ... of which a token uses so many
    # Gates sum to 1 over a token's experts; None: if K > 1. OLMoE's do not, at K = 8; Mixtral's do,
    # at K = 1 too.
    normalise_gates: bool | None = None

    @property
    def causal(self) -> str | None:
        """Later tokens may have priority."""
        return "never" if self.batch_priority else None


def route(
    inputs: contract.RouterInputs,
    settings: contract.RouterSettings,
    score_GSE: jax.Array,
    affinity_GSE: jax.Array,
    log_affinity_GSE: jax.Array,
) -> contract.RouterOutput:
    """The K experts of each token that score best, as the options have it.

    Args:
      score_GSE: what choices go by.
      affinity_GSE: what gates are, normalised over a token's experts if so wanted...
      log_affinity_GSE: ... by their logarithms, up to a number for each token.
    """
    o = settings.options
    requested = None
    if o.expert_groups > 1:
        score_GSE = limited(score_GSE, o.expert_groups, o.groups_used, settings.k)
    expert_GSK = inputs.chosen(lambda: assignment.largest(score_GSE, settings.k)[1])
    if o.reroute_rounds and inputs.replayed is None:
        requested = expert_GSK
        allowed = settings.num_experts // o.expert_groups * o.groups_used
        settle = functools.partial(
            reroute, k=settings.k, slots=settings.slots, rounds=o.reroute_rounds, allowed=allowed
        )
        expert_GSK = sharding.map_groups(settle)(score_GSE, inputs.mask_GS)
    gate_GSK = contract.gates(affinity_GSE, log_affinity_GSE, expert_GSK, o.normalise_gates)
    choice = contract.choice(inputs, settings, expert_GSK, gate_GSK)
    priority_GS = affinity_GSE.max(-1) if o.batch_priority else None
    return contract.RouterOutput(choice, requested=requested, priority_GS=priority_GS)


def limited(score_GSE: jax.Array, groups: int, used: int, k: int) -> jax.Array:
    """The scores, -inf outside of each token's `used` best groups of experts.

    A group is judged by the sum of its best K / used scores.
    """
    size = score_GSE.shape[-1] // groups

    def limit(score_GSE: jax.Array) -> jax.Array:
        by_group = score_GSE.reshape(*score_GSE.shape[:2], groups, size)
        best = jax.lax.top_k(by_group, min(max(1, k // used), size))[0].sum(-1)
        open_ = jax.nn.one_hot(jax.lax.top_k(best, used)[1], groups, dtype=bool).any(-2)
        return jnp.where(open_[..., None], by_group, -jnp.inf).reshape(score_GSE.shape)

    return sharding.map_groups(limit)(score_GSE)


def reroute(
    score_GSE: jax.Array, mask_GS: jax.Array, k: int, slots: int, rounds: int, allowed: int
) -> jax.Array:
    """expert_GSK after so many rounds in which those over capacity C = slots moved on.

    Deferred acceptance (Gale and Shapley 1962) in which every expert prefers earlier positions. The
    K experts of a token stay distinct; one that has tried all that it is allowed (scores above
    -inf) stays where it is, dropped.
    """
    E = score_GSE.shape[-1]
    tried = min(allowed, k * (rounds + 1))  # nobody gets further down its list
    best_GSE = jax.lax.top_k(score_GSE, tried)[1]
    best_GSE = jnp.where(mask_GS[..., None], best_GSE, E)
    next_GS1 = jnp.full_like(mask_GS, k, jnp.int32)[..., None]
    rank_GSK = jnp.zeros_like(next_GS1) + jnp.arange(k)[None, None]

    def turn(_: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        rank_GSK, next_GS1 = state
        expert_GSK = jnp.take_along_axis(best_GSE, rank_GSK, axis=-1)
        chosen = assignment.TopKAssignment(expert_GSK, expert_GSK * 0.0)
        slot_GSK = assignment.assign_slots(chosen, E, slots).slot_GSK
        lost_GSK = (slot_GSK == E * slots) & mask_GS[..., None]
        new_GSK = next_GS1 + jnp.cumsum(lost_GSK, axis=-1) - 1
        moves_GSK = lost_GSK & (new_GSK < tried)
        rank_GSK = jnp.where(moves_GSK, new_GSK, rank_GSK)
        return rank_GSK, next_GS1 + moves_GSK.sum(-1, keepdims=True)

    rank_GSK, _ = jax.lax.fori_loop(0, rounds, turn, (rank_GSK, next_GS1))
    return jnp.take_along_axis(best_GSE, rank_GSK, axis=-1)


def check(config: contract.Experts) -> None:
    """Refuses options that cannot hold."""
    o = config.options
    fits = o.expert_groups > 0 and config.num_experts % o.expert_groups == 0
    fits = fits and 1 <= o.groups_used <= o.expert_groups
    allowed = config.num_experts // o.expert_groups * o.groups_used if fits else 0
    if o.reroute_rounds < 0 or config.k > allowed:
        raise UserError(
            f"experts.options: {o.reroute_rounds=} must not be negative, {o.expert_groups=} must"
            f" divide num_experts={config.num_experts}, {o.groups_used=} lie between 1 and it, and"
            f" leave k={config.k} experts or more"
        )
    if o.reroute_rounds and o.batch_priority:
        raise UserError("experts.options: rounds give slots by position: not with batch_priority")


def idle(config: contract.Experts) -> None:
    """Refuses groups that change no choice."""
    o = config.options
    if o.groups_used == o.expert_groups > 1:
        raise UserError(
            "experts.options: groups_used = expert_groups limits nothing: leave both out"
        )
    if o.expert_groups > 1 and o.groups_used >= config.k and not o.reroute_rounds:
        raise UserError(
            f"experts.options: {o.groups_used=} limits nothing at k={config.k}: the k best"
            " experts lie in the k best groups. Use fewer groups than k, or leave both out"
        )
