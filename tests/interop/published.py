"""What a published checkpoint computes here, from the ids that `make_goldens` gives it there."""

import jax
import numpy as np

from moe import models
from moe.batch import Batch, Inputs


def logits(config: object, params: dict, given: dict[str, np.ndarray]) -> np.ndarray:
    """[B, T, V] of rows that are one document each.

    Args:
      config, params: of `interop.load`.
      given: `input_ids`, and `decoder_input_ids` of a model with an encoder.
    """
    inputs = _placed(given["input_ids"])
    batch = Batch(inputs[0], *inputs)
    if "decoder_input_ids" in given:
        own = _placed(given["decoder_input_ids"])
        batch = Batch(own[0], *own, encoder=Inputs(*inputs))
    model = models.build(config)

    def forward(params: dict, batch: Batch) -> jax.Array:
        return model.apply(params, {}, batch, key=jax.random.key(0), train=False).logits

    return np.asarray(jax.jit(forward)(params, batch))


def _placed(ids_BT):
    """With segments and positions."""
    return ids_BT, np.ones_like(ids_BT), np.broadcast_to(np.arange(ids_BT.shape[1]), ids_BT.shape)
