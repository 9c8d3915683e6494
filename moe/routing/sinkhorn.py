"""S-BASE: Sinkhorn-balanced scores choose, a softmax gives gates (Clark et al. 2022, section 3).

In training the logits of a group are balanced by Sinkhorn's iteration (Cuturi 2013) to a plan in
which every expert gets as much of the tokens as every other; each token goes to its K largest
entries of the plan. Nearly balanced, so nearly nothing is dropped at capacity factor 1; no
auxiliary loss. The plan depends on the whole group, so training peeks at later tokens; evaluation
takes the K largest logits, which is causal.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from moe import sharding
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
    p_GSE, o = jax.nn.softmax(logits_GSE), settings.options

    def choose():
        if not settings.train:
            return assignment.largest(p_GSE, settings.k)[1]
        balanced = lambda s, mask: plan(s, mask, o.iterations, o.temperature)  # noqa: E731
        plan_GSE = sharding.map_groups(balanced)(jax.lax.stop_gradient(logits_GSE), inputs.mask_GS)
        return assignment.largest(plan_GSE, settings.k)[1]

    expert_GSK = inputs.chosen(choose)
    gate_GSK = contract.gates(p_GSE, logits_GSE, expert_GSK)
    choice = contract.choice(inputs, settings, expert_GSK, gate_GSK)
    return contract.RouterOutput(choice, p_GSE, logits_GSE)


def plan(score_GSE, mask_GS, iterations: int, temperature: float, start: float = 0.0):
    """log of the balanced plan: every real token's row sums to 1, every expert gets an equal share.

    It maximises <score, plan> + temperature * entropy (Cuturi 2013, equation 2). With `start` the
    temperature falls from there over four fifths of the turns: so low ones converge.
    """
    s_GSE = jnp.where(mask_GS[..., None], score_GSE, -jnp.inf)
    start = start or temperature
    share_G11 = jnp.log(jnp.maximum(mask_GS.sum(-1), 1) / s_GSE.shape[-1])[:, None, None]

    def turn(i, duals):
        t = jnp.maximum(temperature, start * (temperature / start) ** (1.25 * i / iterations))
        row_GS1, _ = duals
        sum_G1E = jax.nn.logsumexp((s_GSE + row_GS1) / t, axis=1, keepdims=True)
        column_G1E = jnp.nan_to_num(t * (share_G11 - sum_G1E), posinf=0.0)  # of padding alone
        sum_GS1 = jax.nn.logsumexp((s_GSE + column_G1E) / t, axis=2, keepdims=True)
        return jnp.nan_to_num(-t * sum_GS1, posinf=0.0), column_G1E

    duals = jnp.zeros_like(s_GSE[..., :1]), jnp.zeros_like(s_GSE[:, :1])
    row_GS1, column_G1E = jax.lax.fori_loop(0, iterations, turn, duals)
    return jnp.where(mask_GS[..., None], (score_GSE + row_GS1 + column_G1E) / temperature, -jnp.inf)


def check(config) -> None:
    """Refuses options that cannot hold."""
    o = config.options
    if o.iterations < 1 or o.temperature <= 0:
        raise ValueError(f"experts.options: {o.iterations=} and {o.temperature=} must be above 0")


ROUTER = contract.Router(
    route,
    options=Options,
    common={"z_weight": 0.0, "jitter": 0.0, "router_scale": 0.1},
    causal="evaluation",
    losses={"z": stats.z_loss},
    check=check,
)
