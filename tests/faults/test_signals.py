"""Real processes that are asked to end: they save, say so, and go on to the very same end."""

import os
import signal
import time

import jax
import pytest

from experiments.soak_parts import victims
from moe.errors import UserError
from moe.training import folders, processes, signals


def test_a_run_that_is_asked_to_end_saves_and_says_that_it_can_go_on(runs):
    """By SIGTERM, then by SIGINT, then by a terminal that closes."""
    workdir = runs.fresh("asked")
    for number, step in ((signal.SIGTERM, 3), (signal.SIGINT, 7)):
        process = _started(runs, workdir, step)
        process.send_signal(number)
        time.sleep(0.05)
        process.send_signal(number)  # once more, perhaps while it saves
        assert process.wait() == signals.RESUMABLE == 75
        said = victims.said(workdir).read_text()
        assert f"{number.name}: saving after this step" in said
        assert ": the same command goes on from there" in said and "Traceback" not in said
        assert f"stopped at step {folders.steps_in(workdir)[0]}:" in said
    _close_its_terminal(runs, workdir, 11)
    assert runs.judged("asked", workdir).outcome == "survived"


def _started(runs, workdir, step):
    """A run that has come to this step."""
    process = runs.start(workdir)
    victims.wait_for_step(workdir, step, process)
    return process


def _close_its_terminal(runs, workdir, step):
    """Nothing can be said any more, by the progress bar neither."""
    master, slave = os.openpty()
    victims.said(workdir).unlink()
    victims.said(workdir).symlink_to(os.ttyname(slave))
    process = _started(runs, workdir, step)
    os.close(slave)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    assert process.wait() == signals.RESUMABLE
    victims.said(workdir).unlink()


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
