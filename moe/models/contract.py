"""What a model is: pure functions around a network, the same for every architecture.

The step, the loop, the FLOP counter, the planner, studies and generation know a model by this
contract only. A new architecture is one new file that makes a `Model`, and one line in
`moe.models.MODELS`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from moe import sharding
from moe.batch import Batch, Inputs
from moe.config import ModelConfig
from moe.errors import UserError
from moe.layers import attention, embedding, records
from moe.models import scanning
from moe.routing import contract, stats

# What lies beside a model's own parameters: of `models.lora`, of the objective `distillation`.
LORA = "lora"
TEACHER = "teacher"
BESIDE = (LORA, TEACHER)


class Output(NamedTuple):
    """What a forward pass returns."""

    # Logits, float32: [B, T, V] of a language model, [B, classes] of a classifier. Or the factors
    # of [B, T, V]: it may be the largest array of a step, and the loss can do without it.
    scores: jax.Array | embedding.Head
    router_stats: stats.RouterStats | None = None  # sums of every MoE layer, [L, ...]
    choices: jax.Array | None = None  # expert_LGSK, where tokens choose experts
    policy: contract.Policy | None = None  # of routers that learn from reward, [L, B, T]
    # What happened in the MoE layers of each stack, [L, ...].
    by_stack: tuple[records.RouterRecord, ...] = ()

    @property
    def logits(self) -> jax.Array:
        """The scores as an array."""
        return self.scores.logits() if isinstance(self.scores, embedding.Head) else self.scores


class Decoding(NamedTuple):
    """What a model that can generate offers beside its forward pass."""

    unstack: Callable[[dict], dict]  # parameters -> the same, each layer an array of its own
    # (params, router_state, tokens_BT, segment_BT, position_BT, domain_BT, cache, kv_cache, key,
    # context if there is an encoder) -> (logits_BTV, cache, expert_LGSK if tokens choose)
    step: Callable[..., tuple[jax.Array, dict, jax.Array | None]]
    # (params, router_state, inputs, key) -> context; None without an encoder
    encode: Callable[..., Any] | None = None


class Model(NamedTuple):
    """An architecture with its sizes. `config.experts` is None for a dense model."""

    config: Any
    init: Callable[[jax.Array], dict]  # key -> parameters, born sharded on the current mesh
    # (params, router_state, batch, *, key, train, replayed=None) -> Output
    apply: Callable[..., Output]
    ideal_flops: Callable[
        ..., dict[str, float]
    ]  # T (, U) -> FLOPs of a step per token of T, by part
    # (seed, ids of the training text) -> host arrays [L, ...]
    router_state: Callable[..., dict[str, np.ndarray]]
    decoding: Decoding | None = None


def of_network(
    config: Any,
    network: nn.Module,
    ideal_flops: Callable[..., dict[str, float]],
    decoding: Decoding | None = None,
) -> Model:
    """The Model of a Linen network.

    Args:
      config: the dataclass of its sizes.
      network: (tokens_BT, segment_BT, position_BT, train, domain_BT) -> scores, whose MoE layers
        lie where `router_variables` puts their state. With `config.stacks` beside the decoder's it
        also takes `encoder`, with `config.patch_width` also `patches_BTI`, those of a `Batch`.
      ideal_flops: see `Model`.
      decoding: see `Model`.
    """
    return Model(
        config=config,
        init=functools.partial(_init, config, network),
        apply=functools.partial(_apply, config, network),
        ideal_flops=ideal_flops,
        router_state=functools.partial(router_state, config),
        decoding=decoding,
    )


def parameter_shapes(model: Model) -> dict:
    """The parameters as ShapeDtypeStructs: no memory is taken, whatever the size."""
    return jax.eval_shape(model.init, jax.eval_shape(jax.random.key, 0))


def batch_shapes(
    batch: int, length: int, *encoder: int, patch_width: int = 0,
    layout: jax.sharding.Sharding | None = None,
) -> Batch:  # fmt: skip
    """A Batch of [batch, length] as shapes, with their sharding if there is one.

    Args:
      batch: B.
      length: T.
      encoder: U, if there is an encoder.
      patch_width: I, if images are read.
      layout: of all of them.
    """
    ids: Any = jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=layout)
    found = Batch(*[ids] * 6)
    for positions in encoder:
        own: Any = jax.ShapeDtypeStruct((batch, positions), jnp.int32, sharding=layout)
        found = found._replace(encoder=Inputs(own, own, own))
    if patch_width:
        shape = batch, length, patch_width
        patches: Any = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=layout)
        found = found._replace(patches_BTI=patches)
    return found


def router_state(
    config: ModelConfig, seed: int = 0, ids: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What the routers hold beside weights, host arrays [MoE layers, ...]; {} for most.

    Args:
      config: of the model.
      seed: of what is drawn.
      ids: the training text, for tables made from it; without it every id counts the same.
    """
    if config.experts is None or config.experts.routing.state is None:
        return {}
    return config.experts.routing.state(config, seed, ids)


def router_variables(config: ModelConfig, state: dict, replayed: jax.Array | None = None) -> dict:
    """The collections "router_state" and "replayed" for `network.apply`.

    Args:
      config: of the model.
      state: as of `router_state`.
      replayed: expert_GSK of every MoE layer, [L, G, S, K], to use instead of the router's choices.
    """
    found = {}
    if state:
        found["router_state"] = _inside(config, dict(state))
    if replayed is not None:
        found["replayed"] = _inside(config, {"expert_GSK": replayed})
    return found


