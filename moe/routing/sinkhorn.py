"""S-BASE: Sinkhorn-balanced scores choose, a softmax gives gates (Clark et al. 2022, section 3).

In training the logits of a group are balanced by Sinkhorn's iteration (Cuturi 2013) to a plan in
which every expert gets as much of the tokens as every other; each token goes to its K largest
entries of the plan. Nearly balanced, so nearly nothing is dropped at capacity factor 1; no
auxiliary loss. The plan depends on the whole group, so training peeks at later tokens; evaluation
takes the K largest logits, which is causal.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from moe import sharding
from moe.errors import UserError
from moe.routing import assignment, contract, stats


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """How far the balancing goes."""

    iterations: int = 20
    temperature: float = 1.0  # of the logits inside the plan


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to its K largest entries of the balanced plan."""
    logits_GSE = inputs.logits["router"]
    p_GSE = jax.nn.softmax(logits_GSE)
    o = settings.options

    def choose() -> jax.Array:
        if not settings.train:
            return assignment.largest(p_GSE, settings.k)[1]
        balanced = functools.partial(plan, iterations=o.iterations, temperature=o.temperature)
        plan_GSE = sharding.map_groups(balanced)(jax.lax.stop_gradient(logits_GSE), inputs.mask_GS)
        return assignment.largest(plan_GSE, settings.k)[1]

    expert_GSK = inputs.chosen(choose)
    gate_GSK = contract.gates(p_GSE, logits_GSE, expert_GSK)
    choice = contract.choice(inputs, settings, expert_GSK, gate_GSK)
    return contract.RouterOutput(choice, p_GSE, logits_GSE)


def plan(
    score_GSE: jax.Array, mask_GS: jax.Array, iterations: int, temperature: float
) -> jax.Array:
    """log of the balanced plan: every real token's row sums to 1, every expert gets an equal share.

    It maximises <score, plan> + temperature * entropy (Cuturi 2013, equation 2).
    """
    share_G11 = (jnp.maximum(mask_GS.sum(-1), 1) / score_GSE.shape[-1])[:, None, None]
    shares = Shares(share_G11, share_G11)
    return shared_plan(score_GSE, mask_GS, shares, iterations, temperature, temperature)


class Shares(NamedTuple):
    """How many tokens of a group an expert gets: all the least, but for some that get the most."""

    least_G11: jax.Array
    most_G11: jax.Array
    lucky_G11: jax.Array | int = 0  # so many get the most...
    common_G1E: jax.Array | float = 0.0  # ... judged with this added to all scores of an expert


def shared_plan(
    score_GSE: jax.Array,
    mask_GS: jax.Array,
    shares: Shares,
    iterations: int,
    temperature: float,
    start: float,
) -> jax.Array:
    """The plan for such shares.

    Where all get the same, what an expert's scores have in common changes nothing; else it decides
    who is lucky. The temperature falls from `start` over four fifths of the turns: so low ones
    converge.
    """
    s_GSE = jnp.where(mask_GS[..., None], score_GSE, -jnp.inf)
    least_G11 = jnp.log(shares.least_G11)
    most_G11 = jnp.log(shares.most_G11)

    def turn(i: int, duals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        t = jnp.maximum(temperature, start * (temperature / start) ** (1.25 * i / iterations))
        row_GS1, _ = duals
        sum_G1E = jax.nn.logsumexp((s_GSE + row_GS1) / t, axis=1, keepdims=True)
        lowest_G1E = jnp.nan_to_num(t * (least_G11 - sum_G1E), posinf=0.0)  # of padding alone
        highest_G1E = jnp.nan_to_num(t * (most_G11 - sum_G1E), posinf=0.0)
        price_G11 = common_price(highest_G1E - shares.common_G1E, shares.lucky_G11)
        column_G1E = jnp.clip(shares.common_G1E + price_G11, lowest_G1E, highest_G1E)
        sum_GS1 = jax.nn.logsumexp((s_GSE + column_G1E) / t, axis=2, keepdims=True)
        return jnp.nan_to_num(-t * sum_GS1, posinf=0.0), column_G1E

    duals = jnp.zeros_like(s_GSE[..., :1]), jnp.zeros_like(s_GSE[:, :1])
    row_GS1, column_G1E = jax.lax.fori_loop(0, iterations, turn, duals)
    return jnp.where(mask_GS[..., None], (score_GSE + row_GS1 + column_G1E) / temperature, -jnp.inf)


def common_price(need_G1E: jax.Array, lucky_G11: jax.Array | int) -> jax.Array:
    """What is added to all experts' scores so that no more than the lucky are over-full, [G, 1, 1].

    That is 0 if it already holds, else the need of the last of the lucky: below 0.
    """
    sorted_G1E = jnp.sort(need_G1E, axis=2)
    last_G11 = jnp.zeros_like(need_G1E[..., :1], jnp.int32) + lucky_G11 - 1
    last_G11 = jnp.maximum(last_G11, 0)  # if nobody is, all get the same, and the price is nothing
    return jnp.minimum(0.0, jnp.take_along_axis(sorted_G1E, last_G11, axis=2))


def check(config: contract.Experts) -> None:
    """Refuses options that cannot hold."""
    o = config.options
    if o.iterations < 1 or o.temperature <= 0:
        raise UserError(f"experts.options: {o.iterations=} and {o.temperature=} must be above 0")


ROUTER = contract.Router(
    route,
    options=Options,
    common={"z_weight": 0.0, "jitter": 0.0, "router_scale": 0.1},
    causal="evaluation",
    losses={"z": stats.z_loss},
    check=check,
)
