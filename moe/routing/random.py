"""Random routing: K distinct experts drawn uniformly for each token, each with gate 1 / K.

The draw is new at every step, from the step's key, so that no expert comes to own any kind of
token; in evaluation it is so, too, unless `fixed_in_evaluation` sends every batch by one draw. It
shows what noise in training costs, not what parameters without a choice are worth: for that,
compare with a router whose table is fixed (`hash`).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from moe import sharding
from moe.routing import assignment, contract

FIXED = 0  # the seed of the draw of evaluation, if it is one


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """When to draw anew."""

    fixed_in_evaluation: bool = False


def route(
    inputs: contract.RouterInputs, settings: contract.RouterSettings
) -> contract.RouterOutput:
    """Sends each token to K distinct random experts."""

    def choose() -> jax.Array:
        shape = (*inputs.mask_GS.shape, settings.num_experts)
        layout = sharding.out_sharding("GSE")
        fixed = settings.options.fixed_in_evaluation and not settings.train
        key = jax.random.key(FIXED) if fixed else inputs.need("key")
        score_GSE = jax.random.uniform(key, shape, out_sharding=layout)
        return assignment.largest(score_GSE, settings.k)[1]

    expert_GSK = inputs.chosen(choose)
    gate_GSK = jnp.full_like(expert_GSK, 1 / settings.k, jnp.float32)
    return contract.RouterOutput(contract.choice(inputs, settings, expert_GSK, gate_GSK))


ROUTER = contract.Router(route, options=Options, projections=contract.no_projection)
