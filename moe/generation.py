"""Text after prompts: all at once, or token by token as it is made.

weights = decoding.prepare(model, params, router_state)
token_BT = generation.generate(model, weights, prompts, steps)
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from moe import decoding, ranges, sampling, schema, sharding
from moe.batch import Inputs
from moe.config import ModelConfig


class Written(NamedTuple):
    """What `generate` gives on request."""

    tokens: np.ndarray  # [B, steps]
    experts: np.ndarray | None  # expert_LBTK that each token chose, T steps; E is none


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _go_on(model, weights, state, steps, how):
    """token_BT, and expert_LBTK if tokens choose."""

    def turn(state: decoding.DecodingState, _: None) -> tuple[decoding.DecodingState, tuple]:
        token_B, state, expert_LGSK = _draw(model, weights, state, how)
        return state, (token_B, expert_LGSK)

    token_TB, expert_TLGSK = jax.lax.scan(turn, state, length=steps)[1]
    if expert_TLGSK is None:
        return token_TB.T, None
    T, L, *_, K = expert_TLGSK.shape
    return token_TB.T, expert_TLGSK.reshape(T, L, -1, K).transpose(1, 2, 0, 3)


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
    inputs: list[list[int]] | None = None,
    row: int = 0,
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
      doc_id: of `Prepared.doc_id`, the token that starts a document; -1 if there is none.
      inputs: token ids that an encoder reads, one list a text.
      row: as of `decoding.dropless`.

    Raises:
      UserError: for a model that cannot generate, an empty prompt, an id that is none, domains or
        inputs that are missing.
    """
    return written(
        model, weights, prompts, steps, how=how, seed=seed, domain_B=domain_B, doc_id=doc_id,
        inputs=inputs, row=row,
    ).tokens  # fmt: skip


def written(
    model: ModelConfig, weights: tuple[dict, dict], prompts: list[list[int]], steps: int,
    *, how: sampling.Sampling = sampling.GREEDY, **given: Any,
) -> Written:  # fmt: skip
    """As `generate`, and the experts that every new token chose."""
    how.check()
    model, state = begin(model, weights, prompts, steps, **given)
    found = _go_on(model, weights, state, steps, how)
    tokens, experts = found
    B = len(prompts)
    return Written(np.asarray(tokens)[:B], None if experts is None else np.asarray(experts)[:, :B])


def stream(
    model: ModelConfig, weights: tuple[dict, dict], prompts: list[list[int]], steps: int,
    *, how: sampling.Sampling = sampling.GREEDY, **given: Any,
) -> Iterator[np.ndarray]:  # fmt: skip
    """The tokens of `generate` one by one, int [B], each as soon as it is there."""
    how.check()
    model, state = begin(model, weights, prompts, steps, **given)
    for _ in range(steps):
        token_B, state = _turn(model, weights, state, how)
        yield np.asarray(token_B)[: len(prompts)]


@functools.partial(jax.jit, static_argnums=(0, 3), donate_argnums=2)
def _turn(model, weights, state, how):
    return _draw(model, weights, state, how)[:2]


def _draw(model, weights, state, how):
    """One token of each text, the state after it, and the experts it chose."""
    key, own = jax.random.split(state.key)
    token_B = sampling.sample(state.logits_BV, how, own)
    return token_B, *decoding.read_one(model, weights, state._replace(key=key), token_B)


def begin(
    model: ModelConfig,
    weights: tuple[dict, dict],
    prompts: list[list[int]],
    steps: int,
    *,
    seed: int = 0,
    domain_B: jax.Array | None = None,
    doc_id: int = 0,
    inputs: list[list[int]] | None = None,
    row: int = 0,
) -> tuple[ModelConfig, decoding.DecodingState]:
    """The model that generates, and its state after the prompts, with room for so many steps."""
    schema.require(steps > 0, f"expected steps above 0; got {steps=}")
    check_ids("prompts", prompts, model)
    ranges.check_value("seed", seed, ranges.SEED)
    schema.require(
        domain_B is not None or not model.reads_domains,
        f"experts.router={model.experts and model.experts.router!r} reads domains: give domain_B",
    )
    both = len(model.stacks) > 1
    schema.require(
        (inputs is not None) == both,
        "inputs are what an encoder reads: " + ("give them" if both else "this model has none"),
    )
    reader, model = model, decoding.dropless(model, row)
    idle = -len(prompts) % sharding.num_devices(sharding.TOKENS)  # rows that make devices even
    prompts = [*prompts, *[[0]] * idle]
    prompt_BT = sharding.shard_batch(padded(prompts, left=True))
    key = jax.random.key(seed)
    length = prompt_BT.shape[1] + steps
    schema.require(
        not row or length <= row, f"a row of {row} tokens has no room for {length}: raise row"
    )
    if domain_B is not None:
        domain_B = sharding.shard_batch(np.append(domain_B, np.zeros(idle, np.int32)))
    context = None
    if inputs is not None:
        rows = [*inputs, *[[0]] * idle]
        schema.require(len(rows) == len(prompts), "one list of inputs for each prompt")
        read = sharding.shard_batch(encoder_inputs(rows, model))
        context = decoding.encode(reader if row else model, weights, read, key)
    return model, decoding.prefill(
        model, weights, prompt_BT, key, length, domain_B, doc_id, context
    )


def check_ids(name: str, texts: list[list[int]], model: ModelConfig) -> None:
    """Refuses what is empty, and ids that are none.

    Raises:
      UserError: with what came.
    """
    schema.require(
        bool(texts) and all(texts),
        f"expected {name} of at least one token each; got lengths {[len(t) for t in texts]}",
    )
    ids = [i for text in texts for i in text]
    schema.require(
        min(ids) >= 0 and max(ids) < model.vocab_size,
        f"expected token ids from 0 to {model.vocab_size - 1}; got {min(ids)} to {max(ids)}",
    )


def padded(texts: list[list[int]], left: bool = False) -> np.ndarray:
    """Lists of ids as one array, -1 where there is none."""
    longest = max(map(len, texts))
    gaps = [[-1] * (longest - len(text)) for text in texts]
    pairs = zip(gaps, texts, strict=True)
    return np.array([gap + list(t) if left else list(t) + gap for gap, t in pairs], np.int32)


def encoder_inputs(texts: list[list[int]], model: ModelConfig) -> Inputs:
    """What an encoder reads, one document a row.

    Raises:
      UserError: as `check_ids`.
    """
    check_ids("inputs", texts, model)
    ids_BU = padded(texts)
    real_BU = (ids_BU >= 0).astype(np.int32)
    return Inputs(np.maximum(ids_BU, 0), real_BU, np.arange(ids_BU.shape[1]) * real_BU)
