"""Random routing: K distinct experts drawn uniformly for each token, each with gate 1 / K.

The draw is new at every step, from the step's key, in evaluation too, so that no expert comes to
own any kind of token. It shows what such noise costs, not what parameters without a choice are
worth: for that, compare with a router whose table is fixed (`hash`).
"""

import jax
import jax.numpy as jnp

from moe import sharding
from moe.routing import assignment, contract


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to K distinct random experts."""

    def choose() -> jax.Array:
        shape = (*inputs.mask_GS.shape, settings.num_experts)
        layout = sharding.out_sharding("GSE")
        score_GSE = jax.random.uniform(inputs.need("key"), shape, out_sharding=layout)
        return assignment.largest(score_GSE, settings.k)[1]

    expert_GSK = inputs.chosen(choose)
    gate_GSK = jnp.full_like(expert_GSK, 1 / settings.k, jnp.float32)
    return contract.RouterOutput(contract.choice(inputs, settings, expert_GSK, gate_GSK))


ROUTER = contract.Router(route, projections=contract.no_projection)
