"""The state of training and the pure functions that advance and evaluate it."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from moe import sharding
from moe.batch import Batch
from moe.config import MoEConfig
from moe.models.contract import Model
from moe.objectives import contract
from moe.routing import stats
from moe.training import divergence, gradients

if TYPE_CHECKING:
    from moe.training.config import RunConfig


class State(NamedTuple):
    """All that a checkpoint holds. The step is also the position in the data."""

    step: jax.Array
    params: dict
    optimizer: optax.OptState
    router_state: dict = {}  # what routers hold beside weights, see `models.contract.Model`


def init(
    model: Model, tx: optax.GradientTransformation, seed: int, ids: np.ndarray | None = None
) -> State:
    """The state at step 0; the same seed gives a model and its dense baseline equal shared weights.

    Args:
      model: to be trained.
      tx: the optimizer.
      seed: of all that is drawn.
      ids: the training text, for routers that make tables of it.
    """
    params = model.init(jax.random.key(seed))
    router_state = {
        name: sharding.reshard(jnp.asarray(x), "." * x.ndim)
        for name, x in model.router_state(seed, ids).items()
    }
    return State(jnp.int32(0), params, jax.jit(tx.init)(params), router_state)


def of_run(run: "RunConfig") -> jax.stages.Wrapped:
    """The training step of a run, see `make_train_step`."""
    t = run.train
    skip_over = t.largest_grad_norm if t.on_divergence == "skip" else None
    return make_train_step(run.task, run.tx, t.seed, t.accumulate, skip_over)


def make_train_step(
    task: contract.Task,
    tx: optax.GradientTransformation,
    seed: int,
    accumulate: int = 1,
    skip_over: float | None = None,
) -> jax.stages.Wrapped:
    """The jitted step (state, batch) -> (state, metrics); the old state's memory is reused.

    Args:
      task: a model and what it learns.
      tx: the optimizer.
      seed: of the routers' noise and of dropout.
      accumulate: micro-batches.
      skip_over: unless it is None, a step whose loss or gradient is not finite, or whose gradient
        has a larger norm than this (0 is any), changes nothing but the number of the step.
    """

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (_, (metrics, sums)), grads = gradients.value_and_grad(
            task, state.params, state.router_state, batch, key, accumulate
        )
        updates, optimizer_state = tx.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
        experts = task.model.config.experts
        router_state = update_router_state(experts, state.router_state, sums.router_stats)
        new = State(state.step + 1, params, optimizer_state, router_state)
        if skip_over is not None:
            good = divergence.sound(metrics["loss"], metrics["grad_norm"], skip_over)
            new = divergence.keep(good, new, state._replace(step=new.step))
        return new, metrics

    return jax.jit(train_step, donate_argnums=0)


def update_router_state(
    experts: MoEConfig | None, router_state: dict, router_stats: stats.RouterStats | None
) -> dict:
    """The routers' state after a step, from the statistics of its whole batch.

    Args:
      experts: of the model, None for a dense one.
      router_state: before.
      router_stats: of every MoE layer.
    """
    if experts is None or not router_state or experts.routing.update is None:
        return router_state
    return experts.routing.update(router_state, router_stats, experts.options)
