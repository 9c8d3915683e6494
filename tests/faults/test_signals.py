"""Real processes that are asked to end: they save, say so, and go on to the very same end."""

import signal

import pytest

from experiments.soak_parts import victims
from moe.training import checkpoint, signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_saves_and_says_that_it_can_go_on(runs, number):
    workdir = runs.fresh(number.name)
    process = runs.start(workdir)
    victims.wait_for_step(workdir, 7, process)
    process.send_signal(number)
    process.send_signal(number)  # once more, perhaps while it saves
    assert process.wait() == signals.RESUMABLE == 75
    said = victims.said(workdir).read_text()
    assert f"{number.name}: saving after this step" in said
    assert ": the same command goes on from there" in said and "Traceback" not in said
    assert f"stopped at step {checkpoint.steps_in(workdir)[0]}:" in said
    assert runs.judged(number.name, workdir).outcome == "survived"
