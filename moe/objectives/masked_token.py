"""Masked tokens, for models that read both ways (Devlin et al. 2019, section 3.1).

A share of the tokens is masked, and the model must say what stood there. All masked ones show the
same vector (id -1); BERT's exceptions, a tenth left as it is and a tenth swapped, are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moe.batch import Batch
from moe.config import ModelConfig
from moe.data import batches
from moe.data.prepared import Prepared
from moe.errors import UserError
from moe.models.decoder import MASKED
from moe.objectives import contract, next_token
from moe.objectives.contract import Run


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """How much is masked."""

    share: float = 0.15  # of the tokens


def source(run: Run, data: Prepared) -> contract.BatchSource:
    """Rows of text in which tokens are masked anew at every step, in evaluation always the same."""
    t = run.train
    share = run.objective.options.share
    plain = next_token.source(run, data)

    def train(step: int, rows: np.ndarray) -> Batch:
        masked_BT = masked(t.seed, step, (t.batch_size, t.seq_len), share)[rows]
        return mask(plain.train(step, rows), masked_BT)

    def held_out(split: str, max_batches: int) -> Iterator[Batch]:
        rows = batches.eval_rows(data, split, t.seq_len, max_batches * run.micro_batch)
        rows = batches.padded_rows(rows, run.micro_batch, padding=0)
        for some, batch in zip(rows, plain.held_out(split, max_batches), strict=True):
            yield mask(batch, masked_in_rows(some, t.seq_len, share))

    return contract.BatchSource(train, held_out)


def mask(batch: Batch, masked_BT: np.ndarray) -> Batch:
    """The batch with these tokens masked, which are its targets."""
    masked_BT = masked_BT & (batch.segment_BT > 0)
    return batch._replace(
        tokens_BT=np.where(masked_BT, MASKED, batch.tokens_BT),
        targets_BT=batch.tokens_BT,
        loss_mask_BT=masked_BT.astype(np.int32),
    )


def masked(seed: int, step: int, shape: tuple[int, int], share: float) -> np.ndarray:
    """Which tokens of a batch [B, T] are masked: a pure function of (seed, step)."""
    return np.random.default_rng((seed, step)).random(shape) < share


def masked_in_rows(rows: np.ndarray, length: int, share: float) -> np.ndarray:
    """Which tokens of held-out rows are masked, [rows, T], whatever batch they come in."""
    seed = contract.EVALUATION_SEED
    return np.concatenate([masked(seed, int(row), (1, length), share) for row in rows])


def check(config: ModelConfig, options: Options) -> None:
    """Refuses a model without a vector for masked tokens, and shares that are none."""
    if not config.mask_embedding:
        raise UserError(
            "objective.name='masked_token' needs a vector for masked tokens: set"
            " model.mask_embedding=True (and model.causal=False, to read both ways)"
        )
    if not 0 < options.share < 1:
        raise UserError(f"objective.options.share={options.share} must be between 0 and 1")


OBJECTIVE = contract.Objective(next_token.forward, source, Options, check)
