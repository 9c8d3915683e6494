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
    routing: dict = {}  # the routers' own, see `decoder.routing_state`


def init(model: ModelConfig, optimizer: optax.GradientTransformation, seed: int, ids=None) -> State:
    """The state at step 0; the same seed gives a model and its dense twin equal shared weights.

    Args:
      ids: the training text, for routers that make tables of it.
    """
    params = decoder.init(model, jax.random.key(seed))
    routing = {
        name: sharding.reshard(jnp.asarray(x), "." * x.ndim)
        for name, x in decoder.routing_state(model, seed, ids).items()
    }
    return State(jnp.int32(0), params, jax.jit(optimizer.init)(params), routing)


def make_train_step(model: ModelConfig, optimizer, seed: int, accumulate: int = 1):
    """The jitted step (state, inputs) -> (state, metrics); the old state's memory is reused."""
    network = decoder.Decoder(model)

    def train_step(state: State, inputs: loss.Inputs):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (_, (metrics, sums)), grads = loss.value_and_grad(
            network, state.params, state.routing, inputs, key, accumulate
        )
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
        routing = update_routing(model, state.routing, sums.router_stats)
        return State(state.step + 1, params, optimizer_state, routing), metrics

    return jax.jit(train_step, donate_argnums=0)


def update_routing(model: ModelConfig, routing: dict, router_stats) -> dict:
    """The routers' state after a step, from the router_stats of its whole batch."""
    if not routing or model.experts.routing.update is None:
        return routing
    return model.experts.routing.update(routing, router_stats, model.experts.options)


def make_eval_step(model: ModelConfig):
    """The jitted (state, inputs, index) -> `loss.ForwardOutput`; random routers draw by it."""
    network = decoder.Decoder(model)

    @jax.jit
    def eval_step(state: State, inputs: loss.Inputs, index):
        key = jax.random.fold_in(jax.random.key(EVALUATION), index)
        output = loss.forward(network, state.params, state.routing, inputs, key, False)
        # Every process sees every row.
        return output._replace(
            nll_BT=sharding.reshard(output.nll_BT, ".."),
            choices=jax.tree.map(lambda x: sharding.reshard(x, "...."), output.choices),
        )

    return eval_step
