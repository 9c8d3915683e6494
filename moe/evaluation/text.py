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
    nll_R: (
        np.ndarray
    )  # sum of nats of each row (sequence), in the fixed order, for paired intervals
    tokens_R: np.ndarray  # real tokens of each row


def score(eval_step, params, data, moe, split, *, batch_size, seq_len, max_batches) -> Score:
    """Runs the fixed batches of a split; identical batches for every model and seed.

    Every process reads all rows and computes its share. Bits per byte divides by the UTF-8 bytes
    that the target tokens stand for, so that models with different vocabularies compare. A <doc>
    target costs bits and stands for no byte.
    """
    sums, rows, lengths, length_in_bytes = None, [], [], 0
    fixed = batches.eval_batches(
        data, split, batch_size=batch_size, seq_len=seq_len, max_batches=max_batches
    )
    for index, batch in enumerate(fixed):
        real_BT = batch.segment_BT > 0
        part, nll_BT = eval_step(params, sharding.put_whole(inputs(batch)), jnp.int32(index))
        sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
        rows.append(np.asarray(nll_BT).sum(1)[real_BT.any(1)])
        lengths.append(real_BT.sum(1)[real_BT.any(1)])
        length_in_bytes += int((data.token_bytes[batch.targets_BT] * real_BT).sum())
    _, metrics = loss.total(sums, moe)
    bits = float(sums.nll) / math.log(2)
    nll = float(metrics["nll"])
    return Score(
        nll, bits / length_in_bytes, metrics, np.concatenate(rows), np.concatenate(lengths)
    )


def inputs(batch: batches.Batch) -> loss.Inputs:
    """What the step reads of a batch."""
    return loss.Inputs(batch.tokens_BT, batch.targets_BT, batch.segment_BT, batch.position_BT)
