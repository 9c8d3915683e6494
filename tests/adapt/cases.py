"""Small models whose experts are changed, and what they say of a batch."""

import jax.numpy as jnp
import numpy as np

from moe import sharding
from moe.adapt.banks import Trained
from tests import tiny


def trained(seed=0, experts=(), **changes) -> Trained:
    """Four layers, two of them MoE with 8 experts, with room for every token."""
    some = {"num_experts": 8, "k": 2, "capacity_factor": 8.0, "eval_capacity_factor": 8.0}
    config = tiny.model(num_layers=4, experts=tiny.moe_config(**some | dict(experts)), **changes)
    return Trained(config, tiny.params(config, seed), tiny.routing_state(config))


def logits(found: Trained, batch=None) -> np.ndarray:
    """What a model says of the real tokens."""
    batch = tiny.inputs() if batch is None else batch
    placed = sharding.shard_batch(batch)
    logits_BTV = tiny.output(found.model, found.params, found.router_state, placed).logits
    return np.asarray(logits_BTV)[np.asarray(batch.segment_BT) > 0]


def with_experts(found: Trained, change) -> Trained:
    """The same with change(name, w) for every matrix of the experts."""
    block = found.params["block"]
    moe = block["layer_1"]["moe"]
    made = {name: jnp.asarray(change(name, np.asarray(w))) for name, w in moe["experts"].items()}
    layer = block["layer_1"] | {"moe": moe | {"experts": made}}
    return found._replace(params=found.params | {"block": block | {"layer_1": layer}})
