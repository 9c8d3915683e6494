"""Which of two candidates is the better one: PairRanker's loss (Jiang et al. 2023, section 3.1).

A row is an input x with two of its candidates, y and y', in either order. With z = 1 where a
candidate's quality is the higher one of both, else 0, and its score s, the loss is

    -sum over both candidates of  z log sigmoid(s) + (1 - z) log(1 - sigmoid(s)),

halved as in the authors' code. The paper has one such term for each metric of quality; here there
is one metric. Pairs of equal quality teach nothing, and are left out.

A row of T tokens of text is an input and a reference of `written` tokens.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moe import schema
from moe.batch import Batch
from moe.data import candidates
from moe.data.candidates import Candidates
from moe.data.prepared import Prepared
from moe.models.contract import Model
from moe.models.pair_ranker import FIRST, MARKS, SECOND, SOURCE
from moe.objectives import contract
from moe.objectives.contract import Run


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """What is compared."""

    folder: str = ""  # of `data.candidates`
    written: int = 16  # tokens of a candidate, at most


def lengths(options: Options, length: int) -> tuple[int]:
    """Of an input, two candidates, and their marks."""
    return (length + options.written + len(MARKS),)


def rows(found: Candidates, x_B: np.ndarray, pair_B2: np.ndarray) -> Batch:
    """Inputs with two of their candidates each; the targets at the marks are z.

    Args:
      found: all of them.
      x_B: numbers of the inputs, -1 for a row of padding.
      pair_B2: numbers of the candidates.
    """
    quality_B2 = np.take_along_axis(found.quality_XN[x_B], pair_B2, axis=1)
    better_B2 = quality_B2 > quality_B2[:, ::-1]
    first_BY, second_BY = (found.candidate_XNY[x_B, n_B] for n_B in pair_B2.T)
    marked = ((SOURCE, found.input_XZ[x_B]), (FIRST, first_BY), (SECOND, second_BY))
    tokens_BT = np.concatenate([_marked(mark, ids_BY) for mark, ids_BY in marked], axis=1)
    real_BT = (tokens_BT != candidates.NONE) & (x_B >= 0)[:, None]
    targets_BT = sum(
        np.where(tokens_BT == mark, better_B2[:, n : n + 1], 0)
        for n, mark in enumerate((FIRST, SECOND))
    )
    position_BT = np.broadcast_to(np.arange(tokens_BT.shape[1]), tokens_BT.shape)
    given = (tokens_BT, targets_BT, np.ones_like(tokens_BT), position_BT)
    tokens, targets, segment, position = (np.where(real_BT, a, 0).astype(np.int32) for a in given)
    return Batch(tokens, targets, segment, position, np.zeros_like(tokens))


def _marked(mark, ids_BY):
    return np.pad(ids_BY, ((0, 0), (1, 0)), constant_values=mark)


def forward(
    model: Model,
    options: Options,
    params: dict,
    router_state: dict,
    batch: Batch,
    key: jax.Array,
    train: bool,
) -> contract.ForwardOutput:
    """The loss of rows, and how often the better one has the higher score."""
    del options
    output = model.apply(params, router_state, batch, key=key, train=train)
    score_B2 = output.logits
    real_B = jnp.any(batch.segment_BT > 0, axis=1)
    better_B2 = jnp.stack(
        [(batch.targets_BT * (batch.tokens_BT == mark)).sum(1) for mark in (FIRST, SECOND)], axis=1
    )
    nll_B = (jax.nn.softplus(score_B2) - better_B2 * score_B2).mean(1) * real_B
    right_B = (score_B2[:, 0] > score_B2[:, 1]) == (better_B2[:, 0] > better_B2[:, 1])
    extra = {"accuracy": (right_B & real_B).sum().astype(jnp.float32)}
    sums = contract.sums_of(model, output, nll_B, real_B, extra)
    return contract.ForwardOutput(sums, jax.lax.stop_gradient(nll_B), output.choices)


@functools.lru_cache(maxsize=8)
def pairs(folder: str, split: str) -> tuple[Candidates, np.ndarray]:
    """The candidates of a split, and (input, better, worse) of every pair of unequal quality.

    Raises:
      UserError: as `candidates.read`, and if all are of one quality.
    """
    found = candidates.read(folder, split)
    better_XNN = found.quality_XN[:, :, None] > found.quality_XN[:, None]
    pair_R3 = np.argwhere(better_XNN)
    schema.require(len(pair_R3) > 0, f"in {folder} no candidate is better than another")
    return found, pair_R3


def source(run: Run, data: Prepared) -> contract.BatchSource:
    """Rows of pairs: in training any pair in any order, in evaluation as many fixed ones as inputs.

    Raises:
      UserError: by what it returns, as `pairs`.
    """
    del data
    candidates.check_run(run)
    folder, seed = run.objective.options.folder, run.train.seed

    def train(step: int, numbers: np.ndarray) -> Batch:
        found, pair_R3 = pairs(folder, "train")
        rngs = [np.random.default_rng((seed, step, int(number))) for number in numbers]
        return _drawn(found, pair_R3[[rng.integers(len(pair_R3)) for rng in rngs]], rngs)

    def held_out(split: str, max_batches: int) -> Iterator[Batch]:
        found, pair_R3 = pairs(folder, split)
        rng = np.random.default_rng(contract.EVALUATION_SEED)
        most = max_batches * run.micro_batch or len(found.input_XZ)
        some = rng.permutation(pair_R3)[: min(most, len(found.input_XZ))]
        for first in range(0, len(some), run.micro_batch):
            few = some[first : first + run.micro_batch]
            idle = np.tile([[-1, 0, 1]], (run.micro_batch - len(few), 1))
            yield _drawn(found, np.concatenate([few, idle]), [rng] * run.micro_batch)

    return contract.BatchSource(train, held_out)


def _drawn(found, pair_B3, rngs):
    """The batch of these, each in an order that is drawn."""
    pair_B2 = np.stack(
        [rng.permutation(pair) for rng, pair in zip(rngs, pair_B3[:, 1:], strict=True)]
    )
    return rows(found, pair_B3[:, 0], pair_B2)


def check(config: Any, options: Options) -> None:
    """Refuses models that compare nothing, and routers that are paid for every token."""
    schema.require(
        getattr(config, "OBJECTIVE", None) == "pair_ranking",
        "objective.name='pair_ranking' needs a model that compares: architecture='pair_ranker'",
    )
    schema.require(
        config.experts is None or config.experts.router != "reinforce",
        "experts.router='reinforce' is paid for every token: not for pairs",
    )
    schema.require(options.written > 0, f"objective.options.written={options.written}: at least 1")


OBJECTIVE = contract.Objective(forward, source, Options, check, result="loss", lengths=lengths)
