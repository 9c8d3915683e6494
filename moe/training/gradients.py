"""The gradient of a task on one batch, in as many micro-batches as are asked for."""

import math

import jax
import jax.numpy as jnp

from moe import sharding
from moe.batch import Batch
from moe.objectives import contract


def value_and_grad(
    task: contract.Task,
    params: dict,
    router_state: dict,
    batch: Batch,
    key: jax.Array,
    accumulate: int = 1,
) -> tuple[tuple[jax.Array, tuple[dict[str, jax.Array], contract.Sums]], dict]:
    """((loss, (metrics, sums)), gradients of params) of one batch, in `accumulate` micro-batches.

    More than one costs a recomputed forward pass.

    Args:
      task: a model and what it learns.
      params: of the model.
      router_state: of its routers.
      batch: [B, ...] fields; B a multiple of `accumulate` times the sequences of a group.
        Micro-batch i takes every accumulate-th group, so that it lies on all devices and keeps
        its groups whole.
      key: of what is drawn.
      accumulate: micro-batches.
    """
    experts = task.model.config.experts
    lengths = {x.shape[1] for x in jax.tree.leaves(batch) if x.ndim == 2}
    together = math.lcm(*(max(1, experts.group_size // T) for T in lengths)) if experts else 1

    def with_metrics(sums: contract.Sums) -> tuple[jax.Array, tuple[dict, contract.Sums]]:
        loss, metrics = contract.total(sums, experts)
        return loss, (metrics, sums)

    def loss_fn(params: dict) -> tuple[jax.Array, tuple[dict, contract.Sums]]:
        if accumulate == 1:
            return with_metrics(task.forward(params, router_state, batch, key, True).sums)

        @jax.checkpoint
        def micro(params: dict, i: jax.Array) -> contract.Sums:
            part = jax.tree.map(lambda x: _micro_batch(x, i, accumulate, together), batch)
            key_i = jax.random.fold_in(key, i)
            return task.forward(params, router_state, part, key_i, True).sums

        def add(sums: contract.Sums, i: jax.Array) -> tuple[contract.Sums, None]:
            return jax.tree.map(jnp.add, sums, micro(params, i)), None

        total, _ = jax.lax.scan(add, micro(params, 0), jnp.arange(1, accumulate))
        return with_metrics(total)

    return jax.value_and_grad(loss_fn, has_aux=True)(params)


def _micro_batch(x_BT, i, accumulate, together):
    B, *rest = x_BT.shape
    shape = (B // accumulate // together, accumulate, together, *rest)
    block = jax.lax.dynamic_index_in_dim(
        sharding.reshape_tokens(x_BT, shape), i, axis=1, keepdims=False
    )
    return sharding.reshape_tokens(block, (B // accumulate, *rest))
