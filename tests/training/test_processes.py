"""Two processes of four devices on loopback are one of eight, and take over from it."""

import contextlib
import functools
import itertools
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from moe import sharding
from moe.training import checkpoint, loop, metrics, step
from tests import tiny
from tests.training import toys
from tests.training.conftest import serving

ROOT = pathlib.Path(__file__).parents[2]


def together(*runs, processes=2) -> list[tuple[int, str]]:
    """The exit codes of processes that train together, and what they say.

    Args:
      runs: a workdir, a mesh, and the seeds of the processes each, as `worker` takes them.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    devices = {
        "XLA_FLAGS": tiny.flags_without_devices(),
        "MOE_SIMULATED_DEVICES": str(8 // processes),
    }
    environment = {**os.environ, **devices}
    common = [sys.executable, "-m", "tests.training.worker", str(processes)]
    running = [
        subprocess.Popen(
            [*common, str(index), str(port), *map(str, itertools.chain(*runs))],
            cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(processes)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, text) for process, text in zip(running, said, strict=True)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of the run in this one process, on 2 x 4; and its checkpoint half-way."""
    workdir = tmp_path_factory.mktemp("alone")
    half = tmp_path_factory.mktemp("half") / "run"
    save = checkpoint.Checkpoints.save

    def save_and_copy(self, number, *args):
        save(self, number, *args)
        if number == toys.EVERY:
            self.close()
            shutil.copytree(workdir, half)
            self.__init__(workdir)

    with serving(toys.data()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", save_and_copy)
        loop.train(toys.run_config(), workdir)
    return workdir, half


@functools.cache
def trained(workdir):
    """Parameters and moments of the last checkpoint, and the logged losses."""
    run = toys.run_config()
    with sharding.on(loop.mesh_of(run)):
        template = step.init(run.task.model, run.tx, 1)
        with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
            state = tiny.host(checkpoints.restore(template)[0])
    records = metrics.read(workdir / "metrics.jsonl")
    return state, [(r["step"], r["split"], r["nll"]) for r in records]


def assert_same(workdir, alone):
    (got, logged) = trained(workdir)
    (want, expected) = trained(alone)
    assert want.step == got.step == toys.STEPS
    assert [r[:2] for r in logged] == [r[:2] for r in expected]
    np.testing.assert_allclose([r[2] for r in logged], [r[2] for r in expected], rtol=1e-5)
    assert any(np.ptp(x) for x in jax.tree.leaves(want.optimizer))
    tiny.assert_close(got, want, rtol=1e-4, atol=2e-6)


@pytest.fixture(scope="module")
def both(alone, tmp_path_factory):
    """Two processes: the workdirs of three runs, and how the processes end.

    The first run is from scratch, the second from half-way on a new mesh; the third has one config
    in one process, and another in the other.
    """
    names = ("scratch", "taken_over", "refused")
    scratch, half, refused = (tmp_path_factory.mktemp(name) for name in names)
    for workdir in (half, refused):
        shutil.copytree(alone[1], workdir, dirs_exist_ok=True)
    ended = together((scratch, "2x4", "0,0"), (half, "4x2", "0,0"), (refused, "2x4", "0,1"))
    return scratch, half, refused, ended


def test_two_processes_are_one(alone, both):
    """Losses, parameters and moments; each process knows the result, one writes the metrics."""
    workdir, _, _, ended = both
    assert_same(workdir, alone[0])
    lines = [text.splitlines() for _, text in ended]
    first, second = ([line for line in found if "test_nll" in line] for found in lines)
    assert first == second and len(first) == 2, ended
    rows = [line.split()[1:] for found in lines for line in found if "rows" in line]
    assert [len(r) for r in rows] == [4, 4] and sorted(sum(rows, [])) == [*"01234567"]


def test_a_process_with_another_config_stops_all(alone, both):
    """Neither hangs: each is output, and nothing is overwritten."""
    _, _, workdir, ended = both
    assert all(code for code, _ in ended)
    assert any("train.seed: it has 0, you gave 1" in text for _, text in ended)
    assert (workdir / "config.json").read_text() == (alone[1] / "config.json").read_text()


def test_two_processes_take_over_on_another_mesh(alone, both):
    """What one process left half-way on 2 x 4 they finish on 4 x 2."""
    _, workdir, _, _ = both
    assert_same(workdir, alone[0])
    first = next(r for r in metrics.read(workdir / "metrics.jsonl") if r["step"] > toys.EVERY)
    assert first["step"] == toys.EVERY + 1
