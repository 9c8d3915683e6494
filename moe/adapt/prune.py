"""Fewer experts: those that are needed least go, with their columns of the router.

- by use: how many tokens chose an expert, of all text or of one task's;
- REAP (Lasby et al. 2025, "REAP the Experts", section 4): the mean, over the tokens that chose an
  expert, of its gate times the norm of its output. Gates are the model's own, renormalised over a
  token's K experts where the model renormalises them.

A token whose expert is gone goes to its next best, and gates that are softmaxes are so over those
that stay.
"""

import jax
import jax.numpy as jnp
import numpy as np

from moe import schema, sharding
from moe.adapt import banks
from moe.adapt.banks import Trained
from moe.adapt.observing import Use
from moe.config import ModelConfig

PER_EXPERT = ("bias",)  # a router's state with a number for each expert
FOR_ALL = ("mass",)  # and with one for all


def by_use(use: Use) -> np.ndarray:
    """score_LE: tokens that chose an expert."""
    return np.asarray(use.tokens)


def reap(use: Use) -> np.ndarray:
    """score_LE of REAP; 0 where no token came."""
    return np.asarray(use.output) / np.maximum(use.tokens, 1)


def best(score_LE: np.ndarray, number: int) -> np.ndarray:
    """kept_LE: the experts of each layer with the highest scores, in their old order.

    Of equal ones the first stay.

    Args:
      score_LE: of every layer's experts.
      number: how many stay in each.

    Raises:
      UserError: if so many cannot stay, or a score is not finite.
    """
    E = score_LE.shape[1]
    schema.require(
        0 < number <= E, f"expected from 1 to {E} experts to stay in each layer; got {number}"
    )
    schema.require(bool(np.isfinite(score_LE).all()), "scores are not finite: is the model sound?")
    return np.sort(np.argsort(-score_LE, axis=1, kind="stable")[:, :number], axis=1)


def keep(trained: Trained, kept_LE: np.ndarray) -> Trained:
    """The model with these experts alone.

    Args:
      trained: the model.
      kept_LE: int, which stay in each MoE layer; as many in every one.

    Raises:
      UserError: for fewer experts than a token chooses, and for routers that are not made of one
        column for each expert.
    """
    model = trained.model
    check(trained)
    smaller = banks.with_experts(model, num_experts=kept_LE.shape[1])
    parts = zip(banks.of(trained), banks.by_stack(model, kept_LE), strict=True)
    kept = [bank_of(bank, own_LE, model) for bank, own_LE in parts]
    state = {
        name: _take(x, kept_LE) if name in PER_EXPERT else x
        for name, x in trained.router_state.items()
    }
    return Trained(smaller, banks.with_banks(trained.params, model, kept), state)


def check(trained: Trained) -> None:
    """Refuses routers from which no expert can be taken.

    Raises:
      UserError: with the router's name.
    """
    experts = banks.experts(trained.model)
    columns = set(experts.routing.projections(experts).values()) - {1}
    plain = columns == {experts.num_experts} and getattr(experts.options, "expert_groups", 1) == 1
    schema.require(
        plain and set(trained.router_state) <= {*PER_EXPERT, *FOR_ALL},
        f"experts.router={experts.router!r} with these options does not have one column for each"
        " expert: no expert can be taken out. Use a router that scores every expert by itself",
    )


def bank_of(bank: dict, kept_LE: np.ndarray, model: ModelConfig) -> dict:
    """One bank with these experts; what has a column for each expert keeps those that stay."""
    E = banks.experts(model).num_experts
    found = {}
    for name, part in bank.items():
        if name == "experts":
            found[name] = {k: _take(w, kept_LE) for k, w in part.items()}
        elif isinstance(part, jax.Array) and part.shape[-1] == E:
            found[name] = _take(part, kept_LE, axis=-1)
        else:
            found[name] = part  # shared experts, and what routers learn beside scores
    return found


def _take(x, kept_LE, axis=0):
    """x [L, ...] with these indices of an axis of each layer."""

    def take(x: jax.Array, kept_LE: np.ndarray) -> jax.Array:
        return jax.vmap(lambda x, kept_E: jnp.take(x, kept_E, axis=axis))(x, kept_LE)

    return sharding.laid_out_as(x, take)(x, jnp.asarray(kept_LE))
