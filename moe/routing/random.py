"""Random routing, the control: what would as many parameters buy if nobody chose?

Each token goes to K distinct experts drawn uniformly, each with gate 1 / K. The draw is
new at every step, from the step's key, in evaluation too: an expert cannot come to own
any kind of token.
"""

import jax
import jax.numpy as jnp

from moe import sharding
from moe.routing import assignment, contract


def route(seen: contract.Seen, setting: contract.Setting) -> contract.Routed:
    """Sends each token to K distinct random experts."""

    def choose():
        shape = (*seen.mask_GS.shape, setting.experts)
        score_GSE = jax.random.uniform(seen.key, shape, out_sharding=sharding.out("GSE"))
        return assignment.largest(score_GSE, setting.k)[1]

    expert_GSK = seen.chosen(choose)
    gate_GSK = jnp.full_like(expert_GSK, 1 / setting.k, jnp.float32)
    return contract.Routed(contract.choice(seen, setting, expert_GSK, gate_GSK))


ROUTER = contract.Router(route, matrices=contract.no_matrix)
