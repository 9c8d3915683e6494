"""How calibrated a language model's forecasts of held-out tokens are."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe import sharding
from moe.batch import Batch
from moe.data.prepared import Prepared
from moe.evaluation import calibration, held_out
from moe.evaluation.contract import Evaluator, State
from moe.layers import embedding
from moe.models.contract import Model
from moe.objectives import contract


class Forecast(NamedTuple):
    """Of every target, [B, T]."""

    confidence: jax.Array  # probability of the most probable token
    right: jax.Array  # is it that one? Where several are as probable, any of them
    distance: jax.Array  # squared, of all probabilities and the one-hot target: its Brier score


def forecasts(
    model: Model, params: dict, router_state: dict, batch: Batch, key: jax.Array
) -> Forecast:
    """What a model says of every target; makes the logits [B, T, V]."""
    logits_BTV = model.apply(params, router_state, batch, key=key, train=False).logits
    total_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    most_BT = logits_BTV.max(-1)
    hit_BT = embedding.pick(logits_BTV, jnp.asarray(batch.targets_BT))
    squares_BT = jnp.exp(2 * (logits_BTV - total_BT[..., None])).sum(-1)
    return Forecast(
        confidence=jnp.exp(most_BT - total_BT),
        right=hit_BT >= most_BT,
        distance=squares_BT - 2 * jnp.exp(hit_BT - total_BT) + 1,
    )


@functools.cache
def _compiled(model) -> Callable:
    @jax.jit
    def of_batch(params: dict, router_state: dict, batch: Batch, index: jax.Array) -> Forecast:
        key = jax.random.fold_in(jax.random.key(contract.EVALUATION_SEED), index)
        found = forecasts(model, params, router_state, batch, key)
        return jax.tree.map(lambda x: sharding.reshard(x, ".."), found)

    return of_batch


def tokens(run: contract.Run, data: Prepared, split: str = "validation") -> Evaluator:
    """Calibration of the forecasts of a split's targets: errors, Brier scores, a reliability curve.

    Names are those of `calibration.summary`; `brier_all` is the score of the whole distribution,
    and `reliability` the ten bins.
    """
    of_batch = _compiled(run.task.model)
    source = run.source(data)

    def evaluate(state: State) -> dict:
        found = []
        for index, batch in enumerate(source.held_out(split, held_out.max_batches(run, split))):
            placed = sharding.shard_batch(batch)
            of_all = of_batch(state.params, state.router_state, placed, jnp.int32(index))
            found.append([np.asarray(x)[np.asarray(batch.counted_BT)] for x in of_all])
        confidence_N, right_N, distance_N = map(np.concatenate, zip(*found, strict=True))
        bins = calibration.equal_width(confidence_N, right_N)
        return {
            **calibration.summary(confidence_N, right_N),
            "brier_all": float(distance_N.mean()),
            "reliability": {name: x_B.tolist() for name, x_B in bins._asdict().items()},
        }

    return Evaluator(evaluate)
