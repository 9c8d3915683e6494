"""Which mesh, recomputation and batch? Every choice by arithmetic, and the best by the compiler.

The part of `experiments.plan` that `--search` asks for.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from moe import plan, schema
from moe.config import ModelConfig
from moe.errors import UserError
from moe.training.config import RunConfig

ROWS = (1, 2, 4, 8)  # sequences on the devices that share one along 'model'
MODEL = (1, 2, 4, 8, 16)
FEWER = (1.1, 1.0)  # capacity factors below most presets'
ROOM = 0.9  # of a device's memory; the rest is the compiler's


class Tried(NamedTuple):
    """A run and its plan."""

    run: RunConfig
    planned: plan.Plan


def runs(first: RunConfig, sides: Sequence[int], batch_size: int) -> Iterator[RunConfig]:
    """The run on every mesh of these devices, with every way to recompute.

    Args:
      first: the run whose mesh says all else.
      sides: of the torus of devices, each of which one axis of the mesh must fill; (n,) is any n.
      batch_size: sequences of a step; 0 tries `ROWS` of them on each device.
    """
    devices = math.prod(sides)
    for expert, model in itertools.product(_divisors(first.model, devices), MODEL):
        data, rest = divmod(devices, expert * model)
        if rest or not _fills((data, expert, model), sides):
            continue
        for zero, policy in itertools.product((False, True), ("none", "full", "products")):
            size = {"data": data, "expert": expert, "model": model, "zero": zero}
            one = recomputed(first.replace(mesh=size), policy)
            for rows in (0,) if batch_size else ROWS:
                yield one.replace(train={"batch_size": batch_size or rows * data * expert})


def _fills(axes, sides):
    """Can each side lie along one axis?"""
    if len(sides) == 1:
        return True
    for owners in itertools.product(range(len(axes)), repeat=len(sides)):
        own = [[n for n, owner in zip(sides, owners, strict=True) if owner == i] for i in range(3)]
        if tuple(map(math.prod, own)) == axes:
            return True
    return False


def recomputed(run: RunConfig, policy: str) -> RunConfig:
    """The run with blocks that are recomputed by a policy of `moe.execution`; "none": are not."""
    remat = policy != "none"
    model = dataclasses.replace(run.model, remat=remat)
    mesh = dataclasses.replace(run.mesh, remat_policy=policy if remat else "full")
    return dataclasses.replace(run, model=model, mesh=mesh)


def with_slots(run: RunConfig, factor: float) -> RunConfig:
    """The run with experts of another capacity factor in training: more or fewer dropped tokens.

    Raises:
      UserError: if the model has none, or would have as many slots as before.
    """
    wants = f"--capacity_factor={factor:g} wants"
    experts = run.model.experts
    if experts is None:
        raise UserError(f"{wants} experts, and this model is dense: leave it out")
    schema.require(not experts.dropless, f"{wants} slots, and the model is dropless: leave it out")
    fixed = experts.expert_capacity
    schema.require(not fixed, f"{wants} a factor, and an expert has {fixed} slots: leave it out")
    own = experts.capacity_factor
    changed = _with_factor(run, factor)
    schema.require(
        factor == own or _slots(changed) != _slots(run),
        f"--capacity_factor={factor:g} leaves an expert as many slots as {own:g}: leave it out",
    )
    return changed


def _with_factor(run, factor):
    experts = dataclasses.replace(run.model.experts, capacity_factor=factor)
    return run.replace(model={"experts": experts})


def _slots(run):
    """C in each stack."""
    experts = run.model.experts
    sizes = map(experts.tokens_per_group, run.positions.values())
    return [experts.slots(size, train=True) for size in sizes]


def with_fewer_slots(run: RunConfig, chip: str, devices: int) -> list[Tried]:
    """The run at each of the `FEWER` capacity factors that leave it fewer slots, if any.

    It drops more tokens, and so is not the model that `search` finds a place for.
    """
    own = run.model.experts.capacity_factor if run.model.experts else 0.0
    lower = [_with_factor(run, factor) for factor in FEWER if factor < own]
    fewer = [one for one in lower if _slots(one) != _slots(run)]
    return [Tried(one, plan.arithmetic(one, chip, devices)) for one in fewer]


def _divisors(model: ModelConfig, devices):
    """Sizes of the axis of experts."""
    experts = model.experts.num_experts if model.experts else 1
    return [n for n in range(1, experts + 1) if experts % n == 0 and devices % n == 0]


def search(choices: Iterable[RunConfig], chip: str, devices: int) -> list[Tried]:
    """What fits, best first: by the time of a step in which nothing overlaps, a token."""
    found = []
    for run in tqdm(list(choices), desc="plans"):
        try:
            planned = plan.arithmetic(run, chip, devices)
        except UserError:  # the mesh does not divide it
            continue
        if planned.memory.peak <= ROOM * planned.memory.limit:
            found.append(Tried(run, planned))
    return sorted(found, key=lambda tried: tried.planned.seconds["serial"] / tried.planned.tokens)
