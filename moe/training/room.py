"""Does the memory that is here hold a run? Asked before its state is made, and before a step."""

import math
import os
import pathlib

import jax

from moe import hlo, sharding
from moe.errors import UserError
from moe.models import contract
from moe.training import estimate, processes
from moe.training.config import RunConfig

CONTAINER = (  # what Linux lets a container use, by its cgroup of version 2 or 1
    pathlib.Path("/sys/fs/cgroup/memory.max"),
    pathlib.Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def check_state(run: RunConfig, mesh: jax.sharding.Mesh) -> None:
    """Refuses a training state that no memory here holds, before an array of it is made.

    Counted are parameters, the gradients of those that are trained and the optimizer's state;
    activations come on top.

    Raises:
      UserError: with both sizes.
    """
    with sharding.on(mesh, run.mesh.zero):
        params = contract.parameter_shapes(run.task.model)
        moments = jax.eval_shape(run.tx.init, params)
    gradients = estimate.bytes_per_device(estimate.trained(run, params))
    needed = estimate.bytes_per_device(params) + gradients + estimate.bytes_per_device(moments)
    _check(
        needed,
        mesh.local_devices,
        "the model needs {} GiB a device for parameters, gradients and optimizer state, and {}:"
        " make model.d_model, model.d_ff, experts.d_ff or experts.num_experts smaller, or spread"
        " them over more devices with mesh",
    )


def check_step(program: jax.stages.Compiled) -> None:
    """Refuses a compiled step that no memory here holds, before it is run.

    A host without such a limit of its own would let the system kill the run without a word.

    Raises:
      UserError: with both sizes.
    """
    _check(
        hlo.held_bytes(program),
        jax.local_devices(),
        "a training step needs {} GiB a device for the state, activations and what lies between,"
        " and {}: lower train.batch_size or train.seq_len, raise train.accumulate, set"
        " model.remat=True, make the model smaller, or use more devices with mesh",
    )


def _check(needed, devices, message):
    limit, where = _memory(devices)
    if needed > limit:
        raise UserError(message.format(_gib(needed), f"{where} has {_gib(limit)} GiB"))


def _gib(size):
    """A size in GiB with the digits that matter."""
    gib = size / 2**30
    return f"{gib:,.1f}" if gib >= 1 else f"{gib:.3g}"


def _memory(devices):
    """(bytes for one device, whose): its own, or an equal share of the host's."""
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"], "it"
    if devices[0].platform != "cpu":
        return math.inf, "it"  # its allocator does not say, and refuses by itself
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    number = len(devices) * processes.on_this_host()
    return min((host, *_given())) / number, "its share of the host"


def _given():
    """What a container may use, where it says a number and not "max"."""
    said = [path.read_text().strip() for path in CONTAINER if path.exists()]
    return [int(text) for text in said if text.isdecimal()]
