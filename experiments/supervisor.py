"""A process that trains with others, watched from outside, so that its end is always explained.

When one of them dies, JAX ends the others from C++, where Python can say nothing any more. A parent
that does nothing but wait says it, and ends with an exit code that schedulers understand. It has
imported next to nothing.
"""

import atexit
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

CHILD = "MOE_SUPERVISED"  # in the environment of the process that trains: where it says farewell
POLL = 1.0  # seconds between looks at the parent
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = "the same command, for every process, goes on from the last checkpoint"
OTHERS = (
    "another process has ended, or was not heard of (its own output says why), and this one cannot"
    f" go on without it; unless the lines above say something else, {AGAIN}"
)


def ensure() -> None:
    """If this is `python -m PROGRAM --distributed`: runs it as a child, and ends as that ends.

    In the child itself it begins to look whether the parent lives.
    """
    if _line() is not None:
        atexit.register(farewell)
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    elif is_wanted(sys.orig_argv):
        code, said = explained(*_watched([sys.executable, *sys.orig_argv[1:]]))
        if said:
            print(said, file=sys.stderr)
        sys.exit(code)


def is_wanted(command: Sequence[str]) -> bool:
    """Is the command `python -m PROGRAM` with --distributed among its arguments?"""
    return "-m" in command and is_on("distributed", command)


def is_on(name: str, arguments: Sequence[str]) -> bool:
    """Do the arguments switch a flag on, in one of absl's spellings?"""
    given = re.compile(rf"--?{name}(=(true|t|yes|y|1))?", re.IGNORECASE)
    return any(given.fullmatch(argument) for argument in arguments)


def farewell() -> None:
    """Tells the parent, if there is one, that this process ends by itself, its errors said."""
    line = _line()
    if line is not None:
        os.write(line, b".")


@functools.cache
def _line() -> int | None:
    """Where a watched process says farewell; None in any other, as in those that it starts."""
    given = os.environ.pop(CHILD, None)
    return None if given is None else int(given)


def _watched(command):
    """The exit code of a child, and whether it said farewell; signals are passed on to it."""
    reading, writing = os.pipe()
    environment = {**os.environ, CHILD: str(writing)}
    child = subprocess.Popen(command, env=environment, pass_fds=[writing])
    os.close(writing)
    for number in PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda number, _: child.send_signal(number))
    code = child.wait()
    return code, os.read(reading, 1) != b""


def explained(code: int, by_itself: bool) -> tuple[int, str]:
    """The exit code for the end of a child, and what to say of it; "" if it said so itself.

    Args:
      code: of the child, negative if a signal ended it.
      by_itself: did it say farewell?
    """
    if by_itself:
        return code, ""
    if code in (1, -signal.SIGABRT):  # JAX's two ways
        return os.EX_TEMPFAIL, OTHERS
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return abs(code) + 128 * (code < 0), (
        f"this process was ended by {name}, as when memory runs out; {AGAIN}"
    )


def _end_with_parent(parent):
    """Asks this process to end, as a scheduler does, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)
