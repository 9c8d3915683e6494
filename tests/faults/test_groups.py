"""Two processes that train together: when one is asked to end, or dies, both end and say why."""

import os
import re
import signal
import sys

import pytest

from experiments import supervisor
from experiments.soak_parts import group, victims
from moe.training import folders, signals
from tests import tiny
from tests.faults import victim


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    command = [sys.executable, "-m", "tests.faults.victim"]
    root = tmp_path_factory.mktemp("groups")
    return victims.Victims(command, root, victim.STEPS, XLA_FLAGS=tiny.flags_without_devices())


def ended(runs, name, number, which):
    """Their exit codes and last lines, after the one that trains in `which` got a signal."""
    workdir = runs.fresh(name)
    both = group.start(runs, workdir)
    victims.wait_for_step(workdir, 6, both[0])
    os.kill(group.child(both[which]), number)
    codes = [process.wait(60) for process in both]
    said = [victims.last_line(path) for path in group.workdirs(workdir)]
    return workdir, codes, said


def test_asked(runs):
    """Both save the same step."""
    workdir, codes, said = ended(runs, "asked", signal.SIGTERM, 1)
    step = folders.steps_in(workdir)[0]
    assert codes == [signals.RESUMABLE, signals.RESUMABLE]
    assert said == [f"stopped at step {step}: the same command goes on from there"] * 2


def test_the_first_dies(runs):
    """The other one is ended by JAX at once."""
    workdir, codes, said = ended(runs, "dies", signal.SIGKILL, 0)
    assert codes == [128 + signal.SIGKILL, signals.RESUMABLE]
    assert "this process was ended by SIGKILL" in said[0]
    assert "another process has ended, or was not heard of" in said[1]
    assert folders.exists(workdir)


def test_who_is_watched():
    """A program with --distributed, however absl may read it."""
    for argument in ("--distributed", "-distributed", "--distributed=True"):
        assert supervisor.is_wanted(["python", "-m", "experiments.train", argument])
    for command in (["-m", "experiments.train", "--nodistributed"], ["-c", "", "--distributed"]):
        assert not supervisor.is_wanted(["python", *command])


@pytest.mark.parametrize(
    ("code", "by_itself", "expected", "said"),
    [
        (0, True, 0, "^$"),
        (1, True, 1, "^$"),
        (75, True, 75, "^$"),
        (1, False, 75, "another process has ended"),
        (-signal.SIGABRT, False, 75, "another process has ended"),
        (-signal.SIGKILL, False, 137, "ended by SIGKILL"),
        (3, False, 3, "ended by exit code 3"),
    ],
)
def test_every_end_is_explained(code, by_itself, expected, said):
    found, line = supervisor.explained(code, by_itself)
    assert found == expected
    assert re.search(said, line)
