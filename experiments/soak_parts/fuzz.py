"""Random configs: each trains two steps, or is refused by an error that a user can act on.

    python -m experiments.soak_parts.fuzz FIRST LAST OUT

does those with seeds FIRST to LAST, a line of JSON each; `configs` does so in processes that it
ends when one config takes too long.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator

import jax

from experiments.soak_parts import draw, victims
from experiments.soak_parts.victims import Row
from moe import schema
from moe.errors import NotFiniteError, UserError
from moe.training import loop
from moe.training.config import RunConfig

TRAINED = "trained"
REFUSED = "refused"
DIVERGED = "diverged"
LOST = "lost"
# Programs run for milliseconds and compile for seconds: optimizations are left out.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def configs(out: pathlib.Path, number: int) -> Iterator[Row]:
    """Those of seeds 0 to `number`; what is in the file already is not done again."""
    path = out / "configs.jsonl"
    while (first := len(_done(path))) < number:
        command = [sys.executable, "-m", __spec__.name, str(first), str(number), str(path)]
        environment = {**os.environ, "XLA_FLAGS": QUICK}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        reason = _watched(process, path)
        if reason:
            with path.open("a") as file:
                row = {"seed": len(_done(path)), "outcome": LOST, "said": reason}
                file.write(json.dumps(row) + "\n")
    for row in _done(path)[:number]:
        yield Row(f"config {row['seed']}", row["outcome"], row["said"])


def _watched(process, path):
    """Waits for the process; why it did not come to its end, or ""."""
    lines, since = len(_done(path)), time.monotonic()
    while process.poll() is None:
        time.sleep(1)
        if len(_done(path)) > lines:
            lines, since = len(_done(path)), time.monotonic()
        elif time.monotonic() - since > victims.PATIENCE:
            process.kill()
            process.wait()
            return f"it hangs: nothing for {victims.PATIENCE:.0f} seconds"
    return f"its process ended with code {process.returncode}" if process.returncode else ""


def _done(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def one(seed: int) -> tuple[str, str]:
    """What became of one config, and the error."""
    fields = draw.run(seed)
    workdir = pathlib.Path(tempfile.mkdtemp())
    try:
        run = schema.from_config_dict(RunConfig, fields)
        loop.train(run, workdir)
        return TRAINED, ""
    except NotFiniteError as error:
        return DIVERGED, str(error)
    except UserError as error:
        return REFUSED, str(error)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f"{f.filename}:{f.lineno}" for f in frames if "/moe/" in f.filename][-1:]
        return LOST, f"{type(error).__name__}: {error} {own}"[:1000]
    finally:
        shutil.rmtree(workdir)


def main(first: int, last: int, path: pathlib.Path) -> None:
    """Does them one after the other."""
    for seed in range(first, last):
        outcome, said = one(seed)
        with path.open("a") as file:
            file.write(json.dumps({"seed": seed, "outcome": outcome, "said": said}) + "\n")
        jax.clear_caches()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]))
