"""Part 3: whole training steps, dense and with experts of the same ideal FLOPs (router aside).

`dense` has the fused attention that fits (cuDNN's on an NVIDIA GPU, splash on a TPU, where no one
has measured it yet), and `dense, plain attention` our own; a row says what computed it.

Model FLOPs utilization (MFU) is ideal FLOPs (`moe.flops.ideal`) over what the chip's maker states.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from experiments import timing
from experiments.accelerator_parts import layers
from experiments.accelerator_parts.cells import Cell, Settings, require
from moe import chips, flops, models, objectives, sharding
from moe.batch import Batch
from moe.config import ModelConfig, MoEConfig
from moe.dispatch import grouped
from moe.execution import Execution
from moe.layers import attention_kernels
from moe.training import optimizer, step


class Size(NamedTuple):
    """A dense model and its batch."""

    model: ModelConfig
    batch: int
    length: int


LARGE = Size(
    ModelConfig(
        vocab_size=32_768,
        num_layers=8,
        moe_every=1,
        d_model=1024,
        num_heads=16,
        d_head=64,
        d_ff=4096,
        activation="swiglu",
    ),
    batch=16,
    length=1024,
)
TINY = Size(
    ModelConfig(
        vocab_size=256,
        num_layers=1,
        moe_every=1,
        d_model=16,
        num_heads=2,
        d_head=8,
        d_ff=32,
        activation="swiglu",
    ),
    batch=2,
    length=16,
)
WAYS = ("gather", "hopper", "wide_blocks")
ROUNDS = 20
LIMIT = 4.0  # seconds of them
GUESS = 45.0  # seconds of a cell, most of it compilation


def cells(settings: Settings) -> list[Cell]:
    """A cell for each model."""
    size = TINY if settings.tiny else LARGE
    found = {"dense": (size.model, ""), "dense, plain attention": (size.model, "plain")}
    for number, k in ((4, 2),) if settings.tiny else ((8, 2), (64, 8)):
        for way in WAYS:
            model = dataclasses.replace(size.model, experts=experts(size.model, number, k, way))
            found[f"e{number}_top{k} {way}"] = model, way
    return [
        Cell(name, functools.partial(measure, size._replace(model=model), way), GUESS)
        for name, (model, way) in found.items()
    ]


def experts(dense: ModelConfig, number: int, k: int, way: str) -> MoEConfig:
    """Experts of which K are as wide as the dense feed-forward; `way` is gather or a kernel."""
    factor = 1.25 if way == "gather" else 0.0
    return MoEConfig(
        num_experts=number,
        k=k,
        d_ff=dense.d_ff // k,
        dispatcher="gather" if way == "gather" else "grouped",
        capacity_factor=factor,
        eval_capacity_factor=factor,
    )


def measure(size: Size, way: str) -> dict:
    """The row of one model, on one device.

    Raises:
      Skipped: if the kernel is not here.
    """
    model = size.model
    if model.experts:
        require(way, model.dtype, model.d_model, model.experts.d_ff)
    kernel = way if way in grouped.IMPLEMENTATIONS else "blocks"
    attention = "plain" if way == "plain" else "auto"
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    with sharding.on(mesh):
        seconds, compiled = time_steps(size, Execution(implementation=kernel, attention=attention))
    found = row(size, seconds, layers.peak_bytes(compiled))
    return {**found, "attention": attention_of(size, attention)}


def attention_of(size: Size, asked: str) -> str:
    """What computes attention: plain, cudnn or splash."""
    model = size.model
    shape = (size.batch, size.length, model.num_heads, model.d_head)
    q_BTNH = jax.ShapeDtypeStruct(shape, model.dtype)
    return attention_kernels.choose(asked, q_BTNH, model.position, model.attention)


def time_steps(size: Size, execution: Execution) -> tuple[float, jax.stages.Compiled]:
    """Median seconds of a step, and its program."""
    tx = optimizer.make(optimizer.OptimizerConfig(), 1000)
    states = {"model": step.init(models.build(size.model), tx, 0)}
    given = sharding.shard_batch(inputs(size))
    compiled = (
        step.make_train_step(objectives.task(size.model, execution=execution), tx, 0)
        .lower(states["model"], given)
        .compile()
    )
    call = functools.partial(timing.advance, states, "model", compiled, given)
    taken = timing.within({"model": call}, ROUNDS, LIMIT)
    return float(np.median(taken["model"])), compiled


def inputs(size: Size) -> Batch:
    """Random tokens, one document a row."""
    rng = np.random.default_rng(0)
    shape = (size.batch, size.length)
    tokens_BT, targets_BT = rng.integers(1, size.model.vocab_size, (2, *shape), np.int32)
    position_BT = np.tile(np.arange(size.length, dtype=np.int32), (size.batch, 1))
    return Batch(tokens_BT, targets_BT, np.ones(shape, np.int32), position_BT)


def row(size: Size, seconds: float, peak_bytes: int) -> dict:
    """What a step of so many seconds comes to; MFU is None on a chip of unknown peak."""
    tokens = size.batch * size.length
    ideal = sum(flops.ideal(size.model, size.length).values())
    counts = flops.parameters(size.model)
    chip = chips.of_device(jax.devices()[0].device_kind)
    return {
        "ms": 1e3 * seconds,
        "tokens_per_second": tokens / seconds,
        "tflops": ideal * tokens / seconds / 1e12,
        "mfu": ideal * tokens / seconds / chip.flops if chip else None,
        "peak_bytes": peak_bytes,
        "total_parameters": counts.total,
        "active_parameters": counts.active,
        "ideal_flops_per_token": ideal,
        "tokens": tokens,
    }
