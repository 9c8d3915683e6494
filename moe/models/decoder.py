"""A GLaM-style decoder (Du et al. 2022, section 4), and its dense twin.

Pre-norm, rotary or relative positions, tied embedding, MoE in every n-th layer. Layers are scanned
in blocks of n, so the program's size does not grow with depth. With `moe=None` the same
code is the dense baseline: same names, so the same key gives both the same shared weights.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import sharding
from moe.config import ModelConfig
from moe.layers import attention, embedding, feed_forward, moe, weights


class Decoder(nn.Module):
    """Token ids to logits.

    Args of `__call__`:
      tokens_BT: int32 ids.
      segment_BT: the number of each token's document inside its row, 0 for padding.
      position_BT: position inside the document.
      train: training or evaluation (capacity factor, jitter).

    Returns:
      logits_BTV, float32. `apply(..., mutable=["router"])` also returns a Tally per MoE layer,
      stacked [L / every, ...] under `block/layer_<n>/moe/tally`.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens_BT, segment_BT, position_BT, train: bool):
        c = self.config
        V, D = c.vocab_size, c.d_model
        embed_VD = weights.weight(self, "embed", "VD", (V, D), fan_in=D, scale=1.0)
        # Looked up before it is cast, so that its gradient adds up in float32.
        x_BTD = embedding.look_up(embed_VD, tokens_BT).astype(c.dtype) * D**0.5

        place = segment_BT, position_BT, train
        if c.num_dense_layers:
            dense = dataclasses.replace(c, moe=None, every=1)
            x_BTD = self.layers(dense, c.num_dense_layers, "dense_block", x_BTD, *place)
        x_BTD = self.layers(c, c.num_layers - c.num_dense_layers, "block", x_BTD, *place)
        with jax.named_scope("head"):
            x_BTD = norm(c.dtype, "norm")(x_BTD)
            w_VD = embed_VD.astype(c.dtype)
            if not c.tied:
                w_VD = weights.weight(
                    self, "head", "VD", (V, D), fan_in=D, scale=1.0, dtype=c.dtype
                )
            return jnp.einsum("BTD,VD->BTV", x_BTD, w_VD, preferred_element_type=jnp.float32)

    def layers(self, config, number, name, x_BTD, *place):
        """`number` layers, scanned in blocks of `config.every`."""
        remat = functools.partial(nn.remat, prevent_cse=False, static_argnums=(4,))
        scanned = nn.scan(
            remat(Block) if config.remat else Block,
            variable_axes={"params": 0, "router": 0},
            split_rngs={"params": True, "router": True},
            in_axes=nn.broadcast,
            length=number // config.every,
            unroll=config.scan_unroll,
        )
        return scanned(config, name=name)(x_BTD, *place)[0]


class Block(nn.Module):
    """`config.every` layers, the last MoE if the model has experts; the body of the scan."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, segment_BT, position_BT, train):
        for i in range(self.config.every):
            sparse = self.config.moe is not None and i == self.config.every - 1
            x_BTD = Layer(self.config, sparse, name=f"layer_{i}")(
                x_BTD, segment_BT, position_BT, train
            )
        return x_BTD, None


class Layer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward or experts(norm(x))."""

    config: ModelConfig
    sparse: bool

    @nn.compact
    def __call__(self, x_BTD, segment_BT, position_BT, train):
        c = self.config
        with jax.named_scope("attention"):
            attend = attention.Attention(
                c.num_heads,
                c.kv_heads,
                c.d_head,
                c.position,
                c.init_scale,
                c.dtype,
                name="attention",
            )
            x_BTD += attend(norm(c.dtype, "attention_norm")(x_BTD), segment_BT, position_BT)
        h_BTD = norm(c.dtype, "ffn_norm")(x_BTD)
        if self.sparse:
            return x_BTD + moe.MoELayer(c, name="moe")(h_BTD, segment_BT > 0, train)
        with jax.named_scope("dense_ffn"):
            activation = c.dense_activation or c.activation
            ffn = feed_forward.FeedForward(c.d_ff, activation, c.init_scale, c.dtype, name="ffn")
            return x_BTD + ffn(h_BTD)


@functools.partial(jax.jit, static_argnums=0)
def init(model: ModelConfig, key):
    """Initial float32 parameters, born sharded on the current mesh and equal on every mesh."""
    rows = sharding.num_devices(sharding.TOKENS) * (model.moe.group_size or 1 if model.moe else 1)
    ids_BT = sharding.reshard(jnp.zeros((rows, 1), jnp.int32), "BT")
    keys = {"params": key, "router": key}
    return Decoder(model).init(keys, ids_BT, ids_BT, ids_BT, True)["params"]


def parameter_shapes(model: ModelConfig):
    """The parameters as ShapeDtypeStructs: no memory is taken, whatever the size."""
    return jax.eval_shape(lambda key: init(model, key), jax.eval_shape(jax.random.key, 0))


def norm(dtype, name):
    """RMSNorm (Zhang and Sennrich 2019), computed in float32."""
    return nn.RMSNorm(dtype=dtype, name=name)
