"""Processes that share a study's work, each on its own cores, and that end with it."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from moe.errors import UserError
from moe.training import processes, signals

GRACE = 30.0  # seconds that a step and a save may take


def run(target: Callable[..., None], number: int, jobs: int, *args: Any) -> None:
    """target(*args) in `number` processes, process i on the i-th of `jobs` shares of the cores.

    One process alone runs right here if it may have every core.

    Raises:
      UserError: if a process failed.
      signals.Stopped: if they were asked to end.
    """
    if jobs == 1:
        return target(0, *args)
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=_pinned, args=(target, i, jobs, *args)) for i in range(number)
    ]
    asked = _wait_for(started)
    failed = [p.exitcode for p in started if p.exitcode]
    if asked or set(failed) == {signals.RESUMABLE}:
        raise signals.Stopped()
    if failed:
        raise UserError(
            f"{len(failed)} of {number} processes failed (exit codes {failed}); the error stands"
            " above. What is finished is kept: run the same command to go on."
        )


def _wait_for(started):
    """Starts them and waits for their ends. Was this process asked to end, and so were they?"""
    with signals.asked() as stop:
        for process in started:
            process.start()
        while running := [process.sentinel for process in started if process.is_alive()]:
            connection.wait(running, timeout=1)
            if stop(0):
                break
        for process in started:
            if process.is_alive():
                process.terminate()
            process.join()
        return stop(0)


def _end_with_parent():
    """Ends this process when its parent has died, if it does not see that itself and save."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    time.sleep(GRACE)
    os._exit(signals.RESUMABLE)


def _pinned(target, index, jobs, *args):
    os.environ[processes.JOBS] = str(jobs)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[index::jobs] or cores)
    try:
        target(index, *args)
    except signals.Stopped:
        sys.exit(signals.RESUMABLE)
