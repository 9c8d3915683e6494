"""Next token: what follows each token of a document, in nats."""

from collections.abc import Iterator

import jax
import numpy as np

from moe.batch import Batch
from moe.config import ModelConfig
from moe.data import batches
from moe.data.prepared import Prepared
from moe.errors import UserError
from moe.models.contract import Model
from moe.objectives import contract, cross_entropy
from moe.objectives.contract import Run


def forward(
    model: Model,
    options: contract.Options,
    params: dict,
    router_state: dict,
    batch: Batch,
    key: jax.Array,
    train: bool,
) -> contract.ForwardOutput:
    """Cross-entropy of every target that the batch's loss mask counts."""
    del options
    output = model.apply(params, router_state, batch, key=key, train=train)
    total, nll_BT = cross_entropy.weighted(output.scores, batch.targets_BT, batch.counted_BT)
    sums = contract.sums_of(model, output, nll_BT, batch.counted_BT)._replace(nll=total)
    return contract.ForwardOutput(sums, nll_BT, output.choices)


def source(run: Run, data: Prepared) -> contract.BatchSource:
    """Rows of text with the next tokens as targets."""
    t = run.train
    size = {"batch_size": t.batch_size, "seq_len": t.seq_len}
    unique = t.unique_tokens // t.seq_len

    def train(step: int, rows: np.ndarray) -> Batch:
        return batches.train_batch(
            data, **size, seed=t.seed, step=step, numbers=rows, unique_rows=unique
        )

    def held_out(split: str, max_batches: int) -> Iterator[Batch]:
        size = {"batch_size": run.micro_batch, "seq_len": t.seq_len, "max_batches": max_batches}
        return batches.eval_batches(data, split, **size)

    return contract.BatchSource(train, held_out)


def check(config: ModelConfig, options: contract.Options) -> None:
    """Refuses a model that predicts no tokens, sees what it is to predict, or lacks inputs."""
    del options
    if hasattr(config, "num_classes"):
        raise UserError(
            "objective.name='next_token' with a model that tells classes, not tokens: use"
            " 'classification'"
        )
    if len(config.stacks) > 1:
        raise UserError(
            "objective.name='next_token' gives an encoder nothing to read: use 'span_corruption'"
        )
    if not config.causal:
        raise UserError(
            "objective.name='next_token' with model.causal=False: the model would see the token"
            " that it is to predict. Use objective.name='masked_token', or model.causal=True"
        )


OBJECTIVE = contract.Objective(forward, source, check=check)
