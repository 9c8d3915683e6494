"""Would it fit, and how fast could it go? A training step, planned for devices that are not here.

With `libtpu` (requirements-plan.txt) the TPU compiler itself compiles the whole step for a
topology by name: memory, and every collective, are then those of the program that a pod would run.
Without it the same report is arithmetic on shapes and shardings, and says so.

Times are bounds, not predictions: each resource alone at the speed its maker states, the largest of
them if all overlap perfectly, their sum if nothing does.
"""

import dataclasses
import functools
import importlib.util
import math
import os
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding

from moe import chips, flops, hlo, models, objectives, schema, sharding, target
from moe.data.prepare import DataConfig
from moe.dispatch import grouped
from moe.errors import UserError
from moe.presets.contract import Preset
from moe.training import estimate, step
from moe.training.config import MeshConfig, RunConfig, TrainConfig
from moe.training.optimizer import OptimizerConfig

PLATFORM = "tpu"  # to lower for; lowering needs no compiler


class Memory(NamedTuple):
    """Bytes on one device."""

    parameters: float
    optimizer: float  # state of the optimizer
    temporary: float  # activations, gradients, gathered weights, buffers of collectives
    limit: float

    @property
    def peak(self) -> float:
        """What is held at once: parameters, optimizer state and temporary buffers."""
        return self.parameters + self.optimizer + self.temporary

    @property
    def short(self) -> float:
        """Bytes by which the peak exceeds the limit; 0 if it fits."""
        return max(0.0, self.peak - self.limit)


class Plan(NamedTuple):
    """One training step on the devices of a mesh."""

    how: str  # "compiled", "arithmetic", or "refused": arithmetic with the compiler's own peak
    mesh: dict[str, int]
    chip: chips.Chip
    memory: Memory
    traffic: dict[tuple[str, str], hlo.Traffic]  # by kind and axes
    ideal_flops: float  # of one step, all devices
    executed_flops: float
    tokens: int  # of one step
    memory_bytes: float  # read and written by one device, at least
    compile_seconds: float = 0.0

    @property
    def devices(self) -> int:
        """The number of devices of the mesh."""
        return math.prod(self.mesh.values())

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of a step: of each resource alone, and of all if they overlap or do not."""
        sent = sum(t.bytes for t in self.traffic.values())
        alone = {
            "compute": self.executed_flops / self.devices / self.chip.flops,
            "memory": self.memory_bytes / self.chip.memory_bandwidth,
            "interconnect": sent / self.chip.link_bandwidth,
        }
        return alone | {"overlapped": max(alone.values()), "serial": sum(alone.values())}

    @property
    def mfu(self) -> dict[str, float]:
        """Ideal FLOPs of a step over what the chips could do in it: bounds, as of `seconds`."""
        peak = self.devices * self.chip.flops
        bounds = ("overlapped", "serial")
        return {bound: self.ideal_flops / peak / self.seconds[bound] for bound in bounds}


def run_of(
    preset: Preset, train: TrainConfig, optimizer: OptimizerConfig, mesh: MeshConfig
) -> RunConfig:
    """The run of a preset: its model, and the objective that such models are made for."""
    objective = objectives.ObjectiveConfig(name=objectives.usual(preset.model))
    extra = objective.objective.extra_ids(objective.options, train.seq_len)
    kind = type(preset.model)
    (architecture,) = (name for name, one in models.MODELS.items() if one.config is kind)
    return RunConfig(
        architecture=architecture,
        model=preset.model,
        objective=objective,
        data=DataConfig(vocab_size=preset.model.vocab_size - extra),
        train=train,
        optimizer=optimizer,
        mesh=mesh,
    )


def has_compiler() -> bool:
    """Is the TPU compiler installed?"""
    return importlib.util.find_spec("libtpu") is not None


def tpu_devices(topology: str) -> Sequence[jax.Device]:
    """The devices of a TPU topology such as "v5p:8x8x16", known to the compiler only.

    Raises:
      UserError: if libtpu is not installed, or does not know the topology.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # this is no TPU machine: do not ask it
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # libtpu gives its own kinds
        raise UserError(
            f"no topology {topology!r}: {error}. Expected a name such as v5e:4x4 or v5p:8x8x16, and"
            " `pip install -r requirements-plan.txt`"
        ) from error


def compiled(run: RunConfig, topology: str) -> Plan:
    """The plan of a run by the TPU compiler.

    Raises:
      UserError: if the topology is unknown, its mesh does not divide the run, or the kernel of
        `grouped` would be a dense product there.
    """
    devices = tpu_devices(topology)
    schema.require(
        not any(getattr(device, "core_on_chip", 0) for device in devices),
        f"{topology}: this compiler takes each of a chip's two cores for a device, and the figures"
        " are a chip's: use --arithmetic",
    )
    with target.compiling_for(PLATFORM):
        grouped.check(run.mesh.implementation)
    run = _of_tpus(run)
    mesh = sharding.make_mesh(run.mesh.data, run.mesh.expert, run.mesh.model, devices=devices)
    with target.compiling_for(PLATFORM):
        guess = _arithmetic(run, mesh, chips.chip(topology.split(":")[0]))
    with sharding.on(mesh, run.mesh.zero):
        lowered = lower(run, mesh)
        began = time.perf_counter()
        try:
            program = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            return _refused(guess, str(error))._replace(compile_seconds=time.perf_counter() - began)
        seconds = time.perf_counter() - began
    state = guess.memory.parameters + guess.memory.optimizer
    return guess._replace(
        how="compiled",
        memory=guess.memory._replace(temporary=beside(program, state)),
        traffic=hlo.traffic(hlo.text_of(program), dict(mesh.shape)),
        compile_seconds=seconds,
    )


