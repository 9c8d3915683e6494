"""How a machine executes a model: which kernels compute it, and how tokens cross its mesh."""

from collections.abc import Callable
from typing import NamedTuple

import jax

# Names of what a recomputed block may keep.
PRODUCT = "product"  # of tokens with weights
CROSSED = "crossed"  # slots that came over the mesh
REMAT_POLICIES: dict[str, Callable | None] = {
    "full": None,
    "products": jax.checkpoint_policies.save_only_these_names(PRODUCT, CROSSED),
}


class Execution(NamedTuple):
    """Choices of speed: no result depends on them, but for a buffer that is too small.

    They belong to a machine and not to a model, so they stand beside a model's config.
    """

    transport: str = "all_to_all"  # of slots across 'expert', see `moe.dispatch.transport`
    implementation: str = "blocks"  # of the dropless dispatcher, see `moe.dispatch.grouped`
    ep_capacity_factor: float = 2.0  # of its buffers across 'expert', times the even share
    attention: str = "plain"  # of training and scoring, see `moe.layers.attention_kernels`
    remat_policy: str = (
        "full"  # what blocks keep that `model.remat` recomputes: nothing, or products
    )
    watched: bool = False  # do records hold what MoE layers read?
