"""Every number of a configuration has a range, whose ends a run survives."""

import dataclasses
import math
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import config as configs
from moe import models, ranges, routing
from moe.data import prepare
from moe.training import config as training
from moe.training import optimizer, step
from tests import tiny

SECTIONS = {
    configs.MoEConfig: ranges.EXPERTS,
    configs.ModelConfig: ranges.MODEL,
    training.TrainConfig: ranges.TRAIN,
    training.MeshConfig: ranges.MESH,
    optimizer.OptimizerConfig: ranges.OPTIMIZER,
    prepare.DataConfig: ranges.DATA,
    **{router.options: ranges.OPTIONS for router in routing.ROUTERS.values()},
}


def numeric(kind: type) -> set[str]:
    """The fields that hold a number, maybe an absent one."""
    hints = typing.get_type_hints(kind)
    kinds = {n: typing.get_args(h) if isinstance(h, types.UnionType) else (h,)
             for n, h in hints.items()}  # fmt: skip
    return {name for name, found in kinds.items() if {int, float} & set(found)}


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_number_has_a_range(kind):
    missing = numeric(kind) - SECTIONS[kind].keys()
    assert not missing, f"give {missing} a range in moe/ranges.py"


def test_no_range_is_of_a_field_that_is_gone():
    fields = {f.name for kind in SECTIONS for f in dataclasses.fields(kind)}
    assert set().union(*SECTIONS.values()) <= fields


def test_a_range_has_ends():
    assert [ranges.below(2).holds(x) for x in (-1, 0, 1, 2, math.nan)] == [0, 1, 1, 0, 0]
    assert [ranges.above_zero(2).holds(x) for x in (0, 1, 2, 3, math.inf)] == [0, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="x=-3 must be at least 0 and below 1: raise it"):
        ranges.check_value("x", -3, ranges.below(1))
    with pytest.raises(ValueError, match="x=1 must be at least 0 and below 1: lower it"):
        ranges.check_value("x", 1, ranges.below(1))


LARGEST = [
    {"experts": {"z_weight": ranges.WEIGHT, "balance_weight": ranges.WEIGHT}},
    {"experts": {"router_scale": ranges.EXPERTS["router_scale"].high}},
    {"experts": {"capacity_factor": 1e6, "eval_capacity_factor": 1e6}},
    {"model": {"init_scale": ranges.MODEL["init_scale"].high}},
    {"optimizer": {"learning_rate": ranges.OPTIMIZER["learning_rate"].high}},
    {"optimizer": {"warmup_steps": ranges.COUNT}},
    {"optimizer": {"warmup_steps": ranges.COUNT, "schedule": "inverse_sqrt"}},
    {"optimizer": {"b1": 0.999999, "b2": 0.999999, "clip_norm": 1e12, "weight_decay": 100.0}},
]


@pytest.mark.parametrize("largest", LARGEST, ids=str)
def test_a_step_survives_the_end_of_a_range(largest):
    experts = None if "optimizer" in largest else tiny.moe_config(**largest.get("experts", {}))
    model = tiny.model(num_layers=1, moe_every=1, experts=experts, **largest.get("model", {}))
    chain = optimizer.make(optimizer.OptimizerConfig(**largest.get("optimizer", {})), ranges.COUNT)
    state = step.init(models.build(model), chain, 2**32 - 1)
    advance = step.make_train_step(tiny.task_of(model), chain, 2**32 - 1)
    for _ in range(2):
        state, measured = advance(state, tiny.inputs())
    assert np.isfinite(measured["loss"]) and np.isfinite(measured["grad_norm"])
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.params))
