"""Held-out loss in nats per token and bits per byte, on fixed batches."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe import sharding
from moe.data import batches, masking
from moe.training import loss

EVALUATION = 2**31 - 1  # the seed of what is hidden; training has small ones


class Score(NamedTuple):
    """A model's result on a split."""

    nll: float  # nats per token
    bits_per_byte: float
    metrics: dict  # router statistics over the whole split, as `loss.total` gives them
    domain_nll: dict[str, float]  # nats per token of each domain that occurs
    nll_R: np.ndarray  # sum of nats of each row, in the fixed order, for paired intervals
    tokens_R: np.ndarray  # targets of each row
    document_R: np.ndarray  # the document each row begins in
    choices: np.ndarray | None  # expert_GSK of the first batch, [L, G, S, K], if tokens choose


def score(run_model, state, data, model, split, *, batch_size, seq_len, max_batches) -> Score:
    """Runs the fixed batches of a split; identical batches for every model and seed.

    Every process reads all rows and computes its share. Bits per byte divides by the UTF-8 bytes
    that the target tokens stand for, so that models with different vocabularies compare. A <doc>
    target costs bits and stands for no byte. A bidirectional model is judged on hidden tokens, the
    same in every call.

    Args:
      run_model: `step.make_eval_step(model)`.
      state: what it runs, a `step.State`.
      model: its config.
    """
    size = {"batch_size": batch_size, "seq_len": seq_len, "max_batches": max_batches}
    sums, choices, rows, lengths, length_in_bytes = None, None, [], [], 0
    by_domain = np.zeros((2, len(data.domain_names)))  # nats, tokens
    for index, (batch, read) in enumerate(_eval_inputs(data, split, model, **size)):
        row_B = (batch.segment_BT > 0).any(1)
        output = run_model(state, sharding.shard_batch(read), jnp.int32(index))
        sums = output.sums if sums is None else jax.tree.map(jnp.add, sums, output.sums)
        if index == 0 and output.choices is not None:
            choices = np.asarray(output.choices)
        loss_mask_BT, nll_BT = read.loss_mask_BT > 0, np.asarray(output.nll_BT, float)
        rows.append(nll_BT.sum(1)[row_B])
        lengths.append(loss_mask_BT.sum(1)[row_B])
        length_in_bytes += int((data.token_bytes[read.targets_BT] * loss_mask_BT).sum())
        for total, value_BT in zip(by_domain, (nll_BT, np.ones_like(nll_BT)), strict=True):
            np.add.at(total, batch.domain_BT[loss_mask_BT], value_BT[loss_mask_BT])
    _, metrics = loss.total(sums, model.experts)
    numbers = batches.eval_rows(data, split, seq_len, max_batches * batch_size)
    return Score(
        nll=float(metrics["nll"]),
        bits_per_byte=float(sums.nll) / math.log(2) / length_in_bytes,
        metrics=metrics,
        domain_nll={n: a / b for n, a, b in zip(data.domain_names, *by_domain, strict=True) if b},
        nll_R=np.concatenate(rows),
        tokens_R=np.concatenate(lengths),
        document_R=batches.document_of(data, split, numbers, seq_len),
        choices=choices,
    )


def choices(run_model, state, data, model, *, batch_size, seq_len, max_batches):
    """expert_GSK on the first batch of `score` on validation, [L, G, S, K]; None if none chose."""
    size = {"batch_size": batch_size, "seq_len": seq_len, "max_batches": max_batches}
    _, read = next(_eval_inputs(data, "validation", model, **size))
    output = run_model(state, sharding.shard_batch(read), jnp.int32(0))
    return None if output.choices is None else np.asarray(output.choices)


def _eval_inputs(data, split, model, *, batch_size, seq_len, max_batches):
    """(batch, inputs) of a split in its fixed order."""
    size = {"batch_size": batch_size, "seq_len": seq_len, "max_batches": max_batches}
    rows = batches.eval_rows(data, split, seq_len, max_batches * batch_size)
    rows = np.append(rows, np.zeros(-len(rows) % batch_size, int)).reshape(-1, batch_size)
    for some, batch in zip(rows, batches.eval_batches(data, split, **size), strict=True):
        if model.bidirectional:
            yield batch, inputs(batch, masking.hidden_in_rows(EVALUATION, some, seq_len))
        else:
            yield batch, inputs(batch)


def inputs(batch: batches.Batch, hidden_BT=None) -> loss.Inputs:
    """What the step reads of a batch.

    Args:
      hidden_BT: True for tokens that are hidden and are to be output; without it the targets are
        the next tokens.
    """
    tokens, targets, segment, position, domain = batch
    counted = (segment > 0) if hidden_BT is None else hidden_BT & (segment > 0)
    if hidden_BT is not None:
        tokens, targets = np.where(counted, masking.HIDDEN, tokens), tokens
    return loss.Inputs(tokens, targets, segment, position, domain, counted.astype(np.int32))
