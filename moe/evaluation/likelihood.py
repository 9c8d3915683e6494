"""log p of a text after another, by a decoder that drops no token.

So no other row of the batch, and no padding, changes a number.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from moe import decoding, sharding
from moe.batch import Batch
from moe.config import ModelConfig
from moe.errors import UserError
from moe.objectives import cross_entropy

SHORTEST = 64  # a row is as long as the next power of two of its tokens, so few are compiled


class Text(NamedTuple):
    """What is read and what is scored, as ids."""

    before: list[int]
    scored: list[int]


class Words(NamedTuple):
    """How a model reads text."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    start: list[int]  # what comes before all: the token that starts a document
    end: int | None = None  # what ends a text, if something does


def words_of(
    found: Any, start: list[int], end: int | None = None, sentinels: bool = False
) -> Words:
    """How a `tokenizers.Tokenizer` reads and writes; with sentinels special tokens are shown."""

    def encode(text: str) -> list[int]:
        return found.encode(text, add_special_tokens=False).ids

    def decode(ids: Sequence[int]) -> str:
        return found.decode(ids, skip_special_tokens=not sentinels)

    return Words(encode, decode, start, end)


def text(words: Words, before: str, scored: str) -> Text:
    """The ids of both, cut where they would be cut if they were read as one.

    A space that ends the first belongs to the second, as in lm-eval (Gao et al. 2024).
    """
    stripped = before.rstrip()
    scored = before[len(stripped) :] + scored
    ids = words.encode(stripped + scored)
    first = len(words.encode(stripped))
    return Text([*words.start, *ids[:first]], ids[first:])


def log_likelihoods(
    model: ModelConfig,
    params: dict,
    router_state: dict,
    texts: Sequence[Text],
    *,
    longest: int,
    tokens: int = 8192,
    title: str = "log-likelihoods",
) -> np.ndarray:
    """Nats of what is scored of each text, [N].

    Args:
      model: as it was trained.
      params, router_state: of it.
      texts: what is read is cut on the left if both are longer than `longest`.
      longest: tokens that the model reads at once.
      tokens: of a batch.
      title: of the progress bar.

    Raises:
      UserError: if what is scored is empty, or longer than `longest`.
    """
    for one in texts:
        if not 0 < len(one.scored) <= longest:
            raise UserError(f"{title}: {len(one.scored)} tokens to score, expected 1 to {longest}")
    dropless = decoding.dropless(model)
    lengths_N = np.array([_length(one, longest) for one in texts])
    found_N = np.zeros(len(texts))
    with tqdm.tqdm(total=len(texts), desc=title, unit="text", disable=None) as bar:
        for T in np.unique(lengths_N):
            chosen = np.flatnonzero(lengths_N == T)
            rows = _rows(tokens, T)
            for few in np.split(chosen, range(rows, len(chosen), rows)):
                batch = _batch([texts[int(i)] for i in few], int(T), rows, longest)
                nll_B = _score(dropless, params, router_state, sharding.shard_batch(batch))
                found_N[few] = -np.asarray(nll_B)[: len(few)]
                bar.update(len(few))
    return found_N


def _rows(tokens, T):
    """Rows of a batch: a multiple of the devices that share them."""
    devices = sharding.num_devices(sharding.TOKENS)
    return max(1, tokens // int(T) // devices) * devices


def _length(one, longest):
    """Of its row: the input has one token less than the text."""
    least = min(len(one.before) + len(one.scored), longest + 1) - 1
    return min(max(SHORTEST, 1 << (least - 1).bit_length()), longest)


def _batch(texts, T, rows, longest):
    tokens_BT, targets_BT, segment_BT, mask_BT = np.zeros((4, rows, T), np.int32)
    for i, one in enumerate(texts):
        ids = (one.before + one.scored)[-(longest + 1) :]
        n = len(ids) - 1
        tokens_BT[i, :n], targets_BT[i, :n], segment_BT[i, :n] = ids[:-1], ids[1:], 1
        mask_BT[i, n - len(one.scored) : n] = 1
    position_BT = np.arange(T, dtype=np.int32) * segment_BT
    return Batch(tokens_BT, targets_BT, segment_BT, position_BT, loss_mask_BT=mask_BT)


@functools.partial(jax.jit, static_argnums=0)
def _score(model, params, router_state, batch):
    """Nats of each row, [B]."""
    key = jax.random.key(0)
    output = decoding.build(model).apply(params, router_state, batch, key=key, train=False)
    _, nll_BT = cross_entropy.weighted(output.scores, batch.targets_BT, batch.counted_BT)
    return sharding.reshard(nll_BT, "..").sum(1)
