"""A GLaM-style decoder (Du et al. 2022, section 4), and its dense twin.

Pre-norm, rotary or relative positions, tied embedding, MoE in every n-th layer. Layers are scanned
in blocks of n, so the program's size does not grow with depth. With `experts=None` the same
code is the dense baseline: same names, so the same key gives both the same shared weights.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from moe import matmul, sharding
from moe.config import ModelConfig
from moe.data import masking
from moe.layers import attention, embedding, feed_forward, moe_layer, weights

SOWN = ("router", "policy", "choices")  # collections that an MoE layer leaves behind


class TokenInfo(NamedTuple):
    """What a layer knows of each token beside its vector, [B, T]."""

    segment_BT: jax.Array
    position_BT: jax.Array
    tokens_BT: jax.Array
    domain_BT: jax.Array | None
    cache: attention.KVCache | None = None  # in decoding


class Decoder(nn.Module):
    """Token ids to logits.

    Args of `__call__`:
      tokens_BT: int32 ids; -1 is hidden, in a bidirectional model.
      segment_BT: the number of each token's document inside its row, 0 for padding.
      position_BT: position inside the document.
      train: training or evaluation (capacity factor, jitter).
      domain_BT: where each token's document comes from, for routers that read it.
      cache: in decoding, see `moe.generate`; the tokens follow those in the collection "cache".

    Returns:
      logits_BTV, float32. `apply(..., mutable=["router"])` also returns a RouterStats per MoE
      layer, stacked [L / every, ...] under `block/layer_<n>/moe/router_stats`.
    """

    config: ModelConfig
    scanned: bool = True  # layers are stacked; else each is its own, as `unstacked` makes them

    @nn.compact
    def __call__(
        self, tokens_BT, segment_BT, position_BT, train: bool, domain_BT=None, cache=None
    ):  # fmt: skip
        c = self.config
        V, D = c.vocab_size, c.d_model
        embed_VD = weights.weight(self, "embed", "VD", (V, D), fan_in=D, scale=1.0)
        # Looked up before it is cast, so that its gradient adds up in float32.
        if c.bidirectional:
            hidden_1D = weights.weight(self, "hidden", ".D", (1, D), fan_in=D, scale=1.0)
            x_BTD = embedding.look_up(embed_VD, jnp.maximum(tokens_BT, 0))
            x_BTD = jnp.where((tokens_BT == masking.HIDDEN)[..., None], hidden_1D[None], x_BTD)
        else:
            x_BTD = embedding.look_up(embed_VD, tokens_BT)
        # Scaled before it is cast: in bfloat16 sqrt(D) would be rounded, too.
        x_BTD = (x_BTD * D**0.5).astype(c.dtype)

        info = TokenInfo(segment_BT, position_BT, tokens_BT, domain_BT, cache), train
        if c.num_dense_layers:
            dense = dataclasses.replace(c, experts=None, moe_every=1)
            x_BTD = self.layers(dense, c.num_dense_layers, "dense_block", x_BTD, *info)
        x_BTD = self.layers(c, c.num_layers - c.num_dense_layers, "block", x_BTD, *info)
        with jax.named_scope("head"):
            x_BTD = norm(c.dtype, "norm")(x_BTD)
            w_VD = embed_VD.astype(c.dtype)
            if not c.tie_embeddings:
                w_VD = weights.weight(
                    self, "head", "VD", (V, D), fan_in=D, scale=1.0, dtype=c.dtype
                )
            return matmul.einsum("BTD,VD->BTV", x_BTD, w_VD, float32=True)

    def layers(self, config, number, name, x_BTD, *info):
        """`number` layers, scanned in blocks of `config.moe_every`."""
        if not self.scanned:
            for i in range(number // config.moe_every):
                x_BTD, _ = Block(config, name=f"{name}_{i}")(x_BTD, *info)
            return x_BTD
        remat = functools.partial(nn.remat, prevent_cse=False, static_argnums=(3,))
        scanned = nn.scan(
            remat(Block) if config.remat else Block,
            variable_axes=dict.fromkeys(("params", *SOWN, "routing", "replayed"), 0),
            split_rngs={"params": True, "router": True},
            in_axes=nn.broadcast,
            length=number // config.moe_every,
            unroll=config.scan_unroll,
        )
        return scanned(config, name=name)(x_BTD, *info)[0]


class Block(nn.Module):
    """`config.moe_every` layers, the last MoE if the model has experts; the body of the scan."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, info, train):
        for i in range(self.config.moe_every):
            is_moe = self.config.experts is not None and i == self.config.moe_every - 1
            x_BTD = Layer(self.config, is_moe, name=f"layer_{i}")(x_BTD, info, train)
        return x_BTD, None


