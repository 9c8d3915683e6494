"""The workers of a study end with it, however it ends."""

import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]


def until(true, seconds):
    """Waits for it."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    assert true()


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    command = [sys.executable, "-m", "tests.faults.orphan", str(tmp_path)]
    study = subprocess.Popen(command, cwd=ROOT)
    until(lambda: len(list(tmp_path.glob("worker_*"))) == 2, 60)
    workers = [pathlib.Path("/proc") / path.read_text() for path in tmp_path.glob("worker_*")]
    until(lambda: all(worker.exists() for worker in workers), 10)
    study.kill()
    study.wait()
    until(lambda: not any(worker.exists() for worker in workers), 10)
