"""The reference, from the input and some candidates: GenFuser (Jiang et al. 2023, section 3.2).

The encoder reads the input and the candidates, each after an id of its own above those of the
text, which are as many as a model has sentinels that begins with span corruption. The decoder
writes the reference, as of `span_corruption.as_batch`.

A row of T tokens of text is an input and a reference of `written` tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe import ranges, schema
from moe.batch import Batch, Inputs
from moe.data import candidates
from moe.data.candidates import Candidates
from moe.data.prepared import Prepared
from moe.objectives import contract, next_token, span_corruption
from moe.objectives.contract import Run


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """What is fused."""

    folder: str = ""  # of `data.candidates`, the best candidate of an input first
    written: int = 16  # tokens of a candidate and of the reference
    fused: int = 3  # candidates of an input


def lengths(options: Options, length: int) -> tuple[int, int]:
    """(decoder's, encoder's) positions."""
    return options.written, length - options.written + options.fused * (1 + options.written)


def inputs(found: Candidates, top: int) -> list[list[int]]:
    """What the encoder reads for each input.

    Args:
      found: the candidates, all of which are read.
      top: the id before the first candidate; the next ones lie below it.
    """
    marks_N1 = top - np.arange(found.candidate_XNY.shape[1])[:, None]
    X = len(found.input_XZ)
    marks_XN1 = np.broadcast_to(marks_N1, (X, *marks_N1.shape))
    marked_XNY = np.concatenate([marks_XN1, found.candidate_XNY], axis=2)
    whole_XU = np.concatenate([found.input_XZ, marked_XNY.reshape(X, -1)], axis=1)
    return [ids_U[ids_U != candidates.NONE].tolist() for ids_U in whole_XU]


def batch(read: Sequence[list[int]], reference_BY: np.ndarray, size: int, start: int) -> Batch:
    """Rows of inputs and references; a row without inputs is padding.

    Args:
      read: of `inputs`.
      reference_BY: ids.
      size: U.
      start: with which the decoder starts.
    """
    real_B1 = np.array([[bool(ids)] for ids in read])
    ids_BU = np.array([ids + [candidates.NONE] * (size - len(ids)) for ids in read])
    made = span_corruption.as_batch(np.maximum(ids_BU, 0), reference_BY, real_B1, start)
    real_BU = (ids_BU != candidates.NONE).astype(np.int32)
    assert made.encoder is not None
    tokens_BU, _, position_BU = made.encoder
    return made._replace(encoder=Inputs(tokens_BU, real_BU, position_BU * real_BU))


def source(run: Run, data: Prepared) -> contract.BatchSource:
    """Rows of candidates: in training any, in evaluation those of every input once."""
    o, t = run.objective.options, run.train
    candidates.check_run(run)
    size = lengths(o, t.seq_len)[1]

    def of(split: str, x_B: np.ndarray) -> Batch:
        found = candidates.read(o.folder, split)
        some = Candidates(*(part[x_B] for part in found))
        read = inputs(some, run.model.vocab_size - 1)
        read = [ids if x >= 0 else [] for ids, x in zip(read, x_B, strict=True)]
        return batch(read, some.reference_XY, size, data.doc_id)

    def train(step: int, rows: np.ndarray) -> Batch:
        number = len(candidates.read(o.folder, "train").input_XZ)
        rngs = [np.random.default_rng((t.seed, step, int(row))) for row in rows]
        return of("train", np.array([rng.integers(number) for rng in rngs]))

    def held_out(split: str, max_batches: int) -> Iterator[Batch]:
        number = len(candidates.read(o.folder, split).input_XZ)
        some = np.arange(number)[: max_batches * run.micro_batch or None]
        padded = np.append(some, np.full(-len(some) % run.micro_batch, -1))
        for x_B in padded.reshape(-1, run.micro_batch):
            yield of(split, x_B)

    return contract.BatchSource(train, held_out)


def extra_ids(options: Options, length: int) -> int:
    """One before each candidate."""
    del length
    return options.fused


def check(config: Any, options: Options) -> None:
    """Refuses models without an encoder, and options that fuse nothing."""
    schema.require(
        len(config.stacks) > 1,
        "objective.name='fusing' needs an encoder: architecture='encoder_decoder'",
    )
    for name in ("written", "fused"):
        value = getattr(options, name)
        ranges.check_value(f"objective.options.{name}", value, ranges.above_zero(10**6))


OBJECTIVE = contract.Objective(
    next_token.forward,
    source,
    Options,
    check,
    result="loss",
    lengths=lengths,
    extra_ids=extra_ids,
)
