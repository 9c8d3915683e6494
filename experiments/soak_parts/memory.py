"""Does a long run use more and more memory? Looked at from inside, after its steps.

    python -m experiments.soak_parts.memory OUT STEPS SAVE_EVERY

does it in a process of its own, whose allocator has seen nothing else. A short run goes before it:
threads of the library that saves come and go, and the first fifty saves fill the memory that the
allocator keeps for each. Once with checkpoints and once without, since the library keeps a little
of each save (experiments/RESULTS.md). Over 5,000 steps the slope moves by 0.5 MiB in 1,000 from run
to run, so the run is longer.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Iterator

import jax
import numpy as np

from configs import soak
from experiments.soak_parts.victims import Row
from moe import schema
from moe.training import loop
from moe.training.config import RunConfig

EVERY = 50  # steps between looks
SETTLED = 0.1  # of the steps, before which caches fill
MOST = 0.5  # MiB in 1,000 steps that count as flat
SAVES = 50  # of the short run
STATUS = pathlib.Path("/proc/self/statm")


def flat(out: pathlib.Path, steps: int) -> Iterator[Row]:
    """Trains so many steps; the slope of resident memory, and the number of live arrays."""
    for every in (100, steps):
        command = [sys.executable, "-m", __spec__.name, str(out), str(steps), str(every)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = Row(**json.loads(said.splitlines()[-1]))
        yield row._replace(fault=f"{row.fault}, a save every {every}")


def main(out: pathlib.Path, steps: int, every: int) -> None:
    """Prints the row."""
    loop.train(_run(steps=4 * SAVES, checkpoint_every=4), out / f"memory_before_{every}")
    long = _run(steps=steps, eval_every=100, checkpoint_every=every, log_every=10)
    looks: list[tuple[int, float, int]] = []

    def look(step: int) -> bool:
        if step % EVERY == 0:
            looks.append((step, _resident(), len(jax.live_arrays())))
        return False

    loop.train(long, out / f"memory_{every}", stop=look)
    print(json.dumps(verdict(looks, steps)._asdict()))


def _run(**train):
    config = soak.get_config()
    config.train.update(train)
    return schema.from_config_dict(RunConfig, config)


def verdict(looks: list[tuple[int, float, int]], steps: int) -> Row:
    """Is it flat once it has settled?

    Args:
      looks: step, MiB, live arrays.
      steps: of the run.
    """
    late = np.array([look for look in looks if look[0] > SETTLED * steps], float)
    slope = np.polyfit(late[:, 0] / 1000, late[:, 1], 1)[0]
    arrays = late[:, 2]
    flat = slope <= MOST and arrays[-1] <= arrays[0]
    said = (
        f"{slope:+.2f} MiB in 1,000 steps at {late[:, 1].mean():,.0f} MiB; {arrays[0]:.0f} live"
        f" arrays after step {late[0, 0]:.0f} and {arrays[-1]:.0f} after step {late[-1, 0]:.0f}"
    )
    return Row(f"{steps} steps", "survived" if flat else "lost", said)


def _resident():
    """MiB; where /proc is not there, the most so far."""
    if not STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
