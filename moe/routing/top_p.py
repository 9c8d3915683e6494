"""Top-p routing: as many experts as a token needs (Huang et al. 2024, section 3).

Experts are taken in order of probability until their sum reaches P, at most K of them, for static
shapes. The gate is p. Without the entropy loss the router flattens and takes all it may.
Equal FLOPs must be judged at the realised number of experts a token ("realised_k").

With `target_k` a controller moves each layer's P after every step towards the P that gives so
many experts a token: P += rate * (target_k - realised_k).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from moe.errors import UserError
from moe.routing import assignment, contract, stats, top_k


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """How much probability is enough."""

    mass: float = 0.4  # P, at first if there is a target
    target_k: float = 0.0  # experts a token that a controller holds; 0 leaves P as it is
    rate: float = 0.001  # of the controller
    entropy_weight: float = 1e-4


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to the fewest experts whose probabilities reach P."""
    logits_GSE = inputs.logits["router"]
    p_GSE = jax.nn.softmax(logits_GSE)

    def choose() -> jax.Array:
        p_GSK, expert_GSK = assignment.largest(p_GSE, settings.k)
        before_GSK = jnp.cumsum(p_GSK, axis=-1) - p_GSK
        return jnp.where(before_GSK < inputs.held("mass"), expert_GSK, settings.num_experts)

    expert_GSK = inputs.chosen(choose)
    choice = contract.choice(inputs, settings, expert_GSK, contract.pick(p_GSE, expert_GSK))
    return contract.RouterOutput(choice, p_GSE, logits_GSE)


def state(model: contract.Model, seed: int, ids: np.ndarray | None) -> dict:
    """P of every layer."""
    del seed, ids
    return {"mass": np.full(model.moe_layers, model.experts.options.mass, np.float32)}


def update(state: dict, sums: stats.RouterStats, options: Options) -> dict:
    """One move of the controller, [layers]."""
    realised = sums.chosen_KE.sum((-2, -1)) / jnp.maximum(sums.tokens, 1.0)
    move = options.rate * (options.target_k - realised) * (options.target_k > 0)
    return {"mass": jnp.clip(state["mass"] + move, 0.01, 1.0)}


def check(config: contract.Experts) -> None:
    """Refuses what no P can reach."""
    o = config.options
    if not (0 < o.mass <= 1 and o.rate > 0 and (o.target_k == 0 or 1 <= o.target_k <= config.k)):
        raise UserError(
            f"experts.options: {o.mass=} must be in (0, 1], {o.rate=} above 0, {o.target_k=} 0 (no"
            f" target) or from 1 to k={config.k}, the most experts a token may have"
        )


def idle(config: contract.Experts) -> None:
    """Refuses the rate of a controller that holds nothing."""
    o = config.options
    if not o.target_k and o.rate != Options.rate:
        raise UserError(f"experts.options: {o.rate=} does nothing without a target_k")


ROUTER = contract.Router(
    route,
    options=Options,
    common=top_k.LEARNED,
    losses=top_k.LOSSES | {"entropy": stats.entropy_loss},
    state=state,
    update=update,
    experts_per_token=lambda config: config.options.target_k or config.k,
    check=check,
    idle=idle,
)
