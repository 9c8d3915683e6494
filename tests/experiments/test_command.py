"""A wrong command line is one line that says what to do."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.step=1"], 'an override names a field .*"steps" instead of "step"'),
        (["train.steps=1"], "unexpected arguments .*: overrides look like --config.a.b=c"),
    ],
)
def test_a_wrong_override(arguments, message, tmp_path):
    command = [sys.executable, "-m", "experiments.train", f"--workdir={tmp_path}", *arguments]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert re.fullmatch(message + ".*", line)


def test_help_tells_of_the_config():
    """Which a module of its own defines for all experiments."""
    command = [sys.executable, "-m", "experiments.bench_dispatch", "--help"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert "--config: The cells." in done.stdout and "--[no]baselines" in done.stdout
