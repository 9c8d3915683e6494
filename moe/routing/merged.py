"""Top-k over more columns than experts: the router of experts that were merged.

The router keeps the columns that it was trained with, and a table says which expert each leads to
(Li et al. 2023, "Merge, Then Compress", section 3.2). So a token is routed as before; where two of
its columns lead to one expert, that expert's gate is the sum of theirs. See `moe.adapt.merge`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from moe import sharding
from moe.errors import UserError
from moe.routing import assignment, contract, stats, top_k


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """What is left of the router before."""

    columns: int = 0  # 0: one for each expert
    normalise_gates: bool | None = None  # see `ranked.Options`


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token where its K most probable columns lead.

    Of a replayed choice the gate is 0 where none of these columns leads to it.
    """
    E = settings.num_experts
    logits_GSR = inputs.logits["router"]
    log_p_GSR = jax.nn.log_softmax(logits_GSR)
    table_R = inputs.held("expert")
    column_GSK = assignment.largest(log_p_GSR, settings.k)[1]
    target_GSK = _look_up(table_R, column_GSK)
    leads_GSKE = target_GSK[..., None] == jnp.arange(E)[None, None, None]
    lowest = jnp.finfo(log_p_GSR.dtype).min
    log_p_GSK1 = contract.pick(log_p_GSR, column_GSK)[..., None]
    log_affinity_GSE = jax.nn.logsumexp(jnp.where(leads_GSKE, log_p_GSK1, lowest), axis=2)
    expert_GSK = inputs.chosen(lambda: jnp.where(_first(target_GSK), target_GSK, E))
    gate_GSK = contract.gates(
        jnp.exp(log_affinity_GSE), log_affinity_GSE, expert_GSK, settings.options.normalise_gates
    )
    leads_RE = (table_R[:, None] == jnp.arange(E)[None]).astype(jnp.float32)
    p_GSE = jnp.einsum(
        "GSR,RE->GSE", jnp.exp(log_p_GSR), leads_RE, out_sharding=sharding.out_sharding("GSE")
    )
    choice = contract.choice(inputs, settings, expert_GSK, gate_GSK)
    return contract.RouterOutput(choice, p_GSE, logits_GSR)


def _look_up(table_R, column_GSK):
    def take(table: jax.Array, columns: jax.Array) -> jax.Array:
        return table[columns]

    return sharding.shard_mapped(take, (".", "GS."), "GS.")(table_R, column_GSK)


def _first(target_GSK):
    """Has no better column of the token the same target?"""
    K = target_GSK.shape[-1]
    same_GSKJ = target_GSK[..., :, None] == target_GSK[..., None, :]
    return ~(same_GSKJ & jnp.tri(K, k=-1, dtype=bool)[None, None]).any(-1)


def columns(config: contract.Experts) -> int:
    """R."""
    found: int = config.options.columns or config.num_experts
    return found


def state(model: contract.Model, seed: int, ids: np.ndarray | None) -> dict:
    """The expert of every column, int32 [layers, R]; before anything is merged, in turn."""
    del seed, ids
    config = model.experts
    expert_R = np.arange(columns(config)) % config.num_experts
    return {"expert": np.tile(expert_R.astype(np.int32), (model.moe_layers, 1))}


def check(config: contract.Experts) -> None:
    """Refuses fewer columns than experts."""
    if columns(config) < config.num_experts:
        raise UserError(
            f"experts.options.columns={config.options.columns} is less than num_experts="
            f"{config.num_experts}: some experts would have no column. Raise it, or leave it at 0"
        )


ROUTER = contract.Router(
    route,
    options=Options,
    common=top_k.LEARNED,
    losses={"balance": stats.balance_loss, "z": stats.z_loss},
    projections=lambda config: {"router": columns(config)},
    state=state,
    check=check,
)
