"""Hash routing: a token's id alone decides (Roller et al. 2021, section 3).

A table, fixed before training, maps ids to experts; there are no weights, no losses, and the gate
is 1. The tables of a model's layers are drawn apart. Variants:

- `random`: uniform;
- `balanced`: the most frequent id first, each to an expert with room in its even share, the
  lightest if none has (the paper: always the lightest; a draw keeps MultiHash's tables apart);
- `clustered`: k-means of embeddings, so that alike ids share an expert. The paper clusters those
  of a trained Transformer; ours come from the training text itself, so that nothing has to be
  trained: singular vectors of the ids' co-occurrence (`tables.embeddings`);
- K > 1 is MultiHash: the experts lie in K banks of E / K, and a token uses one of each bank by K
  tables. With experts of width F / K these are K slices of one of width F.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from moe import sharding
from moe.errors import UserError
from moe.routing import contract, tables

TABLES = {"random": tables.uniform, "balanced": tables.balanced, "clustered": tables.clustered}


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """Which table."""

    table: str = "random"


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token where its id's row of the table says."""
    expert_GSK = inputs.chosen(lambda: look_up(inputs.held("table"), inputs.need("ids_GS")))
    gate_GSK = jnp.ones_like(expert_GSK, jnp.float32)
    return contract.RouterOutput(contract.choice(inputs, settings, expert_GSK, gate_GSK))


def look_up(table_VK: jax.Array, ids_GS: jax.Array) -> jax.Array:
    """The rows of a replicated table at ids that are spread over the mesh."""

    def take(table: jax.Array, ids: jax.Array) -> jax.Array:
        return jnp.take(table, ids, axis=0, mode="clip")

    return sharding.shard_mapped(take, ("..", "GS"), "GS.")(table_VK, ids_GS)


def state(model: contract.Model, seed: int, ids: np.ndarray | None) -> dict:
    """The tables, int32 [layers, V, K]."""
    config = model.experts
    make = TABLES[config.options.table]
    bank = config.num_experts // config.k
    rng = np.random.default_rng(seed)
    ids = np.arange(model.vocab_size) if ids is None else np.asarray(ids)
    drawn = [
        [make(rng, ids, model.vocab_size, bank) + k * bank for k in range(config.k)]
        for _ in range(model.moe_layers)
    ]
    return {"table": np.stack(drawn).swapaxes(1, 2).astype(np.int32)}


def check(config: contract.Experts) -> None:
    """Refuses an unknown table, and banks that are not equally large."""
    if config.options.table not in TABLES:
        raise UserError(
            f"experts.options.table={config.options.table!r} is not one of {list(TABLES)}"
        )
    if config.num_experts % config.k:
        raise UserError(
            f"experts.router='hash' needs k={config.k} banks of experts of one size: num_experts="
            f"{config.num_experts} is not a multiple"
        )


ROUTER = contract.Router(
    route,
    options=Options,
    projections=contract.no_projection,
    reads_ids=True,
    state=state,
    check=check,
)
