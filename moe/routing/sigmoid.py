"""Sigmoid scores, balanced without a loss (Wang et al. 2024; DeepSeek-AI 2024, section 2.1.2).

s = sigmoid(logits). The K experts with the largest s + b are chosen; gates are s, normalised over
the chosen if K > 1, by log s: where all s are low, their sum would be 0 in float32. The bias b of
each expert only steers the choice and gets no gradient: after every step it moves by +-rate, up
where an expert got less than the mean load, down where more, from the counts of the whole batch.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from moe.errors import UserError
from moe.routing import contract, ranked, stats, top_k


@dataclass(frozen=True, kw_only=True)
class Options(ranked.Options):
    """How fast the bias moves."""

    bias_rate: float = 0.001  # 0 leaves the balance to the balance loss


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to its K largest biased scores."""
    logits_GSE = inputs.logits["router"]
    s_GSE = jax.nn.sigmoid(logits_GSE)
    log_s_GSE = jax.nn.log_sigmoid(logits_GSE)
    biased_GSE = jax.lax.stop_gradient(s_GSE) + inputs.held("bias")[None, None]
    routed = ranked.route(inputs, settings, biased_GSE, s_GSE, log_s_GSE)
    return routed._replace(p_GSE=jax.nn.softmax(log_s_GSE), logits_GSE=logits_GSE)


def state(model: contract.Model, seed: int, ids: np.ndarray | None) -> dict:
    """b of every layer and expert, 0 at first."""
    del seed, ids
    return {"bias": np.zeros((model.moe_layers, model.experts.num_experts), np.float32)}


def update(state: dict, sums: stats.RouterStats, options: Options) -> dict:
    """One move of the bias, [layers, E]."""
    load_LE = sums.chosen_KE.sum(-2)
    less_LE = jnp.sign(load_LE.mean(-1, keepdims=True) - load_LE)
    return {"bias": state["bias"] + options.bias_rate * less_LE}


def check(config: contract.Experts) -> None:
    """Refuses options that cannot hold."""
    ranked.check(config)
    if config.options.bias_rate < 0:
        raise UserError(
            f"experts.options.bias_rate={config.options.bias_rate} must not be negative"
        )


ROUTER = contract.Router(
    route,
    options=Options,
    common=top_k.LEARNED | {"balance_weight": 0.0, "z_weight": 0.0},
    losses=top_k.LOSSES,
    state=state,
    update=update,
    check=check,
    idle=ranked.idle,
)
