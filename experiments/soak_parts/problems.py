"""Random routing problems: every dispatcher gives what the slow, obvious one gives."""

import dataclasses
import functools
import pathlib
import random
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.soak_parts import draw
from experiments.soak_parts.victims import Row
from moe import models, schema
from moe.config import ModelConfig, MoEConfig
from moe.errors import UserError
from moe.layers import moe_layer

D = 8
V = 257
EACH = 20  # problems of one layer: of one compiled program
SCALES = (1e-3, 1.0, 30.0, 1e4)  # of the tokens, and so of the router's logits
REAL = (0.0, 0.1, 0.5, 0.5, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0)  # shares of tokens that are no padding
TOLERANCES = {"float32": 2e-5, "bfloat16": 0.05}  # of the largest value


def problems(out: pathlib.Path, number: int) -> Iterator[Row]:
    """So many: values and all gradients finite, and equal to those of the oracle."""
    del out  # nothing is written
    rng = random.Random(0)
    done = 0
    while done < number:
        layer = _layer(rng)
        if layer is None:
            continue
        sizes = rng.choice(draw.SMALL[:7]), rng.choice(draw.SMALL)
        for _ in range(min(EACH, number - done)):
            done += 1
            yield _problem(layer, sizes, rng)


def _layer(rng):
    """A random layer that the oracle can do, too; None if what was drawn cannot be."""
    fields = draw.experts(rng) | {"group_size": 0, "expert_dropout": 0.0}
    try:
        config = schema.from_config_dict(MoEConfig, fields)
        _by_oracle(config)
    except UserError:
        return None
    if config.d_ff > 64 or config.num_experts > 64 or config.dispatcher == "oracle":
        return None
    return moe_layer.MoELayer(config, rng.choice(("gelu", "swiglu")), dtype=_dtype(rng))


def _dtype(rng):
    return rng.choice(tuple(TOLERANCES))


def _by_oracle(config):
    """The same by the oracle, which has room for all where there are no slots to drop from."""
    room = float(config.num_experts)
    factors = {"capacity_factor": room, "eval_capacity_factor": room} if config.dropless else {}
    return dataclasses.replace(config, dispatcher="oracle", **factors)


def _problem(layer, sizes, rng):
    """One of a layer's problems."""
    B, T = sizes
    random_of = np.random.default_rng(rng.randrange(2**32))
    x_BTD = random_of.normal(size=(B, T, D)).astype(np.float32) * rng.choice(SCALES)
    if rng.random() < 0.2:
        x_BTD[:] = x_BTD[:1, :1]  # all tokens to the same experts
    mask_BT = random_of.random((B, T)) < rng.choice(REAL)
    ids_BT = random_of.integers(0, 9, (B, T))
    args = x_BTD, mask_BT, ids_BT, np.zeros((B, T), np.int32), mask_BT.astype(np.int32)
    config = layer.config
    name = f"{config.router} {config.dispatcher} {layer.dtype}"
    found = [_run(layer.copy(config=c), args) for c in (config, _by_oracle(config))]
    worst = max(map(_error, *map(jax.tree.leaves, found)), default=0.0)
    fine = worst <= TOLERANCES[layer.dtype]
    said = "" if fine else f"error {worst:.2g}, {config}, {B} x {T}"
    return Row(name, "survived" if fine else "lost", said)


def _run(layer, args):
    """(y, gradients) in training."""
    return _compiled(layer)(*_weights(layer, args[0].shape), *args)


@functools.lru_cache(maxsize=4)
def _weights(layer, shape):
    B, T, _ = shape
    zeros = jnp.zeros((B, T), jnp.int32)
    rngs = {"params": jax.random.key(0), "router": jax.random.key(1)}
    held = {"router_state": _state(layer.config)}
    tokens = jnp.zeros(shape), None, True, zeros, zeros, zeros

    def made() -> dict:
        return layer.apply(held, *tokens, rngs=rngs, mutable=["params"])[1]

    return jax.jit(made)(), held


def _state(config):
    """What the router keeps, in the first layer of a model."""
    model = ModelConfig(
        vocab_size=V, num_layers=1, moe_every=1, d_model=D, num_heads=1, d_head=D, d_ff=D,
        allow_noncausal=True, experts=config,
    )  # fmt: skip
    return {name: x[0] for name, x in models.build(model).router_state().items()}


@functools.lru_cache(maxsize=4)
def _compiled(layer):
    def total(weights, held, x_BTD, mask_BT, *fields_BT):
        y_BTD = layer.apply(
            {**weights, **held}, x_BTD, mask_BT, True, *fields_BT,
            rngs={"router": jax.random.key(2)},
        )  # fmt: skip
        way_BTD = jnp.cos(jnp.arange(y_BTD.size, dtype=y_BTD.dtype)).reshape(y_BTD.shape)
        return (y_BTD * way_BTD).sum(dtype=jnp.float32), y_BTD

    return jax.jit(jax.grad(total, (0, 2), has_aux=True))


def _error(got, want):
    """The largest difference over the largest value; infinite if one is not finite."""
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    if not (np.isfinite(got).all() and np.isfinite(want).all()):
        return np.inf
    return np.abs(got - want).max(initial=0) / max(np.abs(want).max(initial=0), 1e-30)
