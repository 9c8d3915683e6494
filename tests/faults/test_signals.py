"""Real processes that are asked to end: they save, say so, and go on to the very same end."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from moe.training import checkpoint, metrics, signals

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import pathlib, sys
from experiments import command
from moe.data import prepare
from moe.training import loop, signals
from tests.training import toys

prepare.prepare = lambda config: toys.data()
run = toys.run_config(train={"steps": 100_000, "eval_every": 1000}, mesh={"data": 1, "expert": 1})

def main():
    with signals.asked() as stop:
        loop.train(run, pathlib.Path(sys.argv[1]), stop=stop)

with command._in_one_line():
    main()
"""


def start(workdir):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(workdir)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
    )  # fmt: skip


def wait_for_steps(workdir, least):
    until = time.time() + 120
    path = workdir / "metrics.jsonl"
    while time.time() < until:
        if path.exists() and sum(r["step"] >= least for r in metrics.read(path)):
            return
        time.sleep(0.05)
    pytest.fail(f"{workdir} did not reach step {least}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_saves_and_says_that_it_can_go_on(tmp_path, number):
    process = start(tmp_path)
    wait_for_steps(tmp_path, 3)
    process.send_signal(number)
    process.send_signal(number)  # once more, perhaps while it saves
    _, said = process.communicate(timeout=60)
    assert process.returncode == signals.RESUMABLE == 75
    assert f"{number.name}: saving after this step" in said
    assert ": the same command goes on from there" in said and "Traceback" not in said
    assert f"stopped at step {checkpoint.steps_in(tmp_path)[0]}:" in said
