"""Routing by reinforcement learning (Clark et al. 2022, RL-R; Bengio et al. 2015; Williams 1992).

The router is a policy pi = softmax(s). In training an expert is drawn from it, in evaluation the
likeliest is taken; K = 1 and the gate is 1, so that no gradient reaches the router through the
layer. Its reward r is the log-probability that the model gives to the token's target; it learns
by -(r - b) log pi(e), where the baseline b is a linear function of its input that learns to expect
r by (r - b)^2, without a say in what its input is. The balance loss comes on top. The loss adds
both where r is known (`training.loss`). A dropped token is rewarded as if its expert had seen it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from moe import sharding
from moe.errors import UserError
from moe.routing import assignment, contract, stats, top_k


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """Weights of what teaches the policy and its baseline."""

    policy_weight: float = 0.01
    baseline_weight: float = 0.01


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to one expert that the policy draws."""
    logits_GSE = inputs.logits["router"]

    def choose() -> jax.Array:
        score_GSE = logits_GSE
        if settings.train:
            layout = sharding.out_sharding("GSE")
            key = inputs.need("key")
            score_GSE += jax.random.gumbel(key, logits_GSE.shape, out_sharding=layout)
        return assignment.largest(score_GSE, 1)[1]

    expert_GSK = inputs.chosen(choose)
    gate_GSK = jnp.ones_like(expert_GSK, jnp.float32)
    choice = contract.choice(inputs, settings, expert_GSK, gate_GSK)
    real_GS = inputs.mask_GS.astype(jnp.float32)
    log_p_GS = contract.pick(jax.nn.log_softmax(logits_GSE), choice.expert_GSK)[..., 0]
    baseline_GS = inputs.logits["baseline"][..., 0]
    policy = contract.Policy(log_p_GS * real_GS, baseline_GS * real_GS)
    return contract.RouterOutput(choice, jax.nn.softmax(logits_GSE), logits_GSE, policy=policy)


def learn(policy: contract.Policy, nll_BT: jax.Array, real_BT: jax.Array) -> dict[str, jax.Array]:
    """Sums over real tokens of the policy's and the baseline's losses.

    Args:
      policy: of one layer, in the layout of nll_BT.
      nll_BT: -r.
      real_BT: True for tokens that have a target.
    """
    reward_BT = -jax.lax.stop_gradient(nll_BT)
    surprise_BT = (reward_BT - policy.baseline_GS) * real_BT
    policy_BT = -jax.lax.stop_gradient(surprise_BT) * policy.log_p_GS
    return {
        "policy": policy_BT.sum(),
        "baseline": jnp.square(surprise_BT).sum(),
        "targets": real_BT.sum(dtype=jnp.float32),
    }


def policy_loss(sums: stats.RouterStats) -> jax.Array:
    """Mean over targets of -(r - b) log pi(e)."""
    return sums.extra["policy"] / jnp.maximum(sums.extra["targets"], 1.0)


def baseline_loss(sums: stats.RouterStats) -> jax.Array:
    """Mean over targets of (r - b)^2."""
    return sums.extra["baseline"] / jnp.maximum(sums.extra["targets"], 1.0)


def check(config: contract.Experts) -> None:
    """Refuses what is not one expert a token."""
    if config.k != 1:
        raise UserError(f"experts.router='reinforce' draws one expert: set k=1, not k={config.k}")


ROUTER = contract.Router(
    route,
    options=Options,
    common=top_k.LEARNED,
    projections=lambda config: {"router": config.num_experts, "baseline": 1},
    detached=("baseline",),
    losses=top_k.LOSSES | {"policy": policy_loss, "baseline": baseline_loss},
    check=check,
)
