"""BASE: training as a balanced assignment (Lewis et al. 2021, section 3).

In training the tokens of a group are shared out so that every expert gets equally many and the sum
of scores a_te = h_t . w_e is as large as we can make it; in evaluation each token goes to its best
expert, which is causal. The gate is alpha = sigmoid(a_te); no auxiliary loss. The paper's
alpha f(h) + (1 - alpha) h, where f has a residual connection of its own, is what our layer's
residual connection makes of the gate alone: h + alpha f(h).

The solver is not the paper's auction, whose number of rounds depends on the data: Sinkhorn's
iteration, as its temperature falls, finds the experts' prices; then experts take in turn the tokens
that would lose most elsewhere, which makes the balance exact. Where tokens can't be shared out
evenly, one more goes to each of those experts that gain most by it, as the prices have it. A little
noise breaks ties, as between equal words of the first layer. Within 1% of the optimum
(tests/routing/test_balanced.py).
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from moe import sharding
from moe.errors import UserError
from moe.routing import assignment, contract, sinkhorn, stats

START = 0.5  # the temperature that falls


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """Of the solver: more turns at a lower temperature come closer to the optimum."""

    iterations: int = 200
    temperature: float = 0.002  # at the end, over the standard deviation of a group's scores


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to one expert, in training equally many to each."""
    score_GSE = inputs.logits["router"]
    o = settings.options

    def choose() -> jax.Array:
        if not settings.train:
            return assignment.largest(score_GSE, 1)[1]
        share = functools.partial(balanced, iterations=o.iterations, temperature=o.temperature)
        fixed_GSE = jax.lax.stop_gradient(score_GSE)
        return sharding.map_groups(share)(fixed_GSE, inputs.mask_GS)[..., None]

    expert_GSK = inputs.chosen(choose)
    gate_GSK = jax.nn.sigmoid(contract.pick(score_GSE, expert_GSK))
    choice = contract.choice(inputs, settings, expert_GSK, gate_GSK)
    return contract.RouterOutput(choice, jax.nn.softmax(score_GSE), score_GSE)


def balanced(
    score_GSE: jax.Array, mask_GS: jax.Array, iterations: int, temperature: float
) -> jax.Array:
    """expert_GS with as many real tokens for each expert as for every other (or one more)."""
    G, S, E = score_GSE.shape
    # What all scores of a token or of an expert have in common changes no assignment.
    real_GS1 = mask_GS[..., None]
    own_GSE = score_GSE - score_GSE.mean(2, keepdims=True)
    common_G1E = jnp.nan_to_num(own_GSE.mean(1, keepdims=True, where=real_GS1))
    own_GSE = own_GSE - common_G1E
    spread_G11 = own_GSE.std((1, 2), keepdims=True, where=real_GS1)
    spread_G11 = jnp.maximum(jnp.nan_to_num(spread_G11), 1e-6)  # of a group of padding alone
    ties_SE = 0.02 * jax.random.uniform(jax.random.key(0), (S, E))
    scaled_GSE = own_GSE / spread_G11 + ties_SE[None]
    real_G1 = mask_GS.sum(-1, keepdims=True)
    least_G1 = real_G1 // E
    odd_G1 = real_G1 % E  # so many experts get one more
    shares = sinkhorn.Shares(
        least_G1[..., None],
        (least_G1 + (odd_G1 > 0))[..., None],
        odd_G1[..., None],
        common_G1E / spread_G11,
    )
    plan_GSE = sinkhorn.shared_plan(scaled_GSE, mask_GS, shares, iterations, temperature, START)
    more_GE = place(jax.nn.logsumexp(plan_GSE, axis=1)) < odd_G1
    later_EE = jnp.triu(jnp.ones((E, E), bool), 1)

    def take(free_GS: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Expert e takes its share of the tokens still free, those first that lose most later."""
        share_G1 = least_G1 + jnp.take(more_GE, e, axis=1)[:, None]
        later_GSE = jnp.where(later_EE[e][None, None], plan_GSE, -jnp.inf)
        margin_GS = jnp.take(plan_GSE, e, axis=2) - jnp.maximum(later_GSE.max(-1), -1e9)
        wish_GS = jnp.where(free_GS, margin_GS, -jnp.inf)
        got_GS = free_GS & (place(wish_GS) < share_G1)
        return free_GS & ~got_GS, got_GS

    _, got_EGS = jax.lax.scan(take, mask_GS, jnp.arange(E))
    return jnp.where(mask_GS, got_EGS.argmax(0), E)


def place(x_GN: jax.Array) -> jax.Array:
    """Which place each takes from the largest down, 0 for the largest."""
    return jnp.argsort(jnp.argsort(-x_GN, axis=-1), axis=-1)


def check(config: contract.Experts) -> None:
    """Refuses what is not one expert a token."""
    sinkhorn.check(config)
    if config.k != 1:
        raise UserError(
            f"experts.router='base' gives each token one expert: set k=1, not k={config.k}"
        )


ROUTER = contract.Router(
    route,
    options=Options,
    common={"z_weight": 0.0, "jitter": 0.0, "router_scale": 0.1},
    causal="evaluation",
    losses={"z": stats.z_loss},
    check=check,
)
