"""GShard's top-2 routing (Lepikhin et al. 2020, section 2.2 and algorithm 1).

The best expert is always used, a second one with probability min(1, 2 g2): a token that is sure of
the first does not fill the second's slots. Gates are normalised over the two, whether or not the
second is used. `second="sampled"` draws it from p without the first instead, and always uses
it. The balance loss is on first choices. Training and evaluation draw alike.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from moe import sharding
from moe.errors import UserError
from moe.routing import assignment, contract, stats, top_k

SECONDS = ("threshold", "sampled")


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """How the second expert comes in."""

    second: str = "threshold"


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to its best expert and maybe to a second."""
    logits_GSE = inputs.logits["router"]
    p_GSE = jax.nn.softmax(logits_GSE)
    choose = threshold if settings.options.second == "threshold" else sampled
    expert_GSK = inputs.chosen(lambda: choose(logits_GSE, inputs.need("key")))
    score_GSK = contract.pick(logits_GSE, expert_GSK)
    unused_GS1 = expert_GSK[..., 1:] == settings.num_experts
    second_GS1 = jnp.where(unused_GS1, second_best(logits_GSE, expert_GSK), score_GSK[..., 1:])
    gate_GSK = jax.nn.softmax(jnp.concatenate([score_GSK[..., :1], second_GS1], axis=-1))
    choice = contract.choice(inputs, settings, expert_GSK, gate_GSK)
    return contract.RouterOutput(choice, p_GSE, logits_GSE)


def threshold(logits_GSE: jax.Array, key: jax.Array) -> jax.Array:
    """The two best, the second only where 2 g2 > U(0, 1)."""
    p_GS2, expert_GS2 = assignment.largest(jax.nn.softmax(logits_GSE), 2)
    g2_GS1 = p_GS2[..., 1:] / p_GS2.sum(-1, keepdims=True)
    draw_GS1 = jax.random.uniform(key, g2_GS1.shape, out_sharding=sharding.out_sharding("GS."))
    second_GS1 = jnp.where(2 * g2_GS1 > draw_GS1, expert_GS2[..., 1:], logits_GSE.shape[-1])
    return jnp.concatenate([expert_GS2[..., :1], second_GS1], axis=-1)


def sampled(logits_GSE: jax.Array, key: jax.Array) -> jax.Array:
    """The best, and one drawn from p without it."""
    first_GS1 = assignment.largest(logits_GSE, 1)[1]
    noise_GSE = jax.random.gumbel(key, logits_GSE.shape, out_sharding=sharding.out_sharding("GSE"))
    is_first_GSE = first_GS1 == jnp.arange(logits_GSE.shape[-1])[None, None]
    second_GSE = jnp.where(is_first_GSE, -jnp.inf, logits_GSE + noise_GSE)
    return jnp.concatenate([first_GS1, assignment.largest(second_GSE, 1)[1]], axis=-1)


def second_best(logits_GSE: jax.Array, expert_GSK: jax.Array) -> jax.Array:
    """The largest logit but for the first expert's, [G, S, 1]."""
    is_first_GSE = expert_GSK[..., :1] == jnp.arange(logits_GSE.shape[-1])[None, None]
    return jnp.where(is_first_GSE, -jnp.inf, logits_GSE).max(-1, keepdims=True)


def check(config: contract.Experts) -> None:
    """Refuses what is not two experts."""
    if config.k != 2:
        raise UserError(f"experts.router='gshard' chooses two experts: set k=2, not k={config.k}")
    if config.options.second not in SECONDS:
        raise UserError(f"experts.options.second={config.options.second!r} is not one of {SECONDS}")


ROUTER = contract.Router(
    route,
    options=Options,
    common=top_k.LEARNED,
    losses={"balance": stats.first_choice_balance_loss, "z": stats.z_loss},
    check=check,
)
