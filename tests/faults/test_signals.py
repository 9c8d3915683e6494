"""Real processes that are asked to end: they save, say so, and go on to the very same end."""

import os
import signal
import time

import jax
import pytest

from experiments.soak_parts import victims
from moe.errors import UserError
from moe.training import folders, processes, signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_saves_and_says_that_it_can_go_on(runs, number):
    workdir = runs.fresh(number.name)
    process = runs.start(workdir)
    victims.wait_for_step(workdir, 7, process)
    process.send_signal(number)
    time.sleep(0.05)
    process.send_signal(number)  # once more, perhaps while it saves
    assert process.wait() == signals.RESUMABLE == 75
    said = victims.said(workdir).read_text()
    assert f"{number.name}: saving after this step" in said
    assert ": the same command goes on from there" in said and "Traceback" not in said
    assert f"stopped at step {folders.steps_in(workdir)[0]}:" in said
    assert runs.judged(number.name, workdir).outcome == "survived"


def test_a_terminal_that_closes(runs):
    """Nothing can be said any more, by the progress bar neither."""
    workdir = runs.fresh("closed")
    master, slave = os.openpty()
    victims.said(workdir).symlink_to(os.ttyname(slave))
    process = runs.start(workdir)
    victims.wait_for_step(workdir, 7, process)
    os.close(slave)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    assert process.wait() == signals.RESUMABLE
    victims.said(workdir).unlink()
    assert runs.judged("closed", workdir).outcome == "survived"


def test_nohup_is_heard(monkeypatch):
    """A signal that was ignored before stays so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.asked() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop(1)
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_address_without_a_port_is_refused(monkeypatch):
    """JAX splits it before it looks."""
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda address, *_, **__: address.split(":")[1]
    )
    with pytest.raises(UserError, match="give --coordinator=host:port"):
        processes.join("localhost", 2, 0)
