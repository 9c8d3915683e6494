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
from moe.training import checkpoint, processes, signals

ALLOWANCE = 30.0  # seconds that a process may take beside `processes.SILENCE`


def group(runs: Victims, times: int) -> Iterator[Row]:
    """Two processes on one mesh: one is killed or asked to end, both end, and one goes on alone.

    What it ends with is that of a whole run but for rounding, so only its end is looked at.
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
        yield _judged(runs, workdir, f"{number.name} of one of two processes", number, codes)


def _judged(runs, workdir, fault, number, codes):
    killed = 128 + signal.SIGKILL
    wanted = [signals.RESUMABLE, killed if number == signal.SIGKILL else signals.RESUMABLE]
    if codes != wanted or not checkpoint.exists(workdir):
        return Row(fault, "lost", f"exit codes {codes}: {victims.last_line(workdirs(workdir)[0])}")
    code = runs.finish(workdir)
    if code:
        return Row(fault, "lost", f"alone, exit code {code}: {victims.last_line(workdir)}")
    shutil.rmtree(workdir)
    return Row(fault, "survived", "both ended, and one went on alone")


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
