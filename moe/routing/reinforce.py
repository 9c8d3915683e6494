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
from moe.routing import assignment, contract, tally, top_k


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """Weights of what teaches the policy and its baseline."""

    policy_weight: float = 0.01
    baseline_weight: float = 0.01


def route(seen: contract.Seen, setting: contract.Setting) -> contract.Routed:
    """Sends each token to one expert that the policy draws."""
    logits_GSE = seen.logits["router"]

    def choose():
        score_GSE = logits_GSE
        if setting.train:
            layout = sharding.out("GSE")
            score_GSE += jax.random.gumbel(seen.key, logits_GSE.shape, out_sharding=layout)
        return assignment.largest(score_GSE, 1)[1]

    choice = contract.choice(seen, setting, seen.chosen(choose), 1.0)
    real_GS = seen.mask_GS.astype(jnp.float32)
    log_p_GS = contract.pick(jax.nn.log_softmax(logits_GSE), choice.expert_GSK)[..., 0]
    baseline_GS = seen.logits["baseline"][..., 0]
    policy = contract.Policy(log_p_GS * real_GS, baseline_GS * real_GS)
    return contract.Routed(choice, jax.nn.softmax(logits_GSE), logits_GSE, policy=policy)


def learn(policy: contract.Policy, nll_BT, real_BT) -> dict[str, jax.Array]:
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


def policy_loss(sums: tally.Tally) -> jax.Array:
    """Mean over targets of -(r - b) log pi(e)."""
    return sums.own["policy"] / jnp.maximum(sums.own["targets"], 1.0)


def baseline_loss(sums: tally.Tally) -> jax.Array:
    """Mean over targets of (r - b)^2."""
    return sums.own["baseline"] / jnp.maximum(sums.own["targets"], 1.0)


def check(moe) -> None:
    """Refuses what is not one expert a token."""
    if moe.k != 1:
        raise ValueError(f"moe.router='reinforce' draws one expert: set k=1, not k={moe.k}")


ROUTER = contract.Router(
    route,
    options=Options,
    common=top_k.LEARNED,
    matrices=lambda moe: {"router": moe.num_experts, "baseline": 1},
    detached=("baseline",),
    losses=top_k.LOSSES | {"policy": policy_loss, "baseline": baseline_loss},
    check=check,
)
