"""What a model costs, ideal and executed, and the matcher that makes two models cost the same.

Ideal is what the mathematics needs: K experts a token and causal attention to (T + 1) / 2
positions on average. Executed is what the compiled step does: capacity padding, router, one-hot
dispatch, masked attention and rematerialisation included, counted from its jaxpr. Both are
matrix-product FLOPs of one training step (forward and backward), per token.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax

from moe import config as configs
from moe import counting, ffn
from moe.config import ModelConfig
from moe.models import decoder
from moe.training import loss


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
        return (
            f"dense d_ff={self.dense.d_ff}: {self.dense_flops:,.0f} FLOPs/token;"
            f" MoE expert d_ff={self.sparse.experts.d_ff}: {self.sparse_flops:,.0f} FLOPs/token;"
            f" residual mismatch {self.residual:.3%}"
        )


def parameters(model: ModelConfig) -> Parameters:
    """Total and active parameters, from shapes alone.

    A token meets everything but the E - K experts of each layer that it was not sent to.
    """
    shapes = decoder.parameter_shapes(model)
    total = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    if model.experts is None:
        return Parameters(total, total)
    of_experts = sum(
        math.prod(x.shape)
        for path, x in jax.tree_util.tree_leaves_with_path(shapes)
        if "'experts'" in jax.tree_util.keystr(path)
    )
    met = model.experts.routing.experts_per_token(model.experts)
    idle = round(of_experts * (model.experts.num_experts - met) / model.experts.num_experts)
    return Parameters(total, total - idle)


def ideal(model: ModelConfig, length: int) -> dict[str, float]:
    """Ideal FLOPs per token of a training step by part, in closed form (3 x forward).

    Args:
      length: T, over which causal attention averages.

    Routed experts are as many as a token meets on average, or at most
    (`Router.experts_per_token`): K for most. What a capacity factor below 1 drops is not taken off:
    then fewer may be executed.
    """
    D, moe_layers = model.d_model, model.moe_layers
    attended, keys = model.num_heads * model.d_head, model.kv_heads * model.d_head
    seen = 2 * length if model.bidirectional else length + 1  # twice the mean of positions seen
    dense_matrices = ffn.num_matrices(model.dense_activation or model.activation)
    forward = {
        "attention": model.num_layers * (4 * D * (attended + keys) + 2 * attended * seen),
        "dense_ffn": (model.num_layers - moe_layers) * 2 * dense_matrices * D * model.d_ff,
        "head": 2 * D * model.vocab_size,
    }
    if model.experts:
        matrices = ffn.num_matrices(model.activation)
        used = model.experts.routing.experts_per_token(model.experts) + model.experts.shared_experts
        forward["experts"] = moe_layers * used * 2 * matrices * D * model.experts.d_ff
    return {part: 3.0 * flops for part, flops in forward.items()}


@functools.cache
def executed(model: ModelConfig, batch: int, length: int, accumulate: int = 1) -> counting.Flops:
    """Executed FLOPs of one training step's loss and gradient, on `batch` x `length` tokens.

    Of the grouped dispatcher the slots of its kernel 'blocks' are counted, whatever the kernel;
    what comes beyond them depends on the loads, and statistics tell it.

    Args:
      batch: sequences in a step, over all devices and micro-batches.
      accumulate: micro-batches; more than one costs a recomputed forward pass.
    """
    network = decoder.Decoder(model)

    def step(params, routing, inputs, key):
        return loss.value_and_grad(network, params, routing, inputs, key, accumulate)

    return _count(step, model, batch, length)


@functools.cache
def evaluating(model: ModelConfig, batch: int, length: int) -> counting.Flops:
    """Executed FLOPs of evaluating `batch` x `length` tokens at the evaluation capacity."""
    network = decoder.Decoder(model)

    def forward(params, routing, inputs, key):
        return loss.forward(network, params, routing, inputs, key, train=False)

    return _count(forward, model, batch, length)


def _count(function, model, batch, length):
    """FLOPs of function(params, routing, inputs, key), from shapes alone."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, routing = decoder.parameter_shapes(model), decoder.routing_state(model)
    return counting.count(function, params, routing, loss.input_shapes(batch, length), key)


def per_token(model: ModelConfig, batch: int, length: int, by: str, accumulate: int = 1) -> float:
    """FLOPs per token of a training step, `by` "ideal" or "executed"."""
    configs.one_of("by", by, ("ideal", "executed"))
    if by == "ideal":
        return sum(ideal(model, length).values())
    return executed(model, batch, length, accumulate).total / (batch * length)


def match(
    dense: ModelConfig, sparse: ModelConfig, *, batch: int, length: int, accumulate: int = 1,
    by: str = "executed", adjust: str = "experts", tolerance: float = 0.01,
) -> Match:  # fmt: skip
    """Solves for the width that gives both models the same FLOPs per token.

    FLOPs are linear in a width, so two counts give the line and a third checks the answer.

    Args:
      batch, length, accumulate: B and T of a training step and its micro-batches, which set the
        experts' capacity and what is recomputed.
      by: "executed" (capacity padding, router and dispatch are charged) or "ideal".
      adjust: "experts" sets the MoE's expert width, "dense" the dense model's d_ff.
      tolerance: largest residual |sparse / dense - 1|.

    Raises:
      ValueError: if no positive width exists, or rounding it leaves more than the tolerance.
    """
    configs.one_of("adjust", adjust, ("experts", "dense"))
    cost = functools.partial(per_token, batch=batch, length=length, by=by, accumulate=accumulate)
    if adjust == "experts":
        sparse = _solve(functools.partial(_widen_experts, sparse), cost, cost(dense), dense.d_ff)
    else:
        dense = _solve(functools.partial(_widen, dense), cost, cost(sparse), dense.d_ff)
    dense_flops, sparse_flops = cost(dense), cost(sparse)
    residual = abs(sparse_flops / dense_flops - 1)
    matched = Match(dense, sparse, dense_flops, sparse_flops, residual)
    configs.require(
        residual < tolerance, f"cannot match {by} FLOPs within {tolerance:.1%}: {matched}"
    )
    return matched


def dense_of(dense: ModelConfig, times: float, **size) -> ModelConfig:
    """The dense model widened (d_ff) to `times` its FLOPs per token; `size` as in `per_token`."""
    cost = functools.partial(per_token, **size)
    return _solve(functools.partial(_widen, dense), cost, times * cost(dense), dense.d_ff)


def energy_kwh(seconds: float, watts: float) -> float:
    """An estimate, not a measurement: time at a stated constant power, in kWh."""
    return seconds * watts / 3.6e6


def _widen(model, width):
    return dataclasses.replace(model, d_ff=width)


def _widen_experts(model, width):
    return dataclasses.replace(model, experts=dataclasses.replace(model.experts, d_ff=width))


def _solve(make, cost, target, start):
    """make(width) for the integer width whose cost is nearest the target."""
    low, high = cost(make(start)), cost(make(2 * start))
    width = round(start + (target - low) / (high - low) * start)
    configs.require(
        width > 0,
        f"no width reaches {target:,.0f} FLOPs/token: at width 0 the rest already costs"
        f" {2 * low - high:,.0f}. Use fewer experts, a smaller capacity factor or group size",
    )
    return make(width)
