"""Text from a trained model: the prompt at once, then token by token with a cache.

Of an encoder-decoder the encoder reads its inputs once, and the prompt is the decoder's.

A token costs what its own experts cost: the model is run with the `grouped` dispatcher, which
drops nothing and, for a few tokens, reads the weights of the experts they chose and of no others.
That is what a capacity that is never reached would do, so a model trained with drops makes here
the predictions of one that is lucky, unless it is told the `row` whose drops it makes, too. After
<doc> another document begins, as in training: nothing before it is seen.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from moe import models, schema, sharding
from moe.batch import Inputs
from moe.config import ModelConfig
from moe.errors import UserError
from moe.execution import Execution
from moe.layers import attention
from moe.models import contract


class DecodingState(NamedTuple):
    """Between two tokens."""

    cache: dict  # keys and values of every layer
    segment_BU: jax.Array  # 0 where there is no token
    at: jax.Array  # where the next one goes
    position_B: jax.Array  # its position, if it starts no document
    document_B: jax.Array  # its segment, if so
    logits_BV: jax.Array  # what it may be
    key: jax.Array
    doc_id: jax.Array  # the token that starts a document
    domain_B: jax.Array | None = None  # for routers that read it
    context: attention.Context | None = None  # what an encoder has made of its inputs


def dropless(model: ModelConfig, row: int = 0) -> ModelConfig:
    """The same model without slots, as it generates.

    Args:
      model: as it was trained.
      row: drops what evaluation drops in the decoder's rows of so many tokens; 0: nothing.

    Raises:
      UserError: if it reads later tokens, or those of other rows compete for its slots.
    """
    schema.require(
        model.causal,
        "model.causal=False reads later tokens, which are not there yet: it cannot generate",
    )
    if model.experts is None:
        return model
    none = {"reroute_rounds": 0, "batch_priority": False}  # what only a capacity needs
    own: Any = model.experts.options
    has = {f.name for f in dataclasses.fields(own)}
    options = dataclasses.replace(own, **{n: v for n, v in none.items() if n in has})
    schema.require(
        (options.causal or model.experts.routing.causal) != "never",
        f"experts.router={model.experts.router!r} looks at later tokens: it cannot generate",
    )
    experts = model.experts.derived(
        dispatcher="grouped",
        capacity_factor=0.0,
        eval_capacity_factor=0.0,
        group_size=0,
        expert_dropout=0.0,
        options=options,
        seats=_seats(model, row),
    )
    changes: dict[str, Any] = {"experts": experts}
    if len(model.stacks) > 1:
        changes["encoder_batch_priority"] = False
    return dataclasses.replace(model, **changes)


def _seats(model, row):
    """C of a row."""
    experts = model.experts
    if not row or experts.dropless:
        return 0
    schema.require(
        experts.group_size == 0,
        "only a model with experts.group_size=0 drops while it generates: otherwise other rows"
        " compete for slots. Leave row at 0",
    )
    for name in ("reroute_rounds", "batch_priority"):
        schema.require(
            not getattr(experts.options, name, 0),
            f"experts.options.{name} gives slots in another order than tokens come: leave row at 0",
        )
    return experts.slots(row, train=False)


def prepare(
    model: ModelConfig, params: dict, router_state: dict | None = None
) -> tuple[dict, dict]:
    """(params, router_state) of a training state, each layer on its own; do it once.

    Args:
      model: the config of the model.
      params, router_state: of `training.step.State`.

    Raises:
      UserError: for a model that does not generate.
    """
    contract.require_plain(params)
    decoding = models.build(model).decoding
    if decoding is None:
        raise UserError(f"a {type(model).__name__} does not generate text")
    return decoding.unstack(params), router_state or {}


@functools.partial(jax.jit, static_argnums=0)
def encode(
    model: ModelConfig, weights: tuple[dict, dict], inputs: Inputs, key: jax.Array
) -> attention.Context:
    """What the decoder reads of the encoder's inputs, made once for all tokens.

    Args:
      model: of `dropless`, or as it was trained, to drop in rows of these inputs what it drops in
        evaluation, by position or not.
      weights: of `prepare`.
      inputs: a text a row.
      key: of what is drawn.
    """
    decoding = build(model).decoding
    assert decoding is not None and decoding.encode is not None  # it has an encoder
    return decoding.encode(*weights, inputs, jax.random.fold_in(key, 1))


@functools.partial(jax.jit, static_argnums=(0, 4))
def prefill(
    model: ModelConfig,
    weights: tuple[dict, dict],
    prompt_BT: jax.Array,
    key: jax.Array,
    length: int,
    domain_B: jax.Array | None = None,
    doc_id: int = 0,
    context: attention.Context | None = None,
) -> DecodingState:
    """Reads the prompts, all at once.

    Args:
      model: of `dropless`.
      weights: of `prepare`.
      prompt_BT: token ids, shorter prompts padded on the left with -1.
      key: of what is drawn.
      length: U, of prompt and what follows.
      domain_B: for routers that read it.
      doc_id: of `Prepared.doc_id`, the token that starts a document; -1 if there is none.
      context: of `encode`, if there is an encoder.
    """
    B = len(prompt_BT)
    real_BT = prompt_BT >= 0
    none_B = sharding.zeros("B", (B,))
    first_BT = real_BT & (jnp.cumsum(real_BT, axis=1) == 1)
    empty_BU = sharding.zeros("B.", (B, length))
    start = DecodingState(
        {},
        empty_BU,
        jnp.int32(0),
        none_B,
        none_B,
        jnp.zeros((B, 0)),
        key,
        jnp.asarray(doc_id, jnp.int32),
        domain_B,
        context,
    )
    return _read(model, weights, start, prompt_BT, first_BT)[0]


def build(model: ModelConfig) -> contract.Model:
    """The model as it decodes: on a mesh with room for every token at every device."""
    room = float(sharding.num_devices(("expert",)))
    return models.build(model, Execution(ep_capacity_factor=max(1.0, room)))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def advance(
    model: ModelConfig,
    weights: tuple[dict, dict],
    state: DecodingState,
    token_B: jax.Array,
) -> DecodingState:
    """Reads one token of each text, at batch 1 the weights of its K experts only."""
    return read_one(model, weights, state, token_B)[0]


def read_one(model, weights, state, token_B):
    """The state after one token of each text, and expert_LGSK that they chose."""
    return _read(model, weights, state, token_B[:, None], jnp.zeros((), bool))


def _number(state, token_BT, start_BT):
    """(segment, position) of what is read next, as `data.batches.number` counts them."""
    real_BT = token_BT >= 0
    index_T = jnp.arange(token_BT.shape[1])
    start_BT = start_BT | (real_BT & (token_BT == state.doc_id))
    segment_BT = (state.document_B[:, None] + jnp.cumsum(start_BT, axis=1)) * real_BT
    began_BT = jnp.where(start_BT, index_T[None], -state.position_B[:, None])
    return segment_BT, index_T[None] - jax.lax.cummax(began_BT, axis=1)


def _read(model, weights, state, token_BT, start_BT):
    params, router_state = weights
    segment_BT, position_BT = _number(state, token_BT, start_BT)
    segment_BU = jax.lax.dynamic_update_slice_in_dim(state.segment_BU, segment_BT, state.at, axis=1)
    tokens_BT = jnp.maximum(token_BT, 0)
    domain_BT = None
    if state.domain_B is not None:
        domain_BT = jnp.broadcast_to(state.domain_B[:, None], tokens_BT.shape)
    key, own = jax.random.split(state.key)
    decoding = build(model).decoding
    assert decoding is not None  # `prepare` saw to it
    given = {} if state.context is None else {"context": state.context}
    logits_BTV, cache, expert_LGSK = decoding.step(
        params,
        router_state,
        tokens_BT,
        segment_BT,
        position_BT,
        domain_BT,
        state.cache,
        attention.KVCache(segment_BU, state.at),
        own,
        **given,
    )
    after = state._replace(
        cache=cache,
        segment_BU=segment_BU,
        at=state.at + token_BT.shape[1],
        position_B=position_BT[:, -1] + 1,
        document_B=segment_BT[:, -1],
        logits_BV=sharding.reshard(logits_BTV[:, -1], "B."),
        key=key,
    )
    return after, expert_LGSK
