"""What an objective is: what a model learns, and from what it is read.

An objective is a pure function of parameters, router state, batch, key and train, which returns
sums. Sums of micro-batches, groups and devices are added, and only their total becomes a loss: so
gradient accumulation leaves the balance loss, which is not linear, exactly what it is on the whole
batch (routers that draw noise draw it afresh in each micro-batch).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from moe.batch import Batch
from moe.config import ModelConfig, MoEConfig
from moe.data.prepared import Prepared
from moe.models.contract import Model, Output, batch_shapes
from moe.routing import reinforce, stats

BY_LAYER = ("dropped", "max_load", "unused", "realised_k")
EVALUATION_SEED = 2**31 - 1  # of what is drawn in evaluation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of an objective that has none; those of the others derive from it."""


class Sums(NamedTuple):
    """Sums over the targets of a batch; they add across micro-batches."""

    nll: jax.Array  # nats
    targets: jax.Array  # how many count
    router_stats: stats.RouterStats | None  # stacked over the MoE layers, None for a dense model
    extra: dict[str, jax.Array] = {}  # of this objective; a metric is the sum over the targets


class ForwardOutput(NamedTuple):
    """What one forward pass of an objective returns."""

    sums: Sums
    nll: jax.Array  # of each target, nats, 0 where it does not count: [B, T] or [B]; no gradient
    choices: jax.Array | None  # expert_LGSK, if tokens choose


class Run(Protocol):
    """What a batch source and an evaluator may read of a run, `moe.training.config.RunConfig`."""

    @property
    def model(self) -> ModelConfig:
        """The model's config."""

    @property
    def train(self) -> Any:
        """A `moe.training.config.TrainConfig`."""

    @property
    def objective(self) -> Any:
        """The `moe.objectives.ObjectiveConfig`."""

    @property
    def micro_batch(self) -> int:
        """Sequences in one forward pass."""

    @property
    def task(self) -> "Task":
        """The model and what it learns."""

    def source(self, data: Prepared) -> "BatchSource":
        """What is read of the prepared data."""

    def plain(self, params: dict) -> dict:
        """The parameters of `model` among those that are trained."""


class BatchSource(NamedTuple):
    """What is read; host arrays."""

    # (step, rows) -> those rows of the step's batch: a pure function of (seed, step)
    train: Callable[[int, np.ndarray], Batch]
    # (split, max_batches) -> the fixed batches of a split, the last one padded; 0 is all of it
    held_out: Callable[[str, int], Iterator[Batch]]


def as_it_is(options: Any, length: int) -> tuple[int, ...]:
    """Most objectives read a row of T tokens as T tokens."""
    del options
    return (length,)


def no_ids(options: Any, length: int) -> int:
    """Most objectives need no ids beside those of the text."""
    del options, length
    return 0


def alone(model: Model, options: Any) -> Model:
    """Most objectives need no parameters beside the model's."""
    del options
    return model


class Objective(NamedTuple):
    """One line of `OBJECTIVES`."""

    # (model, options, params, router_state, batch, key, train) -> ForwardOutput
    forward: Callable[[Model, Any, dict, dict, Batch, jax.Array, bool], ForwardOutput]
    source: Callable[[Run, Prepared], BatchSource]
    options: type = Options
    check: Callable[[ModelConfig, Any], None] | None = None  # UserError, or it can be learned
    result: str = "text"  # the evaluator that makes result.json
    # (options, T) -> what a row of T tokens of text becomes: positions of the decoder, and of the
    # encoder if there is one.
    lengths: Callable[[Any, int], tuple[int, ...]] = as_it_is
    extra_ids: Callable[[Any, int], int] = no_ids  # (options, T) -> ids above those of the text
    around: Callable[[Model, Any], Model] = alone  # (model, options) -> it with what it learns from
    frozen: tuple[str, ...] = ()  # patterns of parameters that are never trained


class Task(NamedTuple):
    """A model and what it learns: all that a step knows."""

    model: Model
    # (params, router_state, batch, key, train) -> ForwardOutput
    forward: Callable[[dict, dict, Batch, jax.Array, bool], ForwardOutput]
    lengths: Callable[[int], tuple[int, ...]] = functools.partial(as_it_is, None)  # see `Objective`

    def batch_shapes(
        self, batch: int, length: int, layout: jax.sharding.Sharding | None = None
    ) -> Batch:
        """A batch of so many rows of T tokens of text, as shapes."""
        width = self.model.config.patch_width
        return batch_shapes(batch, *self.lengths(length), patch_width=width, layout=layout)

    def ideal_flops(self, length: int) -> dict[str, float]:
        """Ideal FLOPs of a training step by part, per token of the text."""
        positions = self.lengths(length)
        found = self.model.ideal_flops(*positions)
        return {part: value * positions[0] / length for part, value in found.items()}


def sums_of(
    model: Model,
    output: Output,
    nll: jax.Array,
    loss_mask: jax.Array | np.ndarray,
    extra: dict[str, jax.Array] | None = None,
) -> Sums:
    """The sums of a forward pass; routers that learn from reward are paid with -nll.

    Args:
      model: which made the output.
      output: of its forward pass.
      nll: of each target, 0 where it does not count.
      loss_mask: True where a target counts.
      extra: other sums of the objective.
    """
    router_stats = output.router_stats
    if output.policy is not None and router_stats is not None:
        learn = jax.vmap(reinforce.learn, (0, None, None))
        router_stats = router_stats._replace(
            extra=learn(output.policy, nll, jnp.asarray(loss_mask))
        )
    return Sums(nll.sum(), jnp.sum(loss_mask).astype(jnp.float32), router_stats, extra or {})


def total(sums: Sums, experts: MoEConfig | None) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss to minimise and its metrics, from the sums of a whole batch.

    Router losses and scalar statistics are means over the MoE layers; what has an axis of its own
    is kept by layer, [L, ...], and so are the numbers that a mean would hide.

    Args:
      sums: of the whole batch.
      experts: the model's MoEConfig, None for a dense model.
    """
    targets = jnp.maximum(sums.targets, 1.0)
    nll = sums.nll / targets
    metrics = {name: value / targets for name, value in sums.extra.items()}
    if experts is None or sums.router_stats is None:
        return nll, {"loss": nll, "nll": nll, **metrics}
    by_layer = jax.vmap(stats.metrics)(sums.router_stats)
    losses = {
        name: jax.vmap(fn)(sums.router_stats).mean() for name, fn in experts.routing.losses.items()
    }
    weights = {name: experts.weight(name) for name in losses if experts.weight(name)}
    loss = nll + sum(weight * losses[name] for name, weight in weights.items())
    metrics |= {name: value.mean() for name, value in by_layer.items() if value.ndim == 1}
    metrics |= {f"{name[:-2]}_L{name[-1]}": x for name, x in by_layer.items() if x.ndim > 1}
    metrics |= {f"{name}_L": by_layer[name] for name in BY_LAYER}
    metrics |= {f"{name}_loss": value for name, value in losses.items()}
    return loss, {"loss": loss, "nll": nll, **metrics}
