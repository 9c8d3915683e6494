"""The smallest models and batches in which everything that can go wrong still can."""

import contextlib
import dataclasses
import functools
import math
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from moe import config as configs
from moe import models, objectives, sharding
from moe.batch import Batch
from moe.execution import Execution
from moe.layers import moe_layer
from moe.models import contract
from moe.training import gradients, step

B = 8
T = 8
D = 8
E = 4
V = 32
MESHES = ("1x1x1", "8x1x1", "1x8x1", "2x4x1", "2x2x2", "1x4x2")  # data x expert x model


def moe_config(**changes) -> configs.MoEConfig:
    fields = {"num_experts": E, "d_ff": 8, "capacity_factor": 1.0, "eval_capacity_factor": 1.0}
    return configs.MoEConfig(**{**fields, **changes})


def model(**changes) -> configs.ModelConfig:
    """Two layers, the second MoE, in float32 so that equalities are tight."""
    fields = {
        "vocab_size": V, "num_layers": 2, "moe_every": 2, "d_model": D, "num_heads": 2, "d_head": 4,
        "d_ff": 16, "dtype": "float32", "experts": moe_config(),
    }  # fmt: skip
    return configs.ModelConfig(**{**fields, **changes})


def sparse(**changes) -> configs.ModelConfig:
    """`model` with some fields of its experts changed."""
    return model(experts=moe_config(**changes))


def without_router_losses(config: configs.ModelConfig) -> configs.ModelConfig:
    silent = dataclasses.replace(config.experts, balance_weight=0.0, z_weight=0.0)
    return dataclasses.replace(config, experts=silent)


def params(config: configs.ModelConfig, seed=0):
    """Random parameters on the current mesh; compiling the initializers takes seconds a model."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        x = rng.normal(size=shape.shape).astype(np.float32)
        x = 1 + 0.1 * x if path[-1].key == "scale" else x / np.float32(shape.shape[-2] ** 0.5)
        if not sharding.current():
            return jnp.asarray(x)
        return jax.device_put(x, NamedSharding(jax.sharding.get_mesh(), shape.sharding.spec))

    return jax.tree_util.tree_map_with_path(draw, models.parameter_shapes(config))


@functools.partial(jax.jit, static_argnums=0)
def output(config: configs.ModelConfig, params, state, batch) -> contract.Output:
    """The Output of a model that is evaluated; operation by operation it would take seconds."""
    key = jax.random.key(0)
    return models.build(config).apply(params, state, batch, key=key, train=False)


@functools.cache
def compiled_gradients(config: configs.ModelConfig, accumulate=1):
    """The compiled (params, inputs, key) -> ((loss, metrics), gradients), one per test process."""
    task = task_of(config)

    @jax.jit
    def function(params, batch, key):
        (value, (metrics, _)), grads = gradients.value_and_grad(
            task, params, routing_state(config), batch, key, accumulate
        )
        return (value, metrics), grads

    return function


def task_of(config: configs.ModelConfig, **execution) -> objectives.contract.Task:
    """What the model learns: the next token, or masked ones if it has a vector for them."""
    name = "masked_token" if config.mask_embedding else "next_token"
    objective = objectives.ObjectiveConfig(name=name)
    return objectives.task(config, objective, execution=Execution(**execution))


def layer_of(config: configs.ModelConfig, **execution) -> moe_layer.MoELayer:
    """The MoE layer of a model, by itself."""
    return moe_layer.MoELayer(
        config.experts, config.activation, config.init_scale, config.dtype, Execution(**execution)
    )


def routing_state(config: configs.ModelConfig):
    """The routers' state at the start, on the current mesh."""
    return jax.tree.map(
        lambda x: sharding.reshard(jnp.asarray(x), "." * x.ndim),
        models.build(config).router_state(),
    )


def state(config: configs.ModelConfig, tx=None) -> step.State:
    """A training state of `params(config)`."""
    weights = params(config)
    moments = jax.jit(tx.init)(weights) if tx else ()
    return step.State(jnp.int32(0), weights, moments, routing_state(config))


def value_and_grad(config, batch, mesh="none", accumulate=1, key=0):
    """((loss, metrics), gradients) of `params(config)` as NumPy arrays."""
    with on(mesh):
        function = compiled_gradients(config, accumulate)
        return host(function(params(config), put(batch), jax.random.key(key)))


def inputs(batch=B, length=T, seed=0, padded=True) -> Batch:
    """Random ids in rows of two documents of two domains, the last quarter of odd rows padding."""
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, V, (2, batch, length))
    place = np.broadcast_to(np.arange(length), (batch, length))
    cut = length // 2
    segment = 1 + (place >= cut)
    if padded:
        segment = np.where(
            (place >= length - length // 4) & (np.arange(batch) % 2)[:, None], 0, segment
        )
    fields = (tokens, targets, segment, place % cut, (place >= cut) * 1, segment > 0)
    return Batch(*(jnp.asarray(x, jnp.int32) for x in fields))


@contextlib.contextmanager
def on(mesh: str, zero=False):
    """On the named mesh, data x expert or data x expert x model, or without one."""
    if mesh == "none":
        yield
        return
    sizes = [int(size) for size in mesh.split("x")]
    devices = jax.devices()[: math.prod(sizes)]
    with sharding.on(sharding.make_mesh(*sizes, devices=devices), zero):
        yield


def put(tree):
    """A batch laid out on the current mesh."""
    return sharding.shard_batch(jax.tree.map(np.asarray, tree))


def flags_without_devices() -> str:
    """XLA_FLAGS for a process of its own, which says how many devices it has."""
    return " ".join(f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f)


def host(tree):
    """Everything as NumPy arrays, so that results of different meshes compare."""
    return jax.tree.map(np.asarray, tree)


def assert_close(got, want, rtol=1e-5, atol=1e-6) -> None:
    """Equal trees, up to float32 rounding; the message names the leaf."""
    jax.tree_util.tree_map_with_path(
        lambda path, a, b: np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=atol,
            err_msg=jax.tree_util.keystr(path),
        ),  # fmt: skip
        got, want,
    )  # fmt: skip


def assert_equal(got, want) -> None:
    """Equal trees, bit for bit."""
    chex.assert_trees_all_equal(got, want)


def experts_params(config: configs.ModelConfig, seed=0):
    """Parameters of one `MoELayer` on the current mesh."""
    rng = np.random.default_rng(seed)
    D = config.d_model
    F = config.experts.d_ff
    E = config.experts.num_experts

    def draw(letters, *shape):
        x = (rng.normal(size=shape) / shape[-2] ** 0.5).astype(np.float32)
        return sharding.reshard(jnp.asarray(x), letters)

    w_in = draw("EDF", E, D, F)
    w_out = draw("EFD", E, F, D)
    return {"router": draw("D.", D, E), "experts": {"w_in": w_in, "w_out": w_out}}


def layer_inputs(batch, length, seed=0):
    """x_BTD and its mask, with padding at the end of odd rows, on the current mesh."""
    x_BTD = np.random.default_rng(seed).normal(size=(batch, length, D)).astype(np.float32)
    return put((x_BTD, np.array(inputs(batch, length, seed).segment_BT > 0)))
