"""Beam search: the most probable continuation, as far as W candidates at a time find it.

A finished text is scored by log p / ((5 + length) / 6)^alpha, so that long ones have a chance (Wu
et al. 2016, equation 14); its length counts the token that ends it.

Letters of this file: W beams of a text, M = B x W rows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe import decoding, generation, ranges, schema, sharding
from moe.config import ModelConfig
from moe.decoding import DecodingState

ALPHA = 0.6  # of T5's decoding (Raffel et al. 2020, section 3.1.1 has beams for what is long)


class Found(NamedTuple):
    """The best continuations of each text, the best first."""

    tokens: np.ndarray  # int [B, W, steps]; after the end -1
    scores: np.ndarray  # [B, W]; -inf where there is none


class _Search(NamedTuple):
    state: DecodingState  # of M rows
    live_BW: jax.Array  # log p of texts that go on
    tokens_BWT: jax.Array
    done_BW: jax.Array  # scores of finished texts
    done_tokens_BWT: jax.Array


def search(
    model: ModelConfig,
    weights: tuple[dict, dict],
    prompts: list[list[int]],
    steps: int,
    *,
    width: int,
    end: int,
    alpha: float = ALPHA,
    **given: Any,
) -> Found:
    """The `width` best continuations of at most `steps` tokens.

    What has not ended by then is scored as it is, if fewer than `width` texts have ended.

    Args:
      model, weights, prompts, steps: as of `generation.generate`.
      width: W.
      end: the token that ends a text.
      alpha: how much length is forgiven; 0: not at all.
      given: what else `generation.begin` takes.

    Raises:
      UserError: as `generation.generate`, and for a width or an end that cannot be.
    """
    schema.require(
        width > 0 and 2 * width <= model.vocab_size,
        f"{width=} beams must be from 1 to half of the vocabulary's {model.vocab_size}",
    )
    ranges.check_value("end", end, ranges.below(model.vocab_size))
    model, state = generation.begin(model, weights, prompts, steps, **given)
    scores_BW, tokens_BWT = _search(model, weights, state, steps, width, end, alpha)
    B = len(prompts)
    return Found(np.asarray(tokens_BWT)[:B], np.asarray(scores_BW)[:B])


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5, 6))
def _search(model, weights, state, steps, width, end, alpha):
    """(scores_BW, tokens_BWT). A device holds all beams of its texts, and moves none to another."""
    own = sharding.spec("B")
    like = _Search._make([jax.tree.map(sharding.layout, state), own, own, own, own])
    start = functools.partial(_start, steps=steps, width=width)
    choose = functools.partial(_choose, end=end, alpha=alpha)

    def turn(i: jax.Array, now: _Search) -> _Search:
        now, last_M = sharding.map_parts(choose, now, i, gives=(like, own))
        return now._replace(state=decoding.advance(model, weights, now.state, last_M))

    last = jax.lax.fori_loop(0, steps, turn, sharding.map_parts(start, state, gives=like))
    finish = functools.partial(_finish, alpha=alpha)
    return sharding.map_parts(finish, last, gives=(own, own))


def _start(state, steps, width):
    """All beams of a text are one at first."""
    B = len(state.logits_BV)
    none_BW = jnp.full((B, width), -jnp.inf)
    empty_BWT = jnp.full((B, width, steps), -1, jnp.int32)
    return _Search(
        state=by_row(lambda x: jnp.repeat(x, width, axis=0), state),
        live_BW=none_BW.at[:, 0].set(0.0),
        tokens_BWT=empty_BWT,
        done_BW=none_BW,
        done_tokens_BWT=empty_BWT,
    )


def _choose(now, i, end, alpha):
    """Which beams go on, with what they have read, and the token of each that is next, last_M."""
    B, W = now.live_BW.shape
    now, beam_BW = _extend(now, i, end, alpha)
    row_M = (beam_BW + W * jnp.arange(B)[:, None]).ravel()
    state = by_row(lambda x: x[row_M], now.state)
    return now._replace(state=state), now.tokens_BWT[:, :, i].ravel()


def _finish(last, alpha):
    """The best, among them what goes on where too few have ended."""
    _, W, steps = last.tokens_BWT.shape
    unended_BW = last.live_BW / penalty(steps, alpha)
    few_B1 = jnp.isfinite(last.done_BW).sum(1, keepdims=True) < W
    unended_BW = jnp.where(few_B1, unended_BW, -jnp.inf)
    return _best(W, (last.done_BW, last.done_tokens_BWT), (unended_BW, last.tokens_BWT))


def _extend(now, i, end, alpha):
    """Each text by one token: the best of all go on, those that end are set aside."""
    B, W = now.live_BW.shape
    log_p_BWV = jax.nn.log_softmax(now.state.logits_BV).reshape(B, W, -1)
    V = log_p_BWV.shape[-1]
    all_BX = (now.live_BW[..., None] + log_p_BWV).reshape(B, W * V)
    # At most W of the best 2 W end, as each beam has one end: W go on.
    score_BX, place_BX = jax.lax.top_k(all_BX, 2 * W)
    beam_BX, token_BX = place_BX // V, place_BX % V
    tokens_BXT = jnp.take_along_axis(now.tokens_BWT, beam_BX[..., None], axis=1)
    tokens_BXT = tokens_BXT.at[:, :, i].set(token_BX)
    ended_BX = token_BX == end
    ending_BX = jnp.where(ended_BX, score_BX / penalty(i + 1, alpha), -jnp.inf)
    done_BW, done_tokens_BWT = _best(W, (now.done_BW, now.done_tokens_BWT), (ending_BX, tokens_BXT))
    live_BW, chosen_BW = jax.lax.top_k(jnp.where(ended_BX, -jnp.inf, score_BX), W)
    after = _Search(
        state=now.state,
        live_BW=live_BW,
        tokens_BWT=jnp.take_along_axis(tokens_BXT, chosen_BW[..., None], axis=1),
        done_BW=done_BW,
        done_tokens_BWT=done_tokens_BWT,
    )
    return after, jnp.take_along_axis(beam_BX, chosen_BW, axis=1)


def _best(width, *groups):
    """The best of several groups of scored texts."""
    scores_BX = jnp.concatenate([scores for scores, _ in groups], axis=1)
    tokens_BXT = jnp.concatenate([tokens for _, tokens in groups], axis=1)
    score_BW, place_BW = jax.lax.top_k(scores_BX, width)
    return score_BW, jnp.take_along_axis(tokens_BXT, place_BW[..., None], axis=1)


def penalty(length: jax.Array | int, alpha: float) -> jax.Array | float:
    """What log p of a text of this length is divided by."""
    return ((5.0 + length) / 6.0) ** alpha


def by_row(change: Callable[[jax.Array], jax.Array], state: DecodingState) -> DecodingState:
    """The state with every array that has an axis of texts changed along it."""
    rows = ("cache", "segment_BU", "position_B", "document_B", "logits_BV", "domain_B", "context")
    return state._replace(**{name: jax.tree.map(change, getattr(state, name)) for name in rows})
