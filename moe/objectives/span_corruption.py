"""Span corruption (Raffel et al. 2020, section 3.1.4), for models with an encoder.

Of a row of T tokens a share is noise, in spans. The encoder reads the row with each span replaced
by one sentinel; the decoder learns sentinel and span, one after the other. Both end with the token
that starts a document, with which the decoder also starts. Sentinels count down from the highest
id, which lie above those of the text.

Spans are drawn as T5's `random_spans_noise_mask` draws them: so many noise tokens and so many
others are each cut into as many pieces as there are spans, all ways to cut being equally likely,
and pieces of both kinds alternate, the first no noise. So all rows have the same lengths, and
nothing is padded. A row is one segment: T5 does not keep the documents in it apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from moe import ranges
from moe.batch import Batch, Inputs
from moe.data import batches
from moe.data.prepared import Prepared
from moe.errors import UserError
from moe.objectives import contract, next_token
from moe.objectives.contract import Run


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """How much is noise, and how it is cut."""

    share: float = 0.15  # of the tokens that are noise
    mean_span: float = 3.0  # tokens


class Sizes(NamedTuple):
    """What becomes of a row of so many tokens."""

    noise: int  # tokens
    spans: int
    inputs: int  # U: what is left, a sentinel a span, and the end
    targets: int  # T of the decoder: noise, a sentinel a span, and the end


def sizes(options: Options, length: int) -> Sizes:
    """As in T5: at least one token is noise, and one is not."""
    noise = min(max(round(length * options.share), 1), length - 1)
    spans = max(round(noise / options.mean_span), 1)
    spans = min(spans, length - noise)  # each has a token before it
    return Sizes(noise, spans, length - noise + spans + 1, noise + spans + 1)


def lengths(options: Options, length: int) -> tuple[int, int]:
    """(decoder's, encoder's) positions of a row of so many tokens."""
    found = sizes(options, length)
    return found.targets, found.inputs


def sentinels(options: Options, length: int) -> int:
    """How many ids a row needs beside those of the text."""
    return sizes(options, length).spans


def pieces(rng: np.random.Generator, items: int, number: int) -> np.ndarray:
    """The lengths of so many pieces, none empty; all ways to cut are equally likely."""
    cuts = np.sort(rng.permutation(items - 1)[: number - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [items]]))


def noise_mask(rng: np.random.Generator, options: Options, length: int) -> np.ndarray:
    """True at noise, [T]."""
    s = sizes(options, length)
    noise, rest = pieces(rng, s.noise, s.spans), pieces(rng, length - s.noise, s.spans)
    alternate = np.stack([rest, noise], axis=1).ravel()
    return np.repeat(np.arange(2 * s.spans) % 2 == 1, alternate)


def corrupt(tokens_T: np.ndarray, mask_T: np.ndarray, top: int, end: int) -> tuple[Any, Any]:
    """(inputs_U, targets_T) of a row.

    Args:
      tokens_T: of the text.
      mask_T: of `noise_mask`.
      top: the first sentinel; the next ones lie below it.
      end: ends both.
    """
    return _shortened(tokens_T, mask_T, top, end), _shortened(tokens_T, ~mask_T, top, end)


def _shortened(tokens_T, gone_T, top, end):
    """The row with each run of what is gone replaced by its sentinel."""
    starts_T = gone_T & ~np.concatenate([[False], gone_T[:-1]])
    sentinel_T = top - (np.cumsum(starts_T) - 1)
    kept = np.where(starts_T, sentinel_T, tokens_T)[starts_T | ~gone_T]
    return np.append(kept, end)


def row(
    tokens_T: np.ndarray, seed: tuple[int, ...], options: Options, top: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """(inputs_U, targets_T) of a row, a pure function of it and the seed."""
    mask_T = noise_mask(np.random.default_rng(seed), options, len(tokens_T))
    return corrupt(tokens_T, mask_T, top, end)


def source(run: Run, data: Prepared) -> contract.BatchSource:
    """Rows corrupted anew at every step, in evaluation always the same."""
    t = run.train
    options = run.objective.options
    top = run.model.vocab_size - 1
    plain = next_token.source(run, data)

    def corrupted(batch: Batch, seeds: Sequence[tuple[int, ...]]) -> Batch:
        rows = zip(np.asarray(batch.tokens_BT), seeds, strict=True)
        made = [row(tokens_T, seed, options, top, data.doc_id) for tokens_T, seed in rows]
        real_B1 = np.asarray(batch.segment_BT)[:, :1] > 0  # a row is real, or padding
        inputs_BU, targets_BT = (np.stack(part) for part in zip(*made, strict=True))
        return as_batch(inputs_BU, targets_BT, real_B1, data.doc_id)

    def train(step: int, rows: np.ndarray) -> Batch:
        seeds = [(t.seed, step, int(row)) for row in rows]
        return corrupted(plain.train(step, rows), seeds)

    def held_out(split: str, max_batches: int) -> Iterator[Batch]:
        rows = batches.eval_rows(data, split, t.seq_len, max_batches * run.micro_batch)
        rows = batches.padded_rows(rows, run.micro_batch, padding=0)
        for some, batch in zip(rows, plain.held_out(split, max_batches), strict=True):
            yield corrupted(batch, [(contract.EVALUATION_SEED, int(row)) for row in some])

    return contract.BatchSource(train, held_out)


def as_batch(
    inputs_BU: np.ndarray, targets_BT: np.ndarray, real_B1: np.ndarray, start: int
) -> Batch:
    """The batch in which the decoder reads each target's predecessor, first the start."""
    shifted_BT = np.concatenate([np.full_like(targets_BT[:, :1], start), targets_BT[:, :-1]], 1)

    def places(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.broadcast_to(real_B1, x.shape), np.broadcast_to(np.arange(x.shape[1]), x.shape)

    def given(x: np.ndarray) -> np.ndarray:
        return np.where(real_B1, x, 0).astype(np.int32)

    of_U, of_T = ([given(x) for x in places(ids)] for ids in (inputs_BU, targets_BT))
    encoder = Inputs(given(inputs_BU), *of_U)
    return Batch(given(shifted_BT), given(targets_BT), of_T[0], of_T[1], encoder=encoder)


def check(config: Any, options: Options) -> None:
    """Refuses models without an encoder, and options that cut nothing."""
    if len(config.stacks) == 1:
        raise UserError(
            "objective.name='span_corruption' needs an encoder: architecture='encoder_decoder'"
        )
    if not 0 < options.share < 1:
        raise UserError(f"objective.options.share={options.share} must be between 0 and 1")
    ranges.check_value("objective.options.mean_span", options.mean_span, ranges.Range(1, 1e6))


OBJECTIVE = contract.Objective(
    next_token.forward,
    source,
    Options,
    check,
    result="loss",
    lengths=lengths,
    extra_ids=sentinels,
)
