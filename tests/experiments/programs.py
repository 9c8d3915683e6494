"""Programs of the repository run as a user runs them, but for their imports, which are done once.

A server imports what takes seconds and forks for every program; no backend has started by then.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
SERVER = r"""
import json, os, runpy, sys, traceback
import experiments.command, moe.flops, moe.training.loop

def run(program, arguments, environment):
    os.environ.update(environment)
    sys.argv = [program, *arguments]
    try:
        runpy.run_module(f"experiments.{program}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    program, arguments, environment, cwd, folder = json.loads(line)
    child = os.fork()
    if not child:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(cwd)
        code = run(program, arguments, environment)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Done(NamedTuple):
    """A finished program."""

    returncode: int
    stdout: str
    stderr: str


class Programs:
    """The server; `folder` takes what the programs print."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        )  # fmt: skip

    def run(self, program: str, *arguments: str, cwd=ROOT, **environment: str) -> Done:
        """`python -m experiments.<program>` on one device."""
        request = json.dumps([program, arguments, environment, str(cwd), str(self._folder)])
        self._server.stdin.write(request + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        said = ((self._folder / name).read_text() for name in ("stdout", "stderr"))
        return Done(code, *said)

    def close(self) -> None:
        """Ends the server."""
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
