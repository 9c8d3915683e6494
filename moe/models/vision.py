"""V-MoE (Riquelme et al. 2021): a transformer that classifies images, experts in its last blocks.

An image is a row of patches. A matrix turns the pixels of each into a vector, and a vector for its
place, learned, is added (Dosovitskiy et al. 2021, section 3.1). The rest is `classifier`: no causal
mask, the mean of all patches, one logit per class. Experts in the last n of L blocks, the paper's
"Last-n" (section 2.2), are `moe_every=1` and `num_dense_layers=L - n`. Unlike the paper's, norms
are the decoder's RMSNorm, and no matrix has a bias.
"""

import functools
from dataclasses import dataclass

import flax.linen as nn
import jax

from moe import matmul, ranges, schema, sharding
from moe.execution import Execution
from moe.layers import attention, weights
from moe.models import classifier, contract

OF_TEXT = ("scale_embedding", "tie_embeddings", "mask_embedding", "ngram_rows")


@dataclass(frozen=True, kw_only=True)
class VisionConfig(classifier.ClassifierConfig):
    """The sizes of the trunk, the number of classes, and how images are cut."""

    num_patches: int  # T, of an image
    patch_width: int  # I, pixels of a patch, times the numbers of a pixel
    vocab_size: int = 0
    position: str = "none"  # of attention
    scale_embedding: bool = False
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        sizes = dict.fromkeys(("num_patches", "patch_width"), ranges.above_zero(ranges.SIZE))
        ranges.check(self, "model", sizes)
        super().__post_init__()
        for name in OF_TEXT:
            schema.require(
                not getattr(self, name),
                f"model.{name}={getattr(self, name)} does nothing with images: leave it out",
            )
        experts = self.experts
        schema.require(
            experts is None or not experts.routing.reads_ids,
            f"experts.router={experts and experts.router!r} goes by token ids, which patches do not"
            " have: choose another",
        )


class Vision(classifier.Classifier):
    """Patches to one logit per class, float32 [B, classes]."""

    config: VisionConfig

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        segment_BT: jax.Array,
        position_BT: jax.Array,
        train: bool,
        domain_BT: jax.Array | None = None,
        patches_BTI: jax.Array | None = None,
    ) -> jax.Array:
        del tokens_BT, domain_BT  # a patch has no id, and its domain is what is to be told
        assert patches_BTI is not None  # `contract` refuses a batch without
        info = attention.TokenInfo(segment_BT, position_BT)
        return self.classify(self.read(patches_BTI, position_BT), info, train)

    def read(self, patches_BTI: jax.Array, position_BT: jax.Array) -> jax.Array:
        """x_BTD of patches at their places."""
        c = self.config
        D, width = c.d_model, c.patch_width
        shape = width, D
        w_ID = weights.weight(self, "patches", ".D", shape, fan_in=width, scale=1.0, dtype=c.dtype)
        place_TD = weights.weight(self, "places", ".D", (c.num_patches, D), fan_in=D, scale=1.0)
        with jax.named_scope("embed"):
            x_BTD = matmul.einsum("BTI,ID->BTD", patches_BTI.astype(c.dtype), w_ID)
        placed_BTD = place_TD.at[position_BT].get(out_sharding=sharding.out_sharding("BTD"))
        return (x_BTD + placed_BTD).astype(c.dtype)


@functools.cache
def build(config: VisionConfig, execution: Execution) -> contract.Model:
    """The vision transformer of these sizes; `execution` says how a machine executes it."""
    ideal_flops = functools.partial(flops, config)
    return contract.of_network(config, Vision(config, execution), ideal_flops)


def flops(config: VisionConfig, length: int) -> dict[str, float]:
    """As of the classifier, and the matrix that reads patches: pixels get no gradient."""
    embed = 2.0 * 2 * config.patch_width * config.d_model
    return classifier.ideal_flops(config, length) | {"embed": embed}