class Layer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward or experts(norm(x))."""

    config: ModelConfig
    is_moe: bool

    @nn.compact
    def __call__(self, x_BTD, info, train):
        c = self.config
        with jax.named_scope("attention"):
            attend = attention.Attention(
                c.num_heads,
                c.kv_heads,
                c.d_head,
                c.position,
                c.init_scale,
                c.dtype,
                c.bidirectional,
                name="attention",
            )
            h_BTD = norm(c.dtype, "attention_norm")(x_BTD)
            x_BTD += attend(h_BTD, info.segment_BT, info.position_BT, info.cache)
        h_BTD = norm(c.dtype, "ffn_norm")(x_BTD)
        if self.is_moe:
            layer, real_BT = moe_layer.MoELayer(c, name="moe"), info.segment_BT > 0
            return x_BTD + layer(h_BTD, real_BT, train, info.tokens_BT, info.domain_BT)
        with jax.named_scope("dense_ffn"):
            activation = c.dense_activation or c.activation
            ffn = feed_forward.FeedForward(c.d_ff, activation, c.init_scale, c.dtype, name="ffn")
            return x_BTD + ffn(h_BTD)


@functools.partial(jax.jit, static_argnums=0)
def init(model: ModelConfig, key):
    """Initial float32 parameters, born sharded on the current mesh and equal on every mesh."""
    # One group a row, and two tokens: JAX lets go of the sharding of an array of one element.
    shape = (
        sharding.num_devices(sharding.TOKENS),
        max(2, model.experts.group_size if model.experts else 0),
    )
    ids_BT = sharding.reshard(jnp.zeros(shape, jnp.int32), "BT")
    state = jax.tree.map(jnp.zeros_like, routing_state(model))
    _, variables = Decoder(model).apply(
        routing_variables(model, state), ids_BT, ids_BT, ids_BT, True, ids_BT,
        rngs={"params": key, "router": key}, mutable=["params"],
    )  # fmt: skip
    return variables["params"]


def routing_state(model: ModelConfig, seed: int = 0, ids=None) -> dict:
    """What the routers hold beside weights, host arrays [MoE layers, ...]; {} for most.

    Args:
      seed: of what is drawn.
      ids: the training text, for tables made from it; without it every id counts the same.
    """
    if model.experts is None or model.experts.routing.state is None:
        return {}
    return model.experts.routing.state(model, seed, ids)


def routing_variables(model: ModelConfig, state, replayed=None) -> dict:
    """The collections "routing" and "replayed" for `Decoder.apply`.

    Args:
      state: as of `routing_state`.
      replayed: expert_GSK to replay, [MoE layers, G, S, K], which `mutable=["choices"]` returns as
        `choices(...)`.
    """
    inside = lambda x: {"block": {f"layer_{model.moe_every - 1}": {"moe": x}}}  # noqa: E731
    found = {"routing": inside(dict(state))} if state else {}
    return found if replayed is None else found | {"replayed": inside({"expert_GSK": replayed})}


def unstacked(variables: dict) -> dict:
    """Parameters, or another collection, for `Decoder(config, scanned=False)`.

    Layers that lie in one array would be copied out of it at every use.
    """
    found = {}
    for name, part in variables.items():
        if name not in ("block", "dense_block"):
            found[name] = part
            continue
        for i in range(len(jax.tree.leaves(part)[0])):
            found[f"{name}_{i}"] = jax.tree.map(lambda x: x[i], part)  # noqa: B023, at once
    return found


def sown(model: ModelConfig, variables, collection: str, name: str):
    """What the MoE layers left in a collection, [MoE layers, ...], None if nothing."""
    try:
        return variables[collection]["block"][f"layer_{model.moe_every - 1}"]["moe"][name]
    except KeyError:
        return None


def parameter_shapes(model: ModelConfig):
    """The parameters as ShapeDtypeStructs: no cache is taken, whatever the size."""
    return jax.eval_shape(lambda key: init(model, key), jax.eval_shape(jax.random.key, 0))


def norm(dtype, name):
    """RMSNorm (Zhang and Sennrich 2019), computed in float32."""
    return nn.RMSNorm(dtype=dtype, name=name)
