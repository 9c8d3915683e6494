"""Hierarchical routing (Shazeer et al. 2017, appendix B): a groups of b experts, two noisy choices.

A primary gate chooses groups, each group's secondary gate experts inside it, both noisy top-k; the
gate of expert j of group i is G_i G_ij. Importance is made of these products. Load is
load_primary(i) load_i(j) / (tokens routed to i), where load_i counts those tokens alone.

Letters of this file: A groups of W experts; a token uses Q groups, and J experts in each.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from moe import sharding
from moe.errors import UserError
from moe.routing import assignment, contract, noisy_top_k, stats


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """The tree, and the paper's two losses."""

    groups: int = 2  # a
    groups_used: int = 1  # of which a token uses so many, and k / groups_used experts in each
    importance_weight: float = 0.1
    load_weight: float = 0.1


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to the best experts of its best groups."""
    o = settings.options
    (G, S) = inputs.mask_GS.shape
    A = o.groups
    Q = o.groups_used
    W = settings.num_experts // A
    J = settings.k // Q
    keys = jax.random.split(inputs.need("key")) if settings.train else (None, None)
    logits = inputs.logits
    clean_GSA = logits["primary"]
    clean_GSAW = by_group(logits["router"], A)
    noisy_GSA, sigma_GSA = noisy_top_k.noisy(clean_GSA, logits["primary_noise"], keys[0])
    noisy_GSE, sigma_GSE = noisy_top_k.noisy(logits["router"], logits["noise"], keys[1])
    noisy_GSAW = by_group(noisy_GSE, A)

    def choose() -> jax.Array:
        group_GSQ = assignment.largest(noisy_GSA, Q)[1]
        best_GSAJ = assignment.largest(noisy_GSAW, J)[1] + W * jnp.arange(A)[None, None, :, None]
        return flat(rows(best_GSAJ, group_GSQ))

    expert_GSK = inputs.chosen(choose)
    expert_GSQJ = sharding.reshape_tokens(expert_GSK, (G, S, Q, J))
    group_GSQ = expert_GSQJ[..., 0] // W
    noisy_GSQW = rows(noisy_GSAW, group_GSQ)
    inner_GSQJ = contract.gates(jax.nn.softmax(noisy_GSQW), noisy_GSQW, expert_GSQJ % W)
    outer_GSQ = contract.gates(jax.nn.softmax(noisy_GSA), noisy_GSA, group_GSQ)
    gate_GSQJ = outer_GSQ[..., None] * inner_GSQJ
    choice = contract.choice(inputs, settings, expert_GSK, flat(gate_GSQJ))

    sent_GSA = (group_GSQ[..., None] == jnp.arange(A)[None, None, None]).any(2)
    sent_GSA &= inputs.mask_GS[..., None]
    load_GSA = noisy_top_k.load(clean_GSA, noisy_GSA, sigma_GSA, Q) * inputs.mask_GS[..., None]
    load_GSAW = (
        noisy_top_k.load(clean_GSAW, noisy_GSAW, by_group(sigma_GSE, A), J) * sent_GSA[..., None]
    )
    sums = {
        "importance_E": noisy_top_k.importance(choice, settings.num_experts),
        "load_A": load_GSA.sum((0, 1)),
        "inside_AW": load_GSAW.sum((0, 1)),
        "sent_A": sent_GSA.sum((0, 1), dtype=jnp.float32),
    }
    p_GSAW = jax.nn.softmax(clean_GSA)[..., None] * jax.nn.softmax(clean_GSAW)
    return contract.RouterOutput(choice, flat(p_GSAW), sums=sums)


def by_group(x_GSE: jax.Array, groups: int) -> jax.Array:
    """x_GSE as x_GSAW: W experts in each of A groups."""
    (G, S, E) = x_GSE.shape
    return sharding.reshape_tokens(x_GSE, (G, S, groups, E // groups))


def flat(x: jax.Array) -> jax.Array:
    """The inverse of `by_group`, and of choices by group."""
    return sharding.reshape_tokens(x, (*x.shape[:2], x.shape[2] * x.shape[3]))


def rows(x_GSAW: jax.Array, group_GSQ: jax.Array) -> jax.Array:
    """x of each token's groups, [G, S, Q, ...]; 0 for the group that does not exist."""

    def take(x_GSAW: jax.Array, group_GSQ: jax.Array) -> jax.Array:
        index_GSQ1 = group_GSQ[..., None]
        return jnp.take_along_axis(x_GSAW, index_GSQ1, axis=2, mode="fill", fill_value=0)

    return sharding.map_groups(take)(x_GSAW, group_GSQ)


def load_loss(sums: stats.RouterStats) -> jax.Array:
    """CV^2 of the experts' loads (equation 18)."""
    own = sums.extra
    inside_AW = own["inside_AW"] / jnp.maximum(own["sent_A"], 1.0)[:, None]
    return stats.squared_variation((own["load_A"][:, None] * inside_AW).ravel())


def check(config: contract.Experts) -> None:
    """Refuses a tree in which a level has nothing to choose."""
    o = config.options
    whole = o.groups > o.groups_used > 0 and config.num_experts % o.groups == 0
    whole = whole and config.k % o.groups_used == 0
    if not whole or config.k // o.groups_used >= config.num_experts // o.groups:
        raise UserError(
            f"experts.router='hierarchical': experts.options.groups={o.groups} must divide"
            f" num_experts={config.num_experts} and experts.options.groups_used={o.groups_used}"
            f" k={config.k}; a token must leave out a group, and an expert of each of its groups"
        )


ROUTER = contract.Router(
    route,
    options=Options,
    common={"balance_weight": 0.0, "jitter": 0.0, "router_scale": 0.0},
    projections=lambda config: {
        "primary": config.options.groups,
        "primary_noise": config.options.groups,
        "router": config.num_experts,
        "noise": config.num_experts,
    },
    losses={
        "balance": stats.balance_loss,
        "importance": noisy_top_k.importance_loss,
        "load": load_loss,
    },
    check=check,
)
