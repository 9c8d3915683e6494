"""Text from a trained decoder: the prompt at once, then token by token with a cache.

A token costs what its own experts cost: the model is run with the `grouped` dispatcher, which
drops nothing and, for a few tokens, reads the weights of the experts they chose and of no others.
That is what a capacity that is never reached would do, so a model trained with drops makes here
the predictions of one that is lucky. After <doc> another document begins, as in training: nothing
before it is seen.

On one device.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe import models, ranges, sampling, schema, sharding
from moe.config import ModelConfig
from moe.errors import UserError
from moe.layers import attention


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


def dropless(model: ModelConfig) -> ModelConfig:
    """The same model without capacity.

    Raises:
      UserError: if it reads later tokens.
    """
    schema.require(
        model.causal,
        "model.causal=False reads later tokens, which are not there yet: it cannot generate",
    )
    if model.experts is None:
        return model
    schema.require(
        model.experts.routing.causal != "never",
        f"experts.router={model.experts.router!r} looks at later tokens: it cannot generate",
    )
    none = {"reroute_rounds": 0, "batch_priority": False}  # what only a capacity needs
    own: Any = model.experts.options
    has = {f.name for f in dataclasses.fields(own)}
    options = dataclasses.replace(own, **{n: v for n, v in none.items() if n in has})
    experts = model.experts.derived(
        dispatcher="grouped",
        capacity_factor=0.0,
        eval_capacity_factor=0.0,
        group_size=0,
        expert_dropout=0.0,
        options=options,
    )
    return dataclasses.replace(model, experts=experts)


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
    decoding = models.build(model).decoding
    if decoding is None:
        raise UserError(f"a {type(model).__name__} does not generate text")
    return decoding.unstack(params), router_state or {}


@functools.partial(jax.jit, static_argnums=(0, 4))
def prefill(
    model: ModelConfig,
    weights: tuple[dict, dict],
    prompt_BT: jax.Array,
    key: jax.Array,
    length: int,
    domain_B: jax.Array | None = None,
    doc_id: int = 0,
) -> DecodingState:
    """Reads the prompts, all at once.

    Args:
      model: of `dropless`.
      weights: of `prepare`.
      prompt_BT: token ids, shorter prompts padded on the left with -1.
      key: of what is drawn.
      length: U, of prompt and what follows.
      domain_B: for routers that read it.
      doc_id: of `Prepared.doc_id`, the token that starts a document.
    """
    B = len(prompt_BT)
    real_BT = prompt_BT >= 0
    none_B = jnp.zeros(B, jnp.int32)
    first_BT = real_BT & (jnp.cumsum(real_BT, axis=1) == 1)
    empty_BU = jnp.zeros((B, length), jnp.int32)
    start = DecodingState(
        {},
        empty_BU,
        jnp.int32(0),
        none_B,
        none_B,
        jnp.zeros((B, 0)),
        key,
        jnp.asarray(doc_id, jnp.int32),
    )
    return _read(model, weights, start, prompt_BT, first_BT, domain_B)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def advance(
    model: ModelConfig,
    weights: tuple[dict, dict],
    state: DecodingState,
    token_B: jax.Array,
    domain_B: jax.Array | None = None,
) -> DecodingState:
    """Reads one token of each text, at batch 1 the weights of its K experts only."""
    return _read(model, weights, state, token_B[:, None], jnp.zeros((), bool), domain_B)


def _number(state, token_BT, start_BT):
    """(segment, position) of what is read next, as `data.batches.number` counts them."""
    real_BT = token_BT >= 0
    index_T = jnp.arange(token_BT.shape[1])
    start_BT = start_BT | (token_BT == state.doc_id)
    segment_BT = (state.document_B[:, None] + jnp.cumsum(start_BT, axis=1)) * real_BT
    began_BT = jnp.where(start_BT, index_T[None], -state.position_B[:, None])
    return segment_BT, index_T[None] - jax.lax.cummax(began_BT, axis=1)


def _read(model, weights, state, token_BT, start_BT, domain_B):
    params, router_state = weights
    segment_BT, position_BT = _number(state, token_BT, start_BT)
    segment_BU = jax.lax.dynamic_update_slice_in_dim(state.segment_BU, segment_BT, state.at, axis=1)
    tokens_BT = jnp.maximum(token_BT, 0)
    domain_BT = None if domain_B is None else jnp.broadcast_to(domain_B[:, None], tokens_BT.shape)
    key, own = jax.random.split(state.key)
    decoding = models.build(model).decoding
    assert decoding is not None  # `prepare` saw to it
    logits_BTV, cache = decoding.step(
        params,
        router_state,
        tokens_BT,
        segment_BT,
        position_BT,
        domain_BT,
        state.cache,
        attention.KVCache(segment_BU, state.at),
        own,
    )
    return DecodingState(
        cache=cache,
        segment_BU=segment_BU,
        at=state.at + token_BT.shape[1],
        position_B=position_BT[:, -1] + 1,
        document_B=segment_BT[:, -1],
        logits_BV=logits_BTV[:, -1],
        key=key,
        doc_id=state.doc_id,
    )


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _go_on(model, weights, state, steps, how, domain_B):
    def turn(state: DecodingState, _: None) -> tuple[DecodingState, jax.Array]:
        key, own = jax.random.split(state.key)
        token_B = sampling.sample(state.logits_BV, how, own)
        return advance(model, weights, state._replace(key=key), token_B, domain_B), token_B

    return jax.lax.scan(turn, state, length=steps)[1].T


def generate(
    model: ModelConfig,
    weights: tuple[dict, dict],
    prompts: list[list[int]],
    steps: int,
    *,
    how: sampling.Sampling = sampling.GREEDY,
    seed: int = 0,
    domain_B: jax.Array | None = None,
    doc_id: int = 0,
) -> np.ndarray:
    """`steps` tokens after each prompt, int [B, steps].

    Args:
      model: as it was trained.
      weights: of `prepare`.
      prompts: token ids, one list a text; lengths may differ.
      steps: how many.
      how: tokens are drawn; the most probable each time if nothing is said.
      seed: of what is drawn.
      domain_B: of each prompt, for routers that read it.
      doc_id: of `Prepared.doc_id`, the token that starts a document.

    Raises:
      UserError: for a model that cannot generate, an empty prompt, an id that is none, domains
        that are missing, or on a mesh.
    """
    schema.require(not sharding.current(), "generation is for one device: leave the mesh")
    schema.require(
        bool(prompts) and all(prompts) and steps > 0,
        f"expected prompts of at least one token each, and steps above 0; got lengths"
        f" {[len(p) for p in prompts]}, {steps=}",
    )
    how.check()
    ranges.check_value("seed", seed, ranges.SEED)
    ids = [i for prompt in prompts for i in prompt]
    schema.require(
        min(ids) >= 0 and max(ids) < model.vocab_size,
        f"expected token ids from 0 to {model.vocab_size - 1}; got {min(ids)} to {max(ids)}",
    )
    schema.require(
        domain_B is not None or not model.reads_domains,
        f"experts.router={model.experts and model.experts.router!r} reads domains: give domain_B",
    )
    model = dropless(model)
    longest = max(map(len, prompts))
    padded = [[-1] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    prompt_BT = jnp.asarray(padded, jnp.int32)
    key = jax.random.key(seed)
    state = prefill(model, weights, prompt_BT, key, longest + steps, domain_B, doc_id)
    return np.asarray(_go_on(model, weights, state, steps, how, domain_B))
