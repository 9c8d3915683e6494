"""The state of training and the pure functions that advance and judge it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from moe import sharding
from moe.config import ModelConfig
from moe.models import decoder
from moe.training import loss

EVALUATION = 2**31 - 1  # the seed of evaluation's draws; training has small ones


class State(NamedTuple):
    """All that a checkpoint holds. The step is also the position in the data."""

    step: jax.Array
    params: dict
    optimizer: optax.OptState


def init(model: ModelConfig, optimizer: optax.GradientTransformation, seed: int) -> State:
    """The state at step 0; the same seed gives a model and its dense twin equal shared weights."""
    params = decoder.init(model, jax.random.key(seed))
    return State(jnp.int32(0), params, jax.jit(optimizer.init)(params))


def make_train_step(model: ModelConfig, optimizer, seed: int, accumulate: int = 1):
    """The jitted step (state, inputs) -> (state, metrics); the old state's memory is reused."""
    network = decoder.Decoder(model)

    def train_step(state: State, inputs: loss.Inputs):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (_, metrics), grads = loss.value_and_grad(network, state.params, inputs, key, accumulate)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
        return State(state.step + 1, params, optimizer_state), metrics

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(model: ModelConfig):
    """The jitted (params, inputs, index) -> (Sums, nll_BT); random routers draw by the index."""
    network = decoder.Decoder(model)

    @jax.jit
    def eval_step(params, inputs: loss.Inputs, index):
        key = jax.random.fold_in(jax.random.key(EVALUATION), index)
        sums, nll_BT = loss.forward(network, params, inputs, key, False)
        return sums, sharding.reshard(nll_BT, "..")  # every process sees every row

    return eval_step
