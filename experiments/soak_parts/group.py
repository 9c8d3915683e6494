"""Processes that train together, of which one dies or is asked to end."""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator

from experiments.soak_parts import victims
from experiments.soak_parts.victims import Row, Victims
from moe import sealed
from moe.training import folders, processes, signals

ALLOWANCE = 30.0  # seconds that a process may take beside `processes.SILENCE`
ROUNDING = 1e-3  # of the loss, after hundreds of steps on another mesh


def group(runs: Victims, times: int) -> Iterator[Row]:
    """Two processes on one mesh: one is killed or asked to end, both end, and the run goes on.

    As two again, to the bits of two that nobody hurt; or as one, to their loss but for rounding.
    """
    rng = random.Random(0)
    for i in range(times):
        number = (signal.SIGKILL, signal.SIGTERM)[i % 2]
        workdir = runs.fresh(f"group_{i}")
        both = start(runs, workdir)
        victims.wait_for_step(workdir, rng.randrange(6, 30), both[0])
        os.kill(child(both[rng.randrange(2)]), number)
        try:
            codes = sorted(p.wait(processes.SILENCE + ALLOWANCE) for p in both)
        except subprocess.TimeoutExpired:
            codes = []
        for process in both:
            process.kill()
        fault = f"{number.name} of one of two processes"
        yield _judged(runs, workdir, fault, number, codes, (_as_two, _as_one)[i // 2 % 2])


def _judged(runs, workdir, fault, number, codes, go_on):
    killed = 128 + signal.SIGKILL
    wanted = [signals.RESUMABLE, killed if number == signal.SIGKILL else signals.RESUMABLE]
    if codes != wanted or not folders.exists(workdir):
        return Row(fault, "lost", f"exit codes {codes}: {victims.last_line(workdirs(workdir)[0])}")
    differ = go_on(runs, workdir)
    if differ:
        return Row(fault, "lost", "; ".join(differ[:3]))
    shutil.rmtree(workdir)
    return Row(fault, "survived", f"both ended, and it went on{go_on.__name__.replace('_', ' ')}")


def _as_two(runs, workdir):
    """What is wrong at the end of two processes."""
    lines = _both(runs, workdir)
    return lines or victims.differences(untouched(runs), workdir)


def _as_one(runs, workdir):
    """What is wrong at the end of one process."""
    code = runs.finish(workdir)
    if code:
        return [f"alone, exit code {code}: {victims.last_line(workdir)}"]
    want, got = (_test_loss(w) for w in (untouched(runs), workdir))
    return [] if abs(got - want) < ROUNDING * want else [f"test loss {got}, and {want} of two"]


def untouched(runs: Victims) -> pathlib.Path:
    """The workdir of a whole run of two processes."""
    workdir = runs.root / "untouched_pair"
    if not (workdir / "result.json").exists() and (lines := _both(runs, workdir)):
        raise RuntimeError(f"two processes that nobody hurts fail: {lines}")
    return workdir


def _both(runs, workdir):
    """What is wrong with two processes that go on to the end."""
    both = zip(start(runs, workdir), workdirs(workdir), strict=True)
    codes = [(process.wait(victims.PATIENCE), name) for process, name in both]
    return [f"exit code {code}: {victims.last_line(name)}" for code, name in codes if code]


def _test_loss(workdir):
    return sealed.read_json(workdir / "result.json")["test_nll"]


def workdirs(workdir: pathlib.Path) -> list[pathlib.Path]:
    """The names under which each of two processes in a workdir says something."""
    return [workdir.with_name(f"{workdir.name}_{index}") for index in range(2)]


def start(runs: Victims, workdir: pathlib.Path) -> list[subprocess.Popen]:
    """Two processes of one device each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = [f"--workdir={workdir}", "--distributed", f"--coordinator=localhost:{port}"]
    place.append("--num_processes=2")
    return [
        runs.start(name, *place, f"--process_id={index}")
        for index, name in enumerate(workdirs(workdir))
    ]


def child(process: subprocess.Popen) -> int:
    """The process that trains, of the one that watches it (on Linux)."""
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # of a process that ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return next(pid for pid, parent in parents.items() if parent == process.pid)
