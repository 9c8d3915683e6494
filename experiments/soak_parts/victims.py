"""Training runs to hurt, each a process of its own, and what must be equal at their ends.

A run that was hurt is compared with one that was not: every array of the last checkpoint bit for
bit, every line of metrics.jsonl, the result; all but what a clock measured.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint.experimental import v1 as orbax

from moe import paths, sealed
from moe.training import files, folders, metrics

CLOCKS = {"seconds", "machine", "tokens_per_second"}  # what no two runs have alike
PATIENCE = 300.0  # seconds after which a process counts as one that hangs


class Row(NamedTuple):
    """What came of one fault."""

    fault: str
    outcome: str  # survived, refused (and mended), or lost
    said: str = ""


class Victims:
    """Runs of one command, each in a workdir of its own.

    Args:
      command: of the run, but for the workdir.
      root: where workdirs lie; `untouched` is that of the run that nobody hurts.
      steps: of each run.
      environment: of the processes, beside this one's.
    """

    def __init__(self, command: list[str], root: pathlib.Path, steps: int, **environment: str):
        self._command = command
        self.steps = steps
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(self.root / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **environment,
        }

    def fresh(self, name: str) -> pathlib.Path:
        """A workdir that nobody has used."""
        shutil.rmtree(self.root / name, ignore_errors=True)
        return self.root / name

    def start(self, workdir: pathlib.Path, *arguments: str) -> subprocess.Popen:
        """Begins or goes on; stderr is kept beside the workdir, see `said`."""
        with said(workdir).open("w") as file:
            return subprocess.Popen(
                [*self._command, f"--workdir={workdir}", *arguments],
                env=self._environment, stdout=subprocess.DEVNULL, stderr=file,
            )  # fmt: skip

    def finish(self, workdir: pathlib.Path, *arguments: str) -> int:
        """Goes on to the end; the exit code.

        Raises:
          subprocess.TimeoutExpired: if it hangs.
        """
        process = self.start(workdir, *arguments)
        try:
            return process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()

    def untouched(self) -> pathlib.Path:
        """The workdir of a whole run."""
        workdir = self.root / "untouched"
        if not (workdir / "result.json").exists() and self.finish(workdir):
            raise RuntimeError(f"a run that nobody hurts fails: {last_line(workdir)}")
        return workdir

    def judged(self, fault: str, workdir: pathlib.Path, told: str = "") -> Row:
        """Finishes the run, compares it, and removes what is well.

        Args:
          told: by what line the fault was refused before it was mended, if it was.
        """
        try:
            code = self.finish(workdir)
        except subprocess.TimeoutExpired:
            return Row(fault, "lost", "it hangs")
        if code:
            return Row(fault, "lost", f"exit code {code}: {last_line(workdir)}")
        differ = differences(self.untouched(), workdir)
        if differ:
            return Row(fault, "lost", "; ".join(differ[:3]))
        shutil.rmtree(workdir)
        said(workdir).unlink()
        return Row(fault, "refused" if told else "survived", told)


def command() -> list[str]:
    """`experiments.train` with `configs/soak.py`, in this Python."""
    return [sys.executable, "-m", "experiments.train", "--config=configs/soak.py"]


def said(workdir: pathlib.Path) -> pathlib.Path:
    """Where the last process of a run wrote its errors."""
    return workdir.with_name(f"{workdir.name}.said")


def last_line(workdir: pathlib.Path, pattern: str = "") -> str:
    """The last line that the last process said, or the last with a match; "" if there is none."""
    lines = re.split(r"[\r\n]+", said(workdir).read_text().strip())
    found = [line for line in lines if re.search(pattern, line)]
    return found[-1][:500] if found else ""


def is_told(workdir: pathlib.Path) -> bool:
    """Did it end with an error for users? The last line of a traceback names a type."""
    return re.match(r"[\w.]+(Error|Exception|Interrupt)\b", last_line(workdir)) is None


def wait_for_step(workdir: pathlib.Path, step: int, process: subprocess.Popen) -> None:
    """Waits until a run logged a step, or ended."""
    until = time.monotonic() + PATIENCE
    path = workdir / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < until:
        if path.exists() and any(r["step"] >= step for r in metrics.read(path)):
            return
        time.sleep(0.02)


def differences(a: pathlib.Path, b: pathlib.Path) -> list[str]:
    """What two finished runs do not have alike, a line each."""
    found = [_state(a), _state(b)]
    if found[0].keys() != found[1].keys():
        return [f"arrays {sorted(found[0].keys() ^ found[1].keys())}"]
    lines = [f"{path} differs" for path, x in found[0].items() if not _same(x, found[1][path])]
    lines += files.difference(*(_timeless(sealed.read_json(w / "result.json")) for w in (a, b)))
    records = [[_timeless(r) for r in metrics.read(w / "metrics.jsonl")] for w in (a, b)]
    if len(records[0]) != len(records[1]):
        lines.append(f"{len(records[0])} lines of metrics and {len(records[1])}")
    pairs = zip(*records, strict=False)
    return lines + [f"metrics of step {r['step']} differ" for r, other in pairs if r != other]


def _same(x, y):
    return x.dtype == y.dtype and x.tobytes() == y.tobytes()


def _state(workdir):
    """Every array of the last checkpoint by its path."""
    folder = workdir.resolve() / "checkpoints" / str(folders.steps_in(workdir)[0])
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def template(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)

    loaded = orbax.load(folder, jax.tree.map(template, orbax.metadata(folder).metadata))
    return {path: np.asarray(x) for path, x in paths.named(loaded).items()}


def _timeless(record):
    return {k: v for k, v in record.items() if k not in CLOCKS}
