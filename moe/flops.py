"""What a model costs, ideal and executed, and the matcher that makes two models cost the same.

Ideal is what the mathematics needs: K experts a token and causal attention to (T + 1) / 2
positions on average. Executed is what the compiled step does: capacity padding, router, one-hot
dispatch, masked attention and rematerialisation included, counted from its jaxpr. Both are
matrix-product FLOPs of one training step (forward and backward), per token.
"""

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from moe import counting, models, objectives, paths, schema
from moe.batch import Batch
from moe.config import ModelConfig
from moe.execution import Execution
from moe.layers import ngrams
from moe.models import contract, lora
from moe.training import gradients

if TYPE_CHECKING:  # a run brings data with it, which counting does not need
    from moe.training.config import RunConfig


class Parameters(NamedTuple):
    """Numbers of parameters: of the whole model, and those one token meets."""

    total: int
    active: int


class Match(NamedTuple):
    """Two models of equal FLOPs, and how equal."""

    dense: ModelConfig
    sparse: ModelConfig
    dense_flops: float  # per token and training step
    sparse_flops: float
    residual: float  # |sparse / dense - 1|

    def __str__(self):
        experts = self.sparse.experts
        assert experts is not None  # they are what makes it the sparse one
        return (
            f"dense d_ff={self.dense.d_ff}: {self.dense_flops:,.0f} FLOPs/token;"
            f" MoE expert d_ff={experts.d_ff}: {self.sparse_flops:,.0f} FLOPs/token;"
            f" residual mismatch {self.residual:.3%}"
        )


def parameters(model: ModelConfig) -> Parameters:
    """Total and active parameters, from shapes alone.

    A token meets everything but the E - K experts of each layer that it was not sent to, and all
    rows but one of each table of n-grams. The embedding counts in full, as usual.
    """
    shapes = paths.named(models.parameter_shapes(model))
    sizes = {path: math.prod(x.shape) for path, x in shapes.items()}
    total = sum(sizes.values())
    idle = 0
    if model.experts is not None:
        of_experts = sum(size for path, size in sizes.items() if "experts" in path.split("/"))
        met = model.experts.routing.experts_per_token(model.experts)
        idle += round(of_experts * (model.experts.num_experts - met) / model.experts.num_experts)
    if model.ngram_rows:
        idle += len(ngrams.ORDERS) * (model.ngram_rows - 1) * model.d_model
    return Parameters(total, total - idle)


def ideal(model: ModelConfig, length: int) -> dict[str, float]:
    """Ideal FLOPs per token of a training step by part, in closed form: what the maths needs.

    Args:
      model: the config of any model.
      length: T, over which causal attention averages.
    """
    return objectives.task(model).ideal_flops(length)


@functools.cache
def executed(
    model: ModelConfig,
    batch: int,
    length: int,
    accumulate: int = 1,
    objective: objectives.ObjectiveConfig | None = None,
    frozen: tuple[str, ...] = (),
    low_rank: lora.LoraConfig = lora.LoraConfig(),  # noqa: B008, immutable
    remat_policy: str = "full",
) -> counting.Flops:
    """Executed FLOPs of one training step's loss and gradient, on `batch` x `length` tokens.

    Of the grouped dispatcher the slots of its kernel 'blocks' are counted, whatever the kernel;
    what comes beyond them depends on the loads, and statistics tell it.

    Args:
      model: the config of any model.
      batch: sequences in a step, over all devices and micro-batches.
      length: T.
      accumulate: micro-batches; more than one costs a recomputed forward pass.
      objective: what is learned; the model's usual one if it is None.
      frozen: patterns of parameters that are not trained, and need no gradient. Experts of the
        grouped dispatcher are counted as if they did: its gradients are one function.
      low_rank: changes of weights.
      remat_policy: what is kept of blocks that `model.remat` recomputes, see `moe.execution`.
    """
    execution = Execution(remat_policy=remat_policy)
    task = objectives.task(model, objective, frozen, execution, low_rank)

    def step(
        params: dict, router_state: dict, inputs: Batch, key: jax.Array
    ) -> tuple[tuple[jax.Array, Any], dict]:
        return gradients.value_and_grad(task, params, router_state, inputs, key, accumulate)

    return _count(step, task, batch, length)


@functools.cache
def evaluating(
    model: ModelConfig,
    batch: int,
    length: int,
    objective: objectives.ObjectiveConfig | None = None,
) -> counting.Flops:
    """Executed FLOPs of evaluating `batch` x `length` tokens at the evaluation capacity."""
    task = objectives.task(model, objective)

    def forward(
        params: dict, router_state: dict, inputs: Batch, key: jax.Array
    ) -> objectives.contract.ForwardOutput:
        return task.forward(params, router_state, inputs, key, False)

    return _count(forward, task, batch, length)


