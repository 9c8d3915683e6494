"""One model out of several of one architecture: the weighted mean of their parameters.

Models that began from one seed phase and were trained apart have a mean that works (Li et al. 2022,
"Branch-Train-Merge", section 3.3; Wortsman et al. 2022).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from moe import schema
from moe.adapt.banks import Trained

ROUNDING = 1e-5


def averaged(models: Sequence[Trained], weights: Sequence[float]) -> Trained:
    """The model whose parameters are the mean of theirs.

    Args:
      models: of one config.
      weights: one for each; they sum to 1.

    Raises:
      UserError: for models that differ, or weights that are no such ones.
    """
    schema.require(
        len(models) > 0 and all(one.model == models[0].model for one in models),
        "expected models of one size and settings to be averaged",
    )
    schema.require(
        len(weights) == len(models) and abs(sum(weights) - 1) < ROUNDING and min(weights) >= 0,
        f"expected {len(models)} weights from 0 that sum to 1; got {list(weights)}",
    )

    def mean(*parts: jax.Array) -> jax.Array:
        return sum((w * x for w, x in zip(weights, parts, strict=True)), jnp.zeros(()))

    params = jax.tree.map(mean, *(one.params for one in models))
    return models[0]._replace(params=params)
