"""Soft MoE: no choice at all, slots are mixtures of tokens (Puigcerver et al. 2023, section 2.1).

Logits [S, E * C] of tokens and slots. A slot reads the tokens mixed by the softmax over tokens, a
token reads the slots mixed by the softmax over slots. Nothing is dropped and all is differentiable.
Every slot sees every token of its group: never causal. A slot has weights of its own, so their
number must be the same in training and evaluation. The paper's normalisation of tokens and weights,
for wide models, is left out.
"""

import jax
import jax.numpy as jnp

from moe.errors import UserError
from moe.routing import assignment, contract, stats


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Mixes the tokens of a group into slots and back."""
    logits_GSM = inputs.logits["router"]
    real_GS1 = inputs.mask_GS[..., None]
    E = settings.num_experts
    C = settings.slots
    # exp(-1e9) is 0, and a group of padding alone has no 0 / 0.
    dispatch_GSM = jax.nn.softmax(jnp.where(real_GS1, logits_GSM, -1e9), axis=1) * real_GS1
    combine_GSM = jax.nn.softmax(logits_GSM, axis=2) * real_GS1
    shape = (*inputs.mask_GS.shape, E, C)
    mixing = assignment.DispatchMasks(dispatch_GSM.reshape(shape), combine_GSM.reshape(shape))
    return contract.RouterOutput(mixing, combine_GSM.reshape(shape).sum(-1), logits_GSM)


def slots(config: contract.Experts) -> int:
    """C, which is part of the model's shape."""
    return assignment.capacity(
        config.capacity_factor, config.group_size, config.k, config.num_experts
    )


def check(config: contract.Experts) -> None:
    """Refuses what would make C depend on the input."""
    if not config.group_size or config.capacity_factor != config.eval_capacity_factor:
        raise UserError(
            "experts.router='soft': slots have weights, so their number must be known and always"
            " the same: set group_size, and eval_capacity_factor to capacity_factor"
        )


ROUTER = contract.Router(
    route,
    kind=assignment.DispatchMasks,
    common={"z_weight": 0.0, "jitter": 0.0, "router_scale": 1.0},
    causal="never",
    projections=lambda config: {"router": config.num_experts * slots(config)},
    losses={"z": stats.z_loss},
    experts_per_token=lambda config: config.num_experts * slots(config) / config.group_size,
    check=check,
)
