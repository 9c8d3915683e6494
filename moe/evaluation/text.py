"""Held-out text in nats per token and bits per byte, by domain and by document."""

import math
from typing import NamedTuple

import jax
import numpy as np

from moe.data import batches
from moe.data.prepared import Prepared
from moe.evaluation import held_out
from moe.evaluation.contract import Evaluator, State
from moe.objectives import contract


class Score(NamedTuple):
    """A model's result on a split of text."""

    nll: float  # nats per token
    bits_per_byte: float
    metrics: dict  # router statistics over the whole split, as `contract.total` gives them
    domain_nll: dict[str, float]  # nats per token of each domain that occurs
    nll_R: np.ndarray  # sum of nats of each row, in the fixed order, for paired intervals
    tokens_R: np.ndarray  # targets of each row
    document_R: np.ndarray  # the document each row begins in


def score(
    eval_step: held_out.EvalStep,
    source: contract.BatchSource,
    state: State,
    data: Prepared,
    split: str,
    *,
    run: contract.Run,
) -> Score:
    """Runs the fixed batches of a split; identical batches for every model and seed.

    Every process reads all rows and computes its share. Bits per byte divides by the UTF-8 bytes
    that the target tokens stand for, so that models with different vocabularies compare. A <doc>
    target costs bits and stands for no byte.

    Args:
      eval_step: made by `held_out.eval_step_of`.
      source: where batches are read from.
      state: what is evaluated.
      data: the prepared data.
      split: "validation" or "test".
      run: the run's config.
    """
    most = held_out.max_batches(run, split)
    sums = None
    parts = []
    for batch, output in held_out.outputs(eval_step, source, state, split, most):
        sums = held_out.add(sums, output.sums)
        parts.append(_part(batch, np.asarray(output.nll, float), data.token_bytes))
    assert sums is not None  # a split has at least one batch
    _, metrics = contract.total(sums, run.model.experts)
    numbers = batches.eval_rows(data, split, run.train.seq_len, most * run.micro_batch)
    whole = _Part(*map(np.concatenate, zip(*parts, strict=True)))
    return Score(
        nll=float(metrics["nll"]),
        bits_per_byte=float(sums.nll) / math.log(2) / int(whole.bytes_N.sum()),
        metrics=metrics,
        domain_nll=_by_domain(whole, data.domain_names),
        nll_R=whole.nll_R,
        tokens_R=whole.tokens_R,
        document_R=batches.document_of(data, split, numbers, run.train.seq_len),
    )


class _Part(NamedTuple):
    """Of the R rows of a batch, or of a split, and their N targets."""

    nll_R: np.ndarray
    tokens_R: np.ndarray
    nll_N: np.ndarray
    bytes_N: np.ndarray
    domain_N: np.ndarray


def _part(batch, nll_BT, token_bytes):
    real_B = (batch.segment_BT > 0).any(1)
    counted_BT = batch.counted_BT
    assert batch.domain_BT is not None  # text always says which source it comes from
    return _Part(
        nll_R=nll_BT.sum(1)[real_B],
        tokens_R=counted_BT.sum(1)[real_B],
        nll_N=nll_BT[counted_BT],
        bytes_N=token_bytes[batch.targets_BT][counted_BT],
        domain_N=batch.domain_BT[counted_BT],
    )


def _by_domain(whole, names):
    """Nats per token of each domain that occurs."""
    nats = np.bincount(whole.domain_N, whole.nll_N, len(names))
    tokens = np.bincount(whole.domain_N, minlength=len(names))
    return {name: n / t for name, n, t in zip(names, nats, tokens, strict=True) if t}


def text(run: contract.Run, data: Prepared, split: str = "validation") -> Evaluator:
    """Nats, bits per byte, nats by domain, and sums by document for paired intervals."""
    eval_step = held_out.eval_step_of(run.task)
    source = run.source(data)

    def evaluate(state: State) -> dict:
        return summary(score(eval_step, source, state, data, split, run=run), split)

    return Evaluator(evaluate)


def summary(final: Score, split: str = "test") -> dict:
    """The score by name: `<split>_nll` and so on, and the metrics under the split's own name."""
    documents, which_R = np.unique(final.document_R, return_inverse=True)
    return {
        f"{split}_nll": final.nll,
        f"{split}_bits_per_byte": final.bits_per_byte,
        f"{split}_domain_nll": final.domain_nll,
        split: jax.tree.map(np.asarray, final.metrics),
        f"{split}_documents": documents.tolist(),
        f"{split}_documents_nll": np.round(np.bincount(which_R, final.nll_R), 3).tolist(),
        f"{split}_documents_tokens": np.bincount(which_R, final.tokens_R).astype(int).tolist(),
    }
