"""Random routed experts (PanGu-Sigma; Ren et al. 2023, section 2.2): domain first, then a table.

The experts lie in `groups` of equal size, one for each domain; inside its domain's group a token
goes where a fixed random table, one for each layer, sends its id. K = 1, the gate is 1: no weights,
no losses. A domain's experts and their table are a model of their own.
"""

from dataclasses import dataclass

import jax
import numpy as np

from moe.errors import UserError
from moe.routing import contract, hashed, tables


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """How experts are shared out."""

    groups: int = 1  # of experts, one for each domain of the data


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to one expert of its domain."""
    size = settings.num_experts // settings.options.groups

    def choose() -> jax.Array:
        inside_GS1 = hashed.look_up(inputs.held("table"), inputs.need("ids_GS"))
        return inputs.need("domain_GS")[..., None] * size + inside_GS1

    gate_GSK = contract.no_choice(inputs) + 1.0
    return contract.RouterOutput(contract.choice(inputs, settings, inputs.chosen(choose), gate_GSK))


def state(model: contract.Model, seed: int, ids: np.ndarray | None) -> dict:
    """The tables, int32 [layers, V, 1]: ids to places inside a group."""
    config = model.experts
    rng = np.random.default_rng(seed)
    size = config.num_experts // config.options.groups
    rows = [tables.uniform(rng, ids, model.vocab_size, size) for _ in range(model.moe_layers)]
    return {"table": np.stack(rows)[..., None].astype(np.int32)}


def check(config: contract.Experts) -> None:
    """Refuses groups that are not equally large."""
    groups = config.options.groups
    if config.k != 1 or groups < 1 or config.num_experts % groups:
        raise UserError(
            f"experts.router='rre' gives a token one expert: k=1, not {config.k};"
            f" experts.options.groups={groups} must divide num_experts={config.num_experts}"
        )


ROUTER = contract.Router(
    route,
    options=Options,
    projections=contract.no_projection,
    reads_ids=True,
    state=state,
    domains=lambda config: config.options.groups,
    check=check,
)
