"""The encoder-decoder of T5 (Raffel et al. 2020) and of Switch (Fedus et al. 2021).

Both stacks are the decoder's own layers: pre-norm, MoE in every n-th of both. The encoder sees all
of its document; the decoder sees its past, and in a second attention of each layer the encoder's
output, without positions. A stack shares one table of relative positions. T5 does not scale scores
or embeddings, and with a tied head divides the last vectors by sqrt(D).

In the encoder a token may be dropped for a later one, so slots may go by probability there
(`encoder_batch_priority`); in the decoder they go by position.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import ranges, schema
from moe.attention_config import AttentionConfig
from moe.batch import Inputs
from moe.config import ModelConfig
from moe.execution import Execution
from moe.layers import attention, embedding, relative
from moe.models import contract, decoder, ideal, scanning


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(ModelConfig):
    """`num_layers` are the decoder's; both stacks have the same widths and experts."""

    position: str = "relative"
    attention: AttentionConfig = AttentionConfig(scaled=False)
    scale_embedding: bool = False
    encoder_layers: int = 0  # 0 is num_layers
    scale_head: bool = True  # vectors are divided by sqrt(D) before the head: T5 1.0 and Switch
    encoder_batch_priority: bool = False  # the encoder's slots go by probability, not by position

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges.check(self, "model", {"encoder_layers": ranges.from_zero(100_000)})
        schema.require(self.causal, "model.causal=False: a decoder sees its past; leave it out")
        schema.require(
            not (self.mask_embedding or self.ngram_rows),
            "model.mask_embedding and model.ngram_rows are for models of one stack: leave them out",
        )
        router = self.experts.router if self.experts else None
        schema.require(
            router != "reinforce" and not self.reads_domains,
            f"experts.router={router!r} needs one reward or domain for each token: an encoder's"
            " tokens have none. Choose another",
        )
        schema.require(
            not self.encoder_batch_priority or hasattr(self._options, "batch_priority"),
            "model.encoder_batch_priority=True needs a router with the option batch_priority",
        )
        self.stacks  # noqa: B018, what cannot be is refused here

    @property
    def _options(self):
        return self.experts.options if self.experts else None

    @property
    def stacks(self) -> dict[str, ModelConfig]:
        """Both, in the order of their names."""
        return _stacks(self)

    @property
    def moe_layers(self) -> int:
        """Of both stacks."""
        return sum(stack.moe_layers for stack in self.stacks.values())

    @property
    def dense_layers(self) -> int:
        """Of both stacks."""
        return sum(stack.dense_layers for stack in self.stacks.values())


@functools.cache
def _stacks(config):
    own: dict[str, Any] = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(ModelConfig)
    }
    experts = config.experts
    if experts and config.encoder_batch_priority:
        options = dataclasses.replace(experts.options, batch_priority=True)
        experts = experts.derived(options=options)
    changes: dict[str, Any] = {
        "num_layers": config.encoder_layers or config.num_layers,
        "experts": experts,
    }
    changes |= {"causal": False, "allow_noncausal": True}
    return {"decoder": ModelConfig(**own), "encoder": ModelConfig(**own | changes)}


class Trunk(decoder.Trunk):
    """What both modules of this file have in common."""

    config: EncoderDecoderConfig

    @property
    def embedding_scale(self) -> float:
        """As vectors enter the layers they have variance 1, with embeddings scaled or not."""
        return 1.0 if self.config.scale_embedding else float(self.config.d_model)


