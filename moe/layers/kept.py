"""What layers with experts keep of earlier tokens in decoding, in the collection "cache"."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from moe import sharding
from moe.config import MoEConfig
from moe.routing import assignment


def carried(module: nn.Module, config: MoEConfig, groups: int) -> dict[str, nn.Variable]:
    """What its router keeps, of `Router.carried`; {} where nothing is decoded."""
    shapes = config.routing.carried
    if shapes is None or module.is_initializing() or not module.is_mutable_collection("cache"):
        return {}
    zeros = functools.partial(module.variable, "cache", init_fn=sharding.zeros)
    return {
        name: zeros(name, letters="G" + "." * x.ndim, shape=(groups, *x.shape), dtype=x.dtype)
        for name, x in shapes(config).items()
    }


def seated(
    module: nn.Module, config: MoEConfig, choice: assignment.TopKAssignment
) -> assignment.TopKAssignment:
    """The choices that a row has slots for: first come first served, as ever.

    How many of a text's choices each expert has taken is kept.
    """
    E = config.num_experts
    G, S, K = choice.expert_GSK.shape
    is_GPE = choice.expert_GSK.reshape(G, S * K)[..., None] == jnp.arange(E)[None, None]
    taken = module.variable("cache", "taken", sharding.zeros, "G.", (G, E))
    come_GPE = taken.value[:, None] + jnp.cumsum(is_GPE, axis=1)
    taken.value = come_GPE[:, -1]
    place_GP = jnp.where(is_GPE, come_GPE, 0).sum(-1)
    kept_GSK = (place_GP <= config.seats).reshape(G, S, K)
    return assignment.TopKAssignment(
        jnp.where(kept_GSK, choice.expert_GSK, E), choice.gate_GSK * kept_GSK
    )