def of_run(run: "RunConfig") -> counting.Flops:
    """Executed FLOPs of one training step of a run, as `executed` counts them."""
    t = run.train
    what = run.objective, run.frozen, run.lora, run.mesh.remat_policy
    return executed(run.model, t.batch_size, t.seq_len, t.accumulate, *what)


def countable(run: "RunConfig") -> "RunConfig":
    """The run with our own attention, as a fused kernel's products are in no jaxpr."""
    return dataclasses.replace(run, mesh=dataclasses.replace(run.mesh, attention="plain"))


def _count(function, task, batch, length):
    """FLOPs of function(params, router_state, batch, key), from shapes alone."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = contract.parameter_shapes(task.model)
    inputs = task.batch_shapes(batch, length)
    return counting.count(function, params, task.model.router_state(), inputs, key)


def per_token(
    model: ModelConfig,
    batch: int,
    length: int,
    by: str,
    accumulate: int = 1,
    remat_policy: str = "full",
) -> float:
    """FLOPs per token of a training step, `by` "ideal" or "executed"."""
    schema.one_of("by", by, ("ideal", "executed"))
    if by == "ideal":
        return sum(ideal(model, length).values())
    counted = executed(model, batch, length, accumulate, remat_policy=remat_policy)
    return counted.total / (batch * length)


def match(
    dense: ModelConfig,
    sparse: ModelConfig,
    *,
    batch: int,
    length: int,
    accumulate: int = 1,
    remat_policy: str = "full",
    by: str = "executed",
    adjust: str = "experts",
    tolerance: float = 0.01,
) -> Match:
    """Solves for the width that gives both models the same FLOPs per token.

    FLOPs are linear in a width, so two counts give the line and a third checks the answer.

    Args:
      batch, length, accumulate: B and T of a training step and its micro-batches, which set the
        experts' capacity and what is recomputed.
      remat_policy: of `moe.execution`, which sets it, too.
      by: "executed" (capacity padding, router and dispatch are charged) or "ideal".
      adjust: "experts" sets the MoE's expert width, "dense" the dense model's d_ff.
      tolerance: largest residual |sparse / dense - 1|.

    Raises:
      UserError: if no positive width exists, or rounding it leaves more than the tolerance.
    """
    schema.one_of("adjust", adjust, ("experts", "dense"))
    how: dict[str, Any] = {"by": by, "accumulate": accumulate, "remat_policy": remat_policy}

    def cost(model: ModelConfig) -> float:
        return per_token(model, batch, length, **how)

    if adjust == "experts":
        sparse = _solve(functools.partial(_widen_experts, sparse), cost, cost(dense), dense.d_ff)
    else:
        dense = _solve(functools.partial(_widen, dense), cost, cost(sparse), dense.d_ff)
    dense_flops = cost(dense)
    sparse_flops = cost(sparse)
    residual = abs(sparse_flops / dense_flops - 1)
    matched = Match(dense, sparse, dense_flops, sparse_flops, residual)
    schema.require(
        residual < tolerance, f"cannot match {by} FLOPs within {tolerance:.1%}: {matched}"
    )
    return matched


def dense_of(
    dense: ModelConfig,
    times: float,
    *,
    batch: int,
    length: int,
    by: str,
    accumulate: int = 1,
    remat_policy: str = "full",
    shape: ModelConfig | None = None,
) -> ModelConfig:
    """A dense model of `times` the FLOPs per token of `dense`, counted by `per_token`.

    It is `shape`, or else `dense` itself, with another d_ff.
    """
    how: dict[str, Any] = {"by": by, "accumulate": accumulate, "remat_policy": remat_policy}

    def cost(model: ModelConfig) -> float:
        return per_token(model, batch, length, **how)

    make = functools.partial(_widen, shape or dense)
    return _solve(make, cost, times * cost(dense), dense.d_ff)


def energy_kwh(seconds: float, watts: float) -> float:
    """An estimate, not a measurement: time at a stated constant power, in kWh."""
    return seconds * watts / 3.6e6


def _widen(model, width):
    return dataclasses.replace(model, d_ff=width)


def _widen_experts(model, width):
    return dataclasses.replace(model, experts=dataclasses.replace(model.experts, d_ff=width))


def _solve(make, cost, target, start):
    """make(width) for the integer width whose cost is nearest the target."""
    low = cost(make(start))
    high = cost(make(2 * start))
    width = round(start + (target - low) / (high - low) * start)
    schema.require(
        width > 0,
        f"no width reaches {target:,.0f} FLOPs/token: at width 0 the rest already costs"
        f" {2 * low - high:,.0f}. Use fewer experts, a smaller capacity factor or group size",
    )
    return make(width)
