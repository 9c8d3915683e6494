"""Random routing, the control: what would as many parameters buy if nobody chose?

Each token goes to K distinct experts drawn uniformly, each with gate 1 / K. The draw is
new at every step, from the step's key, in evaluation too: an expert cannot come to own
any kind of token.
"""

import jax
import jax.numpy as jnp

from moe import sharding
from moe.routing import assignment, contract


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to K distinct random experts."""

    def choose():
        shape = (*inputs.mask_GS.shape, settings.num_experts)
        score_GSE = jax.random.uniform(inputs.key, shape, out_sharding=sharding.out_sharding("GSE"))
        return assignment.largest(score_GSE, settings.k)[1]

    expert_GSK = inputs.chosen(choose)
    gate_GSK = jnp.full_like(expert_GSK, 1 / settings.k, jnp.float32)
    return contract.RouterOutput(contract.choice(inputs, settings, expert_GSK, gate_GSK))


ROUTER = contract.Router(route, projections=contract.no_projection)
