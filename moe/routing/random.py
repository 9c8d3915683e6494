"""Random routing, the control: what would as many parameters buy if nobody chose?

Each token goes to K distinct experts drawn uniformly, each with gate 1 / K. The draw is
new at every step, from the step's key, in evaluation too: an expert cannot come to own
any kind of token.
"""

import jax
import jax.numpy as jnp

from moe import sharding
from moe.routing import assignment


def choose(logits_GSE, mask_GS, k, key) -> assignment.Choice:
    """Sends each token to K distinct random experts; only the shape of the logits is read."""
    score_GSE = jax.random.uniform(key, logits_GSE.shape, out_sharding=sharding.out("GSE"))
    expert_GSK = assignment.largest(score_GSE, k)[1]
    mask_GS1 = mask_GS[..., None]
    return assignment.Choice(
        jnp.where(mask_GS1, expert_GSK, logits_GSE.shape[-1]).astype(jnp.int32),
        jnp.where(mask_GS1, jnp.full(expert_GSK.shape, 1 / k), 0.0),
    )