class Stack(decoder.Trunk):
    """x_BTD to normalised y_BTD through the layers, with positions of its own."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array, info: attention.TokenInfo, train: bool) -> jax.Array:
        c = self.config
        if c.position == "relative":
            info = info._replace(table_NX=relative.table(self, c.num_heads))
        return decoder.norm(c, "norm")(self.layers(x_BTD, info, train))


class Encoder(Trunk):
    """What the encoder makes of its inputs; the parameters are those of `EncoderDecoder`."""

    @nn.compact
    def __call__(self, inputs: Inputs, train: bool) -> attention.Context:
        info = token_info(inputs)
        x_BUD, _ = self.embed(info)
        return attention.Context(stack(self, "encoder")(x_BUD, info, train), info)


class EncoderDecoder(Trunk):
    """Token ids of both sides to an `embedding.Head` of the decoder's.

    With a `context`, that of `Encoder`, instead of the encoder's inputs.
    """

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        segment_BT: jax.Array,
        position_BT: jax.Array,
        train: bool,
        domain_BT: jax.Array | None = None,
        kv_cache: attention.KVCache | None = None,
        *,
        encoder: Inputs | None = None,
        context: attention.Context | None = None,
    ) -> embedding.Head:
        del domain_BT
        c = self.config
        info = attention.TokenInfo(segment_BT, position_BT, tokens_BT, kv_cache=kv_cache)
        x_BTD, embed_VD = self.embed(info)
        if context is None:
            assert encoder is not None  # the contract's `apply` sees to it
            read = token_info(encoder)
            x_BUD = stack(self, "encoder")(self.vectors(embed_VD, read), read, train)
            context = attention.Context(x_BUD, read)
        x_BTD = stack(self, "decoder")(x_BTD, info._replace(context=context), train)
        with jax.named_scope("head"):
            if c.scale_head:
                x_BTD = x_BTD * c.d_model**-0.5
            return embedding.Head(x_BTD, self.head_weight(embed_VD))


def stack(module: decoder.Trunk, name: str) -> Stack:
    """One of both, under its name inside the module."""
    config = module.config.stacks[name]
    return Stack(config, module.execution, module.scanned, name=name)


def token_info(inputs: Inputs) -> attention.TokenInfo:
    """What is known of the encoder's tokens."""
    tokens_BU, segment_BU, position_BU = map(jnp.asarray, inputs)
    return attention.TokenInfo(segment_BU, position_BU, tokens_BU)


@functools.cache
def build(config: EncoderDecoderConfig, execution: Execution) -> contract.Model:
    """The encoder-decoder of these sizes; `execution` says how a machine executes it."""
    return contract.of_network(
        config,
        EncoderDecoder(config, execution),
        functools.partial(ideal_flops, config),
        contract.Decoding(
            scanning.unstacked,
            functools.partial(
                contract.decode, config, EncoderDecoder(config, execution, scanned=False)
            ),
            functools.partial(encode, config, execution),
        ),
    )


def encode(
    config: EncoderDecoderConfig,
    execution: Execution,
    params: dict,
    router_state: dict,
    inputs: Inputs,
    key: jax.Array,
) -> attention.Context:
    """What the decoder reads of the encoder, made once for all tokens.

    Args:
      config, execution: of the model.
      params: of `scanning.unstacked`.
      router_state: the routers' state.
      inputs: what the encoder reads.
      key: of what routers draw.
    """
    found = contract.unstacked_router_variables(config, router_state)
    network = Encoder(config, execution, scanned=False)
    given = {"params": params} | found
    context: Any = network.apply(given, inputs, False, rngs={"router": key})
    return context


def ideal_flops(config: EncoderDecoderConfig, length: int, read: int) -> dict[str, float]:
    """Ideal FLOPs of a training step per token of the decoder, by part; the encoder's are shared.

    Args:
      config: of the model.
      length: T, of the decoder.
      read: U, of the encoder.
    """
    stacks = config.stacks
    found = ideal.flops(stacks["decoder"], length)
    encoder = ideal.flops(stacks["encoder"], read)
    for part, value in encoder.items():
        if part != "head":
            found[part] += value * read / length
    found["attention"] += 3.0 * config.num_layers * _cross_flops(config, read, read / length)
    return found


def _cross_flops(config, read, per_token):
    """Forward, per token of the decoder: queries and outputs of it, keys and values of the rest."""
    attended = config.num_heads * config.d_head
    keys = config.kv_heads * config.d_head
    projections = 4 * config.d_model * (attended + keys * per_token)
    return projections + 4 * attended * read
