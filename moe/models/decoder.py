"""A GLaM-style decoder (Du et al. 2022, section 4), and its dense baseline.

Pre-norm, rotary or relative positions, MoE in every n-th layer. Layers are scanned in blocks of n,
so the program's size does not grow with depth. With `experts=None` the same code is the dense
baseline: same names, so the same key gives both the same shared weights. With `causal=False` every
token sees the whole of its document.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import ffn
from moe.config import ModelConfig
from moe.execution import REMAT_POLICIES, Execution
from moe.layers import (
    attention,
    embedding,
    feed_forward,
    moe_layer,
    ngrams,
    records,
    rotary,
    weights,
)
from moe.models import contract, ideal, scanning

MASKED = -1  # the id that stands for a masked token


class Trunk(nn.Module):
    """What every network here shares: embedding and layers, tokens to vectors.

    Args of `__call__` of the networks that derive from it:
      tokens_BT: int32 ids; MASKED stands for a masked token.
      segment_BT: the number of each token's document inside its row, 0 for padding.
      position_BT: position inside the document.
      train: training or evaluation (capacity factor, jitter).
      domain_BT: where each token's document comes from, for routers that read it.
      kv_cache: in decoding, see `moe.decoding`; the tokens follow those in the collection "cache".
    """

    config: ModelConfig
    execution: Execution = Execution()
    scanned: bool = True  # layers are stacked; else each is its own, see `scanning.unstacked`

    @property
    def embedding_scale(self) -> float:
        """D times the variance of initial embeddings."""
        return 1.0

    def embed(self, info: attention.TokenInfo) -> tuple[jax.Array, jax.Array]:
        """x_BTD and the table of embeddings."""
        D = self.config.d_model
        shape = (self.config.vocab_size, D)
        embed_VD = weights.weight(self, "embed", "VD", shape, fan_in=D, scale=self.embedding_scale)
        return self.vectors(embed_VD, info), embed_VD

    def vectors(self, embed_VD: jax.Array, info: attention.TokenInfo) -> jax.Array:
        """x_BTD of tokens."""
        c = self.config
        D = c.d_model
        tokens_BT = info.tokens_BT
        assert tokens_BT is not None  # they are what is embedded
        # Looked up before it is cast, so that its gradient adds up in float32.
        if c.mask_embedding:
            mask_1D = weights.weight(self, "mask_embedding", ".D", (1, D), fan_in=D, scale=1.0)
            x_BTD = embedding.look_up(embed_VD, jnp.maximum(tokens_BT, 0))
            x_BTD = jnp.where((tokens_BT == MASKED)[..., None], mask_1D[None], x_BTD)
        else:
            x_BTD = embedding.look_up(embed_VD, tokens_BT)
        if c.ngram_rows:
            x_BTD += ngrams.embed(self, c.ngram_rows, D, info)
        # Scaled before it is cast: in bfloat16 sqrt(D) would be rounded, too.
        return (x_BTD * (D**0.5 if c.scale_embedding else 1.0)).astype(c.dtype)

    def head_weight(self, embed_VD: jax.Array) -> jax.Array:
        """w_VD of the last product: the table of embeddings, or weights of its own."""
        c = self.config
        D = c.d_model
        if c.tie_embeddings:
            return embed_VD.astype(c.dtype)
        shape = (c.vocab_size, D)
        return weights.weight(self, "head", "VD", shape, fan_in=D, scale=1.0, dtype=c.dtype)

    def layers(self, x_BTD: jax.Array, info: attention.TokenInfo, train: bool) -> jax.Array:
        """All layers: the dense ones that come first, then blocks."""
        c = self.config
        if c.position == "rotary":
            info = info._replace(
                rotation=rotary.of(info.position_BT, c.d_head, c.attention.rope_theta)
            )
        if c.num_dense_layers:
            dense = dataclasses.replace(c, experts=None, moe_every=1)
            x_BTD = self.blocks(dense, c.num_dense_layers, "dense_block", x_BTD, info, train)
        number = c.num_layers - c.num_dense_layers
        return self.blocks(c, number, "block", x_BTD, info, train)

    def blocks(
        self,
        config: ModelConfig,
        number: int,
        name: str,
        x_BTD: jax.Array,
        info: attention.TokenInfo,
        train: bool,
    ) -> jax.Array:
        """`number` layers, scanned in blocks of `config.moe_every`."""
        length = number // config.moe_every
        if not self.scanned:
            for i in range(length):
                x_BTD, _ = Block(config, self.execution, name=f"{name}_{i}")(x_BTD, info, train)
            return x_BTD
        policy = REMAT_POLICIES[self.execution.remat_policy]
        remat = functools.partial(nn.remat, prevent_cse=False, static_argnums=(3,), policy=policy)
        collections = ("params", records.COLLECTION, "router_state", "replayed")
        scanned = nn.scan(
            remat(Block) if config.remat else Block,
            variable_axes=dict.fromkeys(collections, 0),
            split_rngs={"params": True, "router": True, "dropout": True},
            in_axes=nn.broadcast,
            length=length,
            unroll=config.scan_unroll or scanning.suited(length),
        )
        return scanned(config, self.execution, name=name)(x_BTD, info, train)[0]


class Decoder(Trunk):
    """Token ids to logits_BTV, float32, or to what they are the product of."""

    multiplied: bool = True  # else an `embedding.Head`

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        segment_BT: jax.Array,
        position_BT: jax.Array,
        train: bool,
        domain_BT: jax.Array | None = None,
        kv_cache: attention.KVCache | None = None,
    ) -> jax.Array | embedding.Head:
        info = attention.TokenInfo(segment_BT, position_BT, tokens_BT, domain_BT, kv_cache)
        x_BTD, embed_VD = self.embed(info)
        x_BTD = self.layers(x_BTD, info, train)
        with jax.named_scope("head"):
            x_BTD = norm(self.config, "norm")(x_BTD)
            w_VD = self.head_weight(embed_VD)
        head = embedding.Head(x_BTD, w_VD)
        return head.logits() if self.multiplied else head


class Block(nn.Module):
    """`config.moe_every` layers, the last MoE if the model has experts; the body of the scan."""

    config: ModelConfig
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, info: attention.TokenInfo, train: bool
    ) -> tuple[jax.Array, None]:
        for i in range(self.config.moe_every):
            is_moe = self.config.experts is not None and i == self.config.moe_every - 1
            x_BTD = Layer(self.config, is_moe, self.execution, name=f"layer_{i}")(
                x_BTD, info, train
            )
        return x_BTD, None


class Layer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward or experts(norm(x)).

    With a context, x + attention(norm(x), context) lies between.
    """

    config: ModelConfig
    is_moe: bool
    execution: Execution

    @nn.compact
    def __call__(self, x_BTD: jax.Array, info: attention.TokenInfo, train: bool) -> jax.Array:
        c = self.config
        with jax.named_scope("attention"):
            h_BTD = norm(c, "attention_norm")(x_BTD)
            attend = self.attention_of("attention", c.position, c.causal)
            x_BTD += attend(h_BTD, q_info=info, cache=info.kv_cache)
            if info.context is not None:
                h_BTD = norm(c, "cross_norm")(x_BTD)
                read = self.attention_of("cross", "none", causal=False)
                x_BUD, kv_info = info.context
                x_BTD += read(h_BTD, x_BUD, q_info=info, kv_info=kv_info, cache=info.kv_cache)
        h_BTD = norm(c, "ffn_norm")(x_BTD)
        if self.is_moe:
            assert c.experts is not None
            layer = moe_layer.MoELayer(
                c.experts, c.activation, c.init_scale, c.dtype, self.execution, name="moe"
            )
            given = info.segment_BT > 0, train, info.tokens_BT, info.domain_BT, info.segment_BT
            return x_BTD + layer(h_BTD, *given)
        with jax.named_scope("dense_ffn"):
            activation = c.dense_activation or c.activation
            dense = feed_forward.FeedForwardWeights(
                c.d_ff, activation, c.init_scale, c.dtype, name="ffn"
            )
            return x_BTD + ffn.apply(h_BTD, dense(c.d_model), activation, "BT")

    def attention_of(self, name: str, position: str, causal: bool) -> attention.Attention:
        """Of the layer's own sizes."""
        c = self.config
        return attention.Attention(
            num_heads=c.num_heads,
            num_kv_heads=c.kv_heads,
            d_head=c.d_head,
            position=position,
            init_scale=c.init_scale,
            dtype=c.dtype,
            causal=causal,
            kernel=self.execution.attention,
            how=c.attention,
            epsilon=c.norm_epsilon,
            name=name,
        )


@functools.cache
def build(config: ModelConfig, execution: Execution) -> contract.Model:
    """The decoder of these sizes; `execution` says how a machine executes it."""
    return contract.of_network(
        config,
        Decoder(config, execution, multiplied=False),
        functools.partial(ideal.flops, config),
        contract.Decoding(
            scanning.unstacked,
            functools.partial(contract.decode, config, Decoder(config, execution, scanned=False)),
        ),
    )


def norm(config: ModelConfig, name: str) -> nn.RMSNorm:
    """RMSNorm (Zhang and Sennrich 2019), computed in float32."""
    return nn.remat(nn.RMSNorm)(epsilon=config.norm_epsilon, dtype=config.dtype, name=name)
