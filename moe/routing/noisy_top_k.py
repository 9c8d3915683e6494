"""Noisy top-k routing (Shazeer et al. 2017, section 2.1 and appendix A).

H = x W_g + eps * softplus(x W_n) with eps ~ N(0, 1) in training; the K largest are kept and the
gates are a softmax over them. Both matrices start at zero, so that at first noise alone decides;
a hundredth is added to the deviation, which could otherwise be zero.
Two losses keep experts busy: CV^2 of importance (sums of gates) and CV^2 of load, a smooth count of
tokens: the probability, over new noise, that a token would choose the expert.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from moe import sharding
from moe.errors import UserError
from moe.routing import assignment, contract, stats


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """The paper's two losses."""

    importance_weight: float = 0.1
    load_weight: float = 0.1


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to the K largest of its noisy scores."""
    clean_GSE = inputs.logits["router"]
    raw_GSE = inputs.logits["noise"]
    key = inputs.need("key") if settings.train else None
    noisy_GSE, sigma_GSE = noisy(clean_GSE, raw_GSE, key)
    expert_GSK = inputs.chosen(lambda: assignment.largest(noisy_GSE, settings.k)[1])
    gate_GSK = contract.gates(jax.nn.softmax(noisy_GSE), noisy_GSE, expert_GSK)
    choice = contract.choice(inputs, settings, expert_GSK, gate_GSK)
    real_GS1 = inputs.mask_GS[..., None]
    load_GSE = load(clean_GSE, noisy_GSE, sigma_GSE, settings.k)
    sums = {
        "importance_E": importance(choice, settings.num_experts),
        "load_E": (load_GSE * real_GS1).sum((0, 1)),
    }
    return contract.RouterOutput(choice, jax.nn.softmax(clean_GSE), clean_GSE, sums=sums)


def noisy(
    clean_GSE: jax.Array, raw_GSE: jax.Array, key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """(noisy scores, standard deviation of the noise); clean scores without a key."""
    sigma_GSE = jax.nn.softplus(raw_GSE) + 1e-2
    if key is None:
        return clean_GSE, sigma_GSE
    eps_GSE = jax.random.normal(key, clean_GSE.shape, out_sharding=sharding.out_sharding("GSE"))
    return clean_GSE + eps_GSE * sigma_GSE, sigma_GSE


def load(clean_GSE: jax.Array, noisy_GSE: jax.Array, sigma_GSE: jax.Array, k: int) -> jax.Array:
    """P(x, e), the probability that e is chosen if its noise alone were drawn again (equation 9).

    Phi((clean_e - threshold) / sigma_e), where the threshold is the K-th largest noisy score among
    the other experts. Needs E > K.
    """
    top_GSK, index_GSK = assignment.largest(noisy_GSE, k + 1)
    last_GS1 = top_GSK[..., k - 1 : k]
    next_GS1 = top_GSK[..., k:]
    # By index: a score that is computed twice may be rounded differently, and not equal itself.
    chosen_GSE = jax.nn.one_hot(index_GSK[..., :k], noisy_GSE.shape[-1], dtype=bool).any(-2)
    threshold_GSE = jnp.where(chosen_GSE, next_GS1, last_GS1)
    return jax.scipy.stats.norm.cdf((clean_GSE - threshold_GSE) / sigma_GSE)


def importance(choice: assignment.TopKAssignment, experts: int) -> jax.Array:
    """Sum of gates by expert (equation 6)."""
    chosen_GSKE = choice.expert_GSK[..., None] == jnp.arange(experts)[None, None, None]
    return (chosen_GSKE * choice.gate_GSK[..., None]).sum((0, 1, 2))


def importance_loss(sums: stats.RouterStats) -> jax.Array:
    """CV^2 of importance (equation 7)."""
    return stats.squared_variation(sums.extra["importance_E"])


def load_loss(sums: stats.RouterStats) -> jax.Array:
    """CV^2 of load (equation 11)."""
    return stats.squared_variation(sums.extra["load_E"])


def check(config: contract.Experts) -> None:
    """Refuses K for which gates or loads mean nothing."""
    if not 2 <= config.k < config.num_experts:
        raise UserError(
            f"experts.router='noisy_top_k' needs 2 <= k < num_experts={config.num_experts}, not"
            f" k={config.k}: a softmax over one expert is always 1, and a load needs one expert"
            " left out"
        )


ROUTER = contract.Router(
    route,
    options=Options,
    common={"balance_weight": 0.0, "z_weight": 0.0, "jitter": 0.0, "router_scale": 0.0},
    projections=lambda config: {"router": config.num_experts, "noise": config.num_experts},
    losses={
        "balance": stats.balance_loss,
        "z": stats.z_loss,
        "importance": importance_loss,
        "load": load_loss,
    },
    check=check,
)
