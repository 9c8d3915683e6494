"""Held-out loss in nats per token and bits per byte, on fixed batches."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe import sharding
from moe.data import batches
from moe.training import loss


class Score(NamedTuple):
    """A model's result on a split."""

    nll: float  # nats per token
    bits_per_byte: float
    metrics: dict  # router statistics over the whole split, as `loss.total` gives them
    domain_nll: dict[str, float]  # nats per token of each domain that occurs
    nll_R: np.ndarray  # sum of nats of each row, in the fixed order, for paired intervals
    tokens_R: np.ndarray  # real tokens of each row
    document_R: np.ndarray  # the document each row begins in


def score(eval_step, params, data, moe, split, *, batch_size, seq_len, max_batches) -> Score:
    """Runs the fixed batches of a split; identical batches for every model and seed.

    Every process reads all rows and computes its share. Bits per byte divides by the UTF-8 bytes
    that the target tokens stand for, so that models with different vocabularies compare. A <doc>
    target costs bits and stands for no byte.
    """
    size = {"batch_size": batch_size, "seq_len": seq_len, "max_batches": max_batches}
    sums, rows, lengths, length_in_bytes = None, [], [], 0
    by_domain = np.zeros((2, len(data.domain_names)))  # nats, tokens
    for index, batch in enumerate(batches.eval_batches(data, split, **size)):
        real_BT = batch.segment_BT > 0
        part, nll_BT = eval_step(params, sharding.put(inputs(batch)), jnp.int32(index))
        sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
        nll_BT = np.asarray(nll_BT, float)
        rows.append(nll_BT.sum(1)[real_BT.any(1)])
        lengths.append(real_BT.sum(1)[real_BT.any(1)])
        length_in_bytes += int((data.token_bytes[batch.targets_BT] * real_BT).sum())
        for total, value_BT in zip(by_domain, (nll_BT, np.ones_like(nll_BT)), strict=True):
            np.add.at(total, batch.domain_BT[real_BT], value_BT[real_BT])
    _, metrics = loss.total(sums, moe)
    numbers = batches.eval_rows(data, split, seq_len, max_batches * batch_size)
    return Score(
        nll=float(metrics["nll"]),
        bits_per_byte=float(sums.nll) / math.log(2) / length_in_bytes,
        metrics=metrics,
        domain_nll={n: a / b for n, a, b in zip(data.domain_names, *by_domain, strict=True) if b},
        nll_R=np.concatenate(rows),
        tokens_R=np.concatenate(lengths),
        document_R=batches.document_of(data, split, numbers, seq_len),
    )


def inputs(batch: batches.Batch) -> loss.Inputs:
    """What the step reads of a batch."""
    return loss.Inputs(batch.tokens_BT, batch.targets_BT, batch.segment_BT, batch.position_BT)