def unstacked_router_variables(config: ModelConfig, state: dict) -> dict:
    """`router_variables` for a network whose layers are each an array of its own."""
    found = router_variables(config, state)
    return {name: scanning.unstacked(part) for name, part in found.items()}


def decode(
    config: ModelConfig,
    network: nn.Module,
    params: dict,
    router_state: dict,
    tokens_BT: jax.Array,
    segment_BT: jax.Array,
    position_BT: jax.Array,
    domain_BT: jax.Array | None,
    cache: dict,
    kv_cache: attention.KVCache,
    key: jax.Array,
    **context: Any,
) -> tuple[jax.Array, dict, jax.Array | None]:
    """(logits_BTV, cache, expert_LGSK) of tokens that follow those in the cache.

    Args:
      config: of the model.
      network: as of `of_network`, with layers that are each an array of its own.
      params: of `scanning.unstacked`.
      router_state: the routers' state.
      tokens_BT, segment_BT, position_BT, domain_BT: as of the network.
      cache: keys and values of every layer, {} at first.
      kv_cache: where the new ones go.
      key: of what routers draw.
      context: `context=`, what `Decoding.encode` gave, if there is an encoder.
    """
    scores, after = network.apply(
        {"params": params, "cache": cache} | unstacked_router_variables(config, router_state),
        tokens_BT,
        segment_BT,
        position_BT,
        False,
        domain_BT,
        kv_cache,
        **context,
        rngs={"router": key},
        mutable=["cache", records.COLLECTION],
    )
    record = records.collect(dict(after))
    chosen = None if record is None or record.assignment is None else record.assignment.expert_GSK
    logits_BTV = scores.logits() if isinstance(scores, embedding.Head) else scores
    return logits_BTV, after["cache"], chosen


def require_plain(params: dict) -> None:
    """Refuses what lies beside a model's own parameters, which would be left out without a word.

    Raises:
      UserError: with what to do.
    """
    beside = sorted(set(BESIDE) & set(params))
    if beside:
        raise UserError(
            f"{', '.join(beside)} beside the model's parameters: of a run that was opened, use"
            " `run.plain(state.params)`, or make it plain by experiments.adapt --how=plain"
        )


def _inside(config, arrays):
    """Arrays [L, ...] where the MoE layers of a scanned network look for them, stack by stack."""
    found: dict[str, Any] = {}
    first = 0
    for name, stack in config.stacks.items():
        own = {k: x[first : first + stack.moe_layers] for k, x in arrays.items()}
        first += stack.moe_layers
        inside = {"block": {f"layer_{config.moe_every - 1}": {"moe": own}}}
        found |= {name: inside} if name else inside
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(config, network, key):
    # One group a row, and two tokens: JAX lets go of the sharding of an array of one element.
    experts = config.experts
    shape = sharding.num_devices(sharding.TOKENS), max(2, experts.group_size if experts else 0)
    ids_BT = sharding.reshard(jnp.zeros(shape, jnp.int32), "BT")
    patches_BTI = sharding.zeros("BT.", (*shape, config.patch_width), jnp.float32)
    inputs = Inputs(ids_BT, ids_BT, ids_BT)
    batch = Batch(ids_BT, ids_BT, ids_BT, ids_BT, encoder=inputs, patches_BTI=patches_BTI)
    state = jax.tree.map(jnp.zeros_like, router_state(config))
    _, variables = network.apply(
        router_variables(config, state),
        ids_BT,
        ids_BT,
        ids_BT,
        True,
        ids_BT,
        **_beside(config, batch),
        rngs={"params": key, "router": key, "dropout": key},
        mutable=["params"],
    )
    return variables["params"]


def _beside(config, batch):
    """What a network with an encoder, or one that reads images, is given beside the rest."""
    wanted = {"encoder": len(config.stacks) > 1, "patches_BTI": config.patch_width > 0}
    found = {name: getattr(batch, name) for name, reads in wanted.items() if reads}
    for name, given in found.items():
        if given is None:
            raise UserError(f"this model reads batch.{name}, which is None: give it its inputs")
    return found


def _apply(config, network, params, router_state, batch: Batch, *, key, train, replayed=None):
    """One forward pass.

    Raises:
      UserError: if a model with MoE layers returns no statistics, or a dense one some, so that no
        loss is silently zero; and for parameters of `BESIDE`.
    """
    require_plain(params)
    scores, sown = network.apply(
        {"params": params, **router_variables(config, router_state, replayed)},
        batch.tokens_BT,
        batch.segment_BT,
        batch.position_BT,
        train,
        batch.domain_BT,
        **_beside(config, batch),
        rngs={"router": key, "dropout": jax.random.fold_in(key, 1)},
        mutable=[records.COLLECTION],
    )
    layers = records.by_path(sown)
    record = records.joined(layers)
    if (record is None) != (config.experts is None):
        raise UserError(f"config.experts={config.experts} but the network sowed {record}")
    if record is None:
        return Output(scores)
    choices = None if record.assignment is None else record.assignment.expert_GSK
    return Output(scores, record.stats, choices, record.policy, tuple(layers.values()))
