"""Signals that ask a run to end: it finishes its step, saves, and can go on later.

SIGINT (Ctrl-C), SIGTERM (schedulers) and SIGHUP (a terminal that closes). One that comes while the
checkpoint is written changes nothing; only SIGKILL does not wait for the step's end.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator

from moe.training import processes

RESUMABLE = 75  # exit code of a run that was asked to end: EX_TEMPFAIL of sysexits.h
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """Training was asked to end before its last step; a checkpoint of that step was saved."""

    def __init__(self, step: int | None = None):
        super().__init__("stopped" if step is None else f"stopped at step {step}")
        self.step = step


@contextlib.contextmanager
def asked() -> Iterator[Callable[[int], bool]]:
    """While the block runs, signals only ask; yields `stop` for `loop.train`.

    A worker of `multiprocessing` is also asked by its parent's death, so that none outlives it.
    Of several processes that train together all end at the same step, whichever was asked.
    """
    if processes.several():
        with _passed_on():
            yield processes.preempted()
        return
    parent = multiprocessing.parent_process()
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        del frame
        came.append(number)
        if len(came) == 1:
            say(f"\n{signal.Signals(number).name}: saving after this step, then ending")

    def stop(step: int) -> bool:
        del step
        return bool(came) or (parent is not None and not parent.is_alive())

    with _handled(ASKING, note):
        yield stop


def _passed_on():
    """SIGINT and SIGHUP become the SIGTERM that JAX's notifier waits for."""

    def ask(number: int, frame: object) -> None:
        del number, frame
        os.kill(os.getpid(), signal.SIGTERM)

    return _handled((signal.SIGINT, signal.SIGHUP), ask)


def say(text: str) -> None:
    """A line on stderr, unless that was a terminal which is closed now."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _handled(numbers, handler):
    """Handles them but for those that are ignored, as nohup has it."""
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
