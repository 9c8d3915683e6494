"""Soft MoE: no choice at all, slots are mixtures of tokens (Puigcerver et al. 2023, section 2.1).

Logits [S, E * C] of tokens and slots. A slot reads the tokens mixed by the softmax over tokens, a
token reads the slots mixed by the softmax over slots. Nothing is dropped and all is differentiable.
Every slot sees every token of its group: never causal. A slot has weights of its own, so their
number must be the same in training and evaluation. The paper's normalisation of tokens and weights,
for wide models, is left out.
"""

import jax
import jax.numpy as jnp

from moe.routing import assignment, contract, tally


def route(seen: contract.Seen, setting: contract.Setting) -> contract.Routed:
    """Mixes the tokens of a group into slots and back."""
    logits_GSM = seen.logits["router"]
    real_GS1 = seen.mask_GS[..., None]
    E, C = setting.experts, setting.slots
    # exp(-1e9) is 0, and a group of padding alone has no 0 / 0.
    dispatch_GSM = jax.nn.softmax(jnp.where(real_GS1, logits_GSM, -1e9), axis=1) * real_GS1
    combine_GSM = jax.nn.softmax(logits_GSM, axis=2) * real_GS1
    shape = (*seen.mask_GS.shape, E, C)
    mixing = assignment.Mixing(dispatch_GSM.reshape(shape), combine_GSM.reshape(shape))
    return contract.Routed(mixing, combine_GSM.reshape(shape).sum(-1), logits_GSM)


def slots(moe) -> int:
    """C, which is part of the model's shape."""
    return assignment.capacity(moe.capacity_factor, moe.group_size, moe.k, moe.num_experts)


def check(moe) -> None:
    """Refuses what would make C depend on the input."""
    if not moe.group_size or moe.capacity_factor != moe.eval_capacity_factor:
        raise ValueError(
            "moe.router='soft': slots have weights, so their number must be known and always the"
            " same: set group_size, and eval_capacity_factor to capacity_factor"
        )


ROUTER = contract.Router(
    route,
    kind=assignment.Mixing,
    common={"z_weight": 0.0, "jitter": 0.0, "router_scale": 1.0},
    causal="never",
    matrices=lambda moe: {"router": moe.num_experts * slots(moe)},
    losses={"z": tally.z_loss},
    met=lambda moe: moe.num_experts * slots(moe) / moe.group_size,
    check=check,
)
