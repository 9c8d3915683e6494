"""Held-out loss on the fixed batches of a split, whatever the objective is."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from moe import sharding
from moe.batch import Batch
from moe.data.prepared import Prepared
from moe.evaluation.contract import Evaluator, State
from moe.objectives import contract

# (state, batch on the devices, its number) -> its forward pass
EvalStep = Callable[[State, Batch, jax.Array], contract.ForwardOutput]


def outputs(
    eval_step: EvalStep,
    source: contract.BatchSource,
    state: State,
    split: str,
    max_batches: int,
) -> Iterator[tuple[Batch, contract.ForwardOutput]]:
    """(host batch, its forward pass) of the fixed batches of a split, the same for every model.

    Args:
      eval_step: made by `eval_step_of`.
      source: where batches are read from.
      state: its parameters and router state are used.
      split: "validation" or "test".
      max_batches: 0 is the whole split.
    """
    for index, batch in enumerate(source.held_out(split, max_batches)):
        yield batch, eval_step(state, sharding.shard_batch(batch), jnp.int32(index))


def add(sums: contract.Sums | None, more: contract.Sums) -> contract.Sums:
    """The sums with those of one more batch; None stands for no batch yet."""
    return more if sums is None else jax.tree.map(jnp.add, sums, more)


@functools.cache
def eval_step_of(task: contract.Task) -> EvalStep:
    """The jitted forward pass in evaluation; what routers draw follows the batch's number."""

    @jax.jit
    def eval_step(
        params: dict, router_state: dict, batch: Batch, index: jax.Array
    ) -> contract.ForwardOutput:
        key = jax.random.fold_in(jax.random.key(contract.EVALUATION_SEED), index)
        output = task.forward(params, router_state, batch, key, False)
        # Every process sees every row.
        return output._replace(
            nll=sharding.reshard(output.nll, "." * output.nll.ndim),
            choices=jax.tree.map(lambda x: sharding.reshard(x, "...."), output.choices),
        )

    def on_state(state: State, batch: Batch, index: jax.Array) -> contract.ForwardOutput:
        return eval_step(state.params, state.router_state, batch, index)

    return on_state


def max_batches(run: contract.Run, split: str) -> int:
    """How many batches of a split the run's config asks for."""
    return run.train.eval_batches if split == "validation" else run.train.test_batches


def loss(run: contract.Run, data: Prepared, split: str = "validation") -> Evaluator:
    """The loss of the run's objective on a split, with the router statistics of all its tokens."""
    eval_step = eval_step_of(run.task)
    source = run.source(data)

    def evaluate(state: State) -> dict:
        sums = None
        for _, output in outputs(eval_step, source, state, split, max_batches(run, split)):
            sums = add(sums, output.sums)
        assert sums is not None  # a split has at least one batch
        return contract.total(sums, run.model.experts)[1]

    return Evaluator(evaluate)
