"""Several processes that train together: they join, agree, and end together.

What fails in one of them ends it at once (`experiments.command`). The others cannot go on without
it, and JAX aborts them when nothing has been heard of it for `SILENCE` seconds.
"""

import functools
import itertools
import os
import platform
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from moe.errors import UserError

JOBS = "MOE_JOBS"  # the environment variable in which a study tells a job how many there are
SILENCE = 30  # seconds without a word after which a process is taken for dead


def join(coordinator: str | None, number: int | None, index: int | None) -> None:
    """Joins the other processes; None is what JAX finds out from the cluster.

    Args:
      coordinator: host:port of process 0.
      number: how many they are.
      index: which of them this one is.

    Raises:
      UserError: if JAX finds no cluster, and the arguments do not say what it lacks.
    """
    try:
        jax.distributed.initialize(coordinator, number, index, heartbeat_timeout_seconds=SILENCE)
    except (ValueError, IndexError) as error:  # the second of an address without a port
        raise UserError(
            f"--distributed: {error} Where JAX finds no cluster, give --coordinator=host:port,"
            " --num_processes and --process_id"
        ) from error


def several() -> bool:
    """Do others train together with this process?"""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def preempted() -> Callable[[int], bool]:
    """A function to ask after every step: true in all processes at once, after any got SIGTERM.

    JAX's notifier takes SIGTERM and lets the processes agree on a step (no handler of Python's may
    be in its place).
    """
    calls = itertools.count()  # steps repeat after a rewind, calls do not
    came: list[bool] = []  # JAX says it once, and that step may diverge

    def agreed(step: int) -> bool:
        del step
        if not came and multihost_utils.reached_preemption_sync_point(next(calls)):
            came.append(True)
        return bool(came)

    return agreed


def of_another(error: BaseException) -> bool:
    """Is it an error of a communication, which another process's end causes?"""
    return several() and isinstance(error, jax.errors.JaxRuntimeError)


def all_gather(says: bool) -> list[bool]:
    """What every process says; all wait for all."""
    if jax.process_count() == 1:
        return [says]
    return multihost_utils.process_allgather(np.array(says)).tolist()


def first_says(find: Callable[[], Any], shape: tuple[int, ...] = ()) -> np.ndarray:
    """The integers that the first process finds, in this shape; the others do not look."""
    if jax.process_count() == 1:
        return np.asarray(find())
    said = find() if jax.process_index() == 0 else np.zeros(shape)
    return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(said, np.int32)))


@functools.cache
def on_this_host() -> int:
    """How many processes share this host's memory: those that train together, or a study's jobs."""
    if jax.process_count() == 1:
        return int(os.environ.get(JOBS, "1"))
    mine = np.array([zlib.crc32(platform.node().encode()) % 2**31], np.int32)
    return int((multihost_utils.process_allgather(mine) == mine).sum())


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
