"""PairRanker: two candidates and what they answer, read together, to a score of each.

Jiang et al. 2023, "LLM-Blender" (arXiv 2306.02561), section 3.1. The layers are the decoder's, but
every token sees all others: <source> x <candidate1> y <candidate2> y'. The marks are vectors of
their own. That of the source beside that of a candidate go through a hidden layer with tanh to the
candidate's score, which is above 0 where it is held for the better one.

Letters of this file: J marks, or candidates; X twice the width.
"""

import functools
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import schema
from moe.config import ModelConfig
from moe.execution import Execution
from moe.layers import attention, weights
from moe.models import contract, decoder, ideal

SOURCE, FIRST, SECOND = MARKS = (-2, -3, -4)  # ids that stand for them; -1 is no token


@dataclass(frozen=True, kw_only=True)
class PairRankerConfig(ModelConfig):
    """The sizes of the trunk."""

    OBJECTIVE: ClassVar[str] = "pair_ranking"  # what it is made for

    causal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        schema.require(
            not (self.causal or self.mask_embedding),
            "model.causal and model.mask_embedding: a ranker of pairs reads both ways, and nothing"
            " is masked. Leave them out",
        )


class PairRanker(decoder.Trunk):
    """Token ids to the scores of both candidates, float32 [B, 2]."""

    config: PairRankerConfig

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        segment_BT: jax.Array,
        position_BT: jax.Array,
        train: bool,
        domain_BT: jax.Array | None = None,
    ) -> jax.Array:
        c = self.config
        D = c.d_model
        is_mark_BTJ = (tokens_BT[..., None] == jnp.array(MARKS)[None, None]).astype(c.dtype)
        info = attention.TokenInfo(segment_BT, position_BT, jnp.maximum(tokens_BT, 0), domain_BT)
        x_BTD, _ = self.embed(info)
        # Of variance 1, as embeddings are when they have been scaled.
        w_JD = weights.weight(self, "marks", ".D", (len(MARKS), D), fan_in=1, scale=1.0)
        mark_BTD = jnp.einsum("BTJ,JD->BTD", is_mark_BTJ, w_JD.astype(c.dtype))
        x_BTD = jnp.where(tokens_BT[..., None] < 0, mark_BTD, x_BTD)
        x_BTD = decoder.norm(c, "norm")(self.layers(x_BTD, info, train))
        with jax.named_scope("head"):
            mark_BJD = jnp.einsum("BTJ,BTD->BJD", is_mark_BTJ, x_BTD).astype(jnp.float32)
            both_BJX = jnp.concatenate([mark_BJD[:, :1].repeat(2, 1), mark_BJD[:, 1:]], axis=-1)
            w_XD = weights.weight(self, "pair", ".D", (2 * D, D), fan_in=2 * D, scale=1.0)
            w_D1 = weights.weight(self, "score", "D.", (D, 1), fan_in=D, scale=1.0)
            hidden_BJD = jnp.tanh(jnp.einsum("BJX,XD->BJD", both_BJX, w_XD))
            return jnp.einsum("BJD,D->BJ", hidden_BJD, w_D1[:, 0])


@functools.cache
def build(config: PairRankerConfig, execution: Execution) -> contract.Model:
    """The ranker of these sizes; `execution` says how a machine executes it."""
    network = PairRanker(config, execution)
    return contract.of_network(config, network, functools.partial(ideal_flops, config))


def ideal_flops(config: PairRankerConfig, length: int) -> dict[str, float]:
    """As of the decoder, but for the head, which is applied twice a row."""
    D = config.d_model
    head = 3.0 * 2 * 2 * (2 * D * D + D) / length
    return ideal.flops(config, length) | {"head": head}
