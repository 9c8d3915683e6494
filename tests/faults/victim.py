"""A toy run to hurt: python -m tests.faults.victim --workdir=DIR [--fsize=BYTES].

`Nursery` starts such runs from a process that has done their imports.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import time

from absl import flags

from experiments import command, train  # the first: see `experiments.supervisor`
from experiments.soak_parts import victims
from moe.data import prepare
from moe.training import loop, signals
from tests import tiny
from tests.training import toys

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 16
SERVER = r"""
import gc, json, os, signal, sys
from moe.training import signals
from tests.faults import victim

gc.freeze()  # children need not look through what was imported
for line in sys.stdin:
    arguments, said = json.loads(line)
    child = os.fork()
    if not child:
        for number in signals.ASKING:  # which a shell may have told the tests to ignore
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        try:
            victim.main(arguments)
        finally:
            sys.stderr.flush()
            code = getattr(sys.exc_info()[1], "code", 1) if sys.exc_info()[1] else 0
            if isinstance(code, str):
                print(code, file=sys.stderr, flush=True)
            os._exit(code if isinstance(code, int) else 1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


FSIZE = flags.DEFINE_integer("fsize", None, "The most bytes that a file may have.")


def run_config(devices):
    """Short steps and many checkpoints."""
    often = {"steps": STEPS, "eval_every": 12, "checkpoint_every": 4, "log_every": 1}
    return toys.run_config(train=often, mesh={"data": devices, "expert": 1})


def main(arguments: list[str]) -> None:
    """Trains the toy run, as `experiments.train` does."""
    flags.FLAGS(["victim", *arguments])
    if FSIZE.value:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FSIZE.value, resource.RLIM_INFINITY))
    prepare.prepare = lambda _: toys.data()
    with command._in_one_line():
        run = run_config(train.PROCESSES.value or 1)
        train.join()
        with signals.asked() as stop:
            loop.train(run, pathlib.Path(train.WORKDIR.value), stop=stop)


class Nursery(victims.Victims):
    """Runs that start without their imports; one lives at a time."""

    def __init__(self, root: pathlib.Path):
        super().__init__([sys.executable, "-m", "tests.faults.victim"], root, STEPS)
        flags_of_one = tiny.flags_without_devices()
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags_of_one},
        )  # fmt: skip

    def start(self, workdir, *arguments):
        """A run, as `subprocess.Popen` shows it."""
        request = [f"--workdir={workdir}", *arguments], str(victims.said(workdir))
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Child(int(self._server.stdout.readline()), self._server.stdout)

    def close(self):
        """Ends the server."""
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


class Child:
    """A process of the server's."""

    def __init__(self, pid, codes):
        os.set_blocking(codes.fileno(), True)
        self.pid = pid
        self._codes = codes
        self._code = None

    def poll(self):
        """None while it lives."""
        if self._code is None and not pathlib.Path(f"/proc/{self.pid}").exists():
            self._code = int(self._codes.readline())
        return self._code

    def wait(self, timeout=victims.PATIENCE):
        """Its exit code."""
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("victim", timeout)
            time.sleep(0.005)
        return self._code

    def send_signal(self, number):
        """Asks it."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Ends it."""
        self.send_signal(9)


if __name__ == "__main__":
    main(sys.argv[1:])