def _of_tpus(run):
    """The run with what would else be chosen for the machine that compiles."""
    model = dataclasses.replace(run.model, scan_unroll=run.model.scan_unroll or 1)
    return dataclasses.replace(run, model=model)


def beside(program: jax.stages.Compiled, state: float) -> float:
    """Bytes that a compiled step holds on a device beside its state of so many bytes."""
    return hlo.held_bytes(program) - state


def arithmetic(run: RunConfig, chip: str, devices: int) -> Plan:
    """The plan of a run from shapes and shardings alone, on a mesh of no devices.

    Raises:
      UserError: if the chip is unknown or the mesh does not divide the run.
    """
    mesh = sharding.abstract_mesh(devices, run.mesh.data, run.mesh.expert, run.mesh.model)
    with target.compiling_for(PLATFORM if chip.startswith("v") else "gpu"):
        return _arithmetic(run, mesh, chips.chip(chip))


def lower(run: RunConfig, mesh: Mesh) -> jax.stages.Lowered:
    """The whole training step, lowered for the mesh in use; no array is made."""
    t = run.train
    layout = NamedSharding(mesh, sharding.spec("BT"))
    train_step = step.of_run(run)
    inputs = run.task.batch_shapes(t.batch_size, t.seq_len, layout=layout)
    with target.compiling_for(PLATFORM):
        traced = train_step.trace(state_shapes(run), inputs)
    return traced.lower(lowering_platforms=(PLATFORM,))


def state_shapes(run: RunConfig) -> step.State:
    """The training state as shapes with their shardings on the mesh in use."""
    return jax.eval_shape(lambda: step.init(run.task.model, run.tx, run.train.seed))


def _refused(guess, error):
    """The compiler's verdict: "(157.01G) exceeds available HBM (15.75G)" or "Used 99G of 95G"."""
    sizes = re.search(r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", error)
    used = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm", error)
    said = sizes or used
    if "RESOURCE_EXHAUSTED" not in error or said is None:
        raise UserError(f"the TPU compiler failed: {error[:2000]}")
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    needed, limit = (float(x[:-1]) * units[x[-1]] for x in said.groups())
    state = guess.memory.parameters + guess.memory.optimizer
    memory = guess.memory._replace(temporary=needed if sizes else needed - state, limit=limit)
    return guess._replace(how="refused", memory=memory)


def _arithmetic(run, mesh, chip):
    sharding.check(mesh, run.shared())
    t = run.train
    sizes = dict(mesh.shape)
    state = _at_rest(_plain(run), mesh)
    parameters, moments = map(estimate.bytes_per_device, (state.params, state.optimizer))
    kept = estimate.activations(run, sizes)
    gradients = estimate.bytes_per_device(estimate.trained(run, state.params))
    buffers = gradients + kept + estimate.gathered(run, sizes, state)
    memory = Memory(parameters, moments, buffers, chip.memory)
    tokens = t.batch_size * t.seq_len
    return Plan(
        how="arithmetic",
        mesh=sizes,
        chip=chip,
        memory=memory,
        traffic=estimate.traffic(run, sizes, state),
        ideal_flops=sum(run.task.ideal_flops(t.seq_len).values()) * tokens,
        executed_flops=_executed(run),
        tokens=tokens,
        memory_bytes=estimate.memory_bytes(run, sizes, state, kept),
    )


@functools.lru_cache(maxsize=1)  # a search asks for each many times in a row
def _at_rest(run, mesh):
    with sharding.on(mesh, run.mesh.zero):
        return state_shapes(run)


def _plain(run):
    """The run with a state of the same shapes, whatever its batch and what it recomputes."""
    mesh = dataclasses.replace(run.mesh, remat_policy="full")
    model = dataclasses.replace(run.model, remat=False)
    return dataclasses.replace(_fewest(run), model=model, mesh=mesh)


def _executed(run):
    """FLOPs of a step, in proportion to those of fewer sequences."""
    experts = run.model.experts
    if experts and experts.dropless:  # its blocks have a part that tokens do not change
        return flops.of_run(run).total
    few = _fewest(run)
    return flops.of_run(few).total * (run.train.batch_size / few.train.batch_size)


def _fewest(run):
    """The run with the fewest sequences that fill its groups."""
    experts = run.model.experts
    group = experts.group_size if experts else 0
    least = math.lcm(*(group // math.gcd(group, T) for T in run.positions.values())) or 1
    return run.replace(train={"batch_size": least * run.train.accumulate})
