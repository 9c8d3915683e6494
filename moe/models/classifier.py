"""An encoder that classifies whole rows: the decoder's trunk without a causal mask, and a mean.

The vectors of a row's real tokens are averaged after the last norm, and a matrix turns the mean
into one logit per class.
"""

import functools
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import ranges
from moe.config import ModelConfig
from moe.execution import Execution
from moe.layers import attention, weights
from moe.models import contract, decoder, ideal


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(ModelConfig):
    """The sizes of the trunk, and how many classes there are."""

    num_classes: int
    causal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges.check(self, "model", {"num_classes": ranges.above_zero(ranges.COUNT)})


class Classifier(decoder.Trunk):
    """Token ids to one logit per class, float32 [B, classes]."""

    config: ClassifierConfig

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        segment_BT: jax.Array,
        position_BT: jax.Array,
        train: bool,
        domain_BT: jax.Array | None = None,
    ) -> jax.Array:
        info = attention.TokenInfo(segment_BT, position_BT, tokens_BT, domain_BT)
        return self.classify(self.embed(info)[0], info, train)

    def classify(self, x_BTD: jax.Array, info: attention.TokenInfo, train: bool) -> jax.Array:
        """Vectors of tokens, or of patches, to the logits [B, classes]."""
        c = self.config
        D = c.d_model
        x_BTD = decoder.norm(c, "norm")(self.layers(x_BTD, info, train))
        with jax.named_scope("head"):
            mean_BD = mean_of_real(x_BTD.astype(jnp.float32), info.segment_BT > 0)
            w_DV = weights.weight(self, "head", "D.", (D, c.num_classes), fan_in=D, scale=1.0)
            return jnp.einsum("BD,DV->BV", mean_BD, w_DV)


def mean_of_real(x_BTD: jax.Array, real_BT: jax.Array) -> jax.Array:
    """The mean of each row's real tokens, [B, D]; zeros for a row of padding."""
    number_B1 = jnp.maximum(real_BT.sum(1, keepdims=True), 1)
    return jnp.where(real_BT[..., None], x_BTD, 0).sum(1) / number_B1


@functools.cache
def build(config: ClassifierConfig, execution: Execution) -> contract.Model:
    """The classifier of these sizes; `execution` says how a machine executes it."""
    return contract.of_network(
        config, Classifier(config, execution), functools.partial(ideal_flops, config)
    )


def ideal_flops(config: ClassifierConfig, length: int) -> dict[str, float]:
    """As of the decoder, but for the head, which is applied once a row."""
    head = 3.0 * 2 * config.d_model * config.num_classes / length
    return ideal.flops(config, length) | {"head": head}
