"""Runs that are killed at random moments, saves among them, and runs that are asked to end."""

import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

from experiments.soak_parts import victims
from experiments.soak_parts.victims import Row, Victims
from moe.training import folders, signals

AHEAD = 8  # steps, of which one or two save
SAVE = 0.3  # seconds that a save takes, and more
START = 9.0  # seconds of a start and of some steps: the time in which kills come

# What is said of it; threads of the library may print more, after it.
FULL = "could not be written|No space left"


def kills(runs: Victims, times: int, longest: float = START, seed: int = 0) -> Iterator[Row]:
    """SIGKILL, so many times, at random moments.

    Most come up to `longest` seconds after a start, a third around a step, which is often one that
    saves. A run that ends is compared, and another one begins; a row is a run with all its
    kills.
    """
    rng = random.Random(seed)
    done = 0
    while done < times:
        workdir = runs.fresh(f"killed_{seed}_{done}")
        hits = late = 0
        while done < times and _killed(runs, workdir, rng, longest):
            done += 1
            hits += 1
            late += folders.exists(workdir)
        row = runs.judged("SIGKILL", workdir)
        yield row._replace(said=f"{hits} kills, {late} after a checkpoint. {row.said}".strip())


def _killed(runs, workdir, rng, longest):
    """Kills a run at a random moment; false if it had ended by then."""
    process = runs.start(workdir)
    seconds = rng.uniform(0, longest)
    if rng.random() < 1 / 3:
        last = max(folders.steps_in(workdir), default=0)
        victims.wait_for_step(workdir, last + rng.randrange(1, AHEAD), process)
        seconds = rng.uniform(0, SAVE)
    time.sleep(seconds)
    lives = process.poll() is None
    process.kill()
    process.wait()
    return lives


def asked(runs: Victims, times: int) -> Iterator[Row]:
    """SIGTERM, SIGINT and SIGHUP, twice each time, while it trains."""
    rng = random.Random(0)
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:  # as of nohup, and runs would inherit it
            signal.signal(number, signal.SIG_DFL)
    for i in range(times):
        number = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[i % 3]
        workdir = runs.fresh(f"asked_{i}")
        process = runs.start(workdir)
        victims.wait_for_step(workdir, rng.randrange(1, runs.steps // 3), process)
        process.send_signal(number)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(number)
        code = process.wait(victims.PATIENCE)
        told = victims.last_line(workdir)
        if code != signals.RESUMABLE or not victims.is_told(workdir):
            yield Row(number.name, "lost", f"exit code {code}: {told}")
        else:
            yield runs.judged(number.name, workdir)


def twice(runs: Victims, times: int) -> Iterator[Row]:
    """A second run in the workdir of one that trains; it is refused, and the first goes on.

    Every second time the first is killed then: its lock must not outlive it.
    """
    for i in range(times):
        workdir = runs.fresh(f"twice_{i}")
        first = runs.start(workdir)
        victims.wait_for_step(workdir, 1, first)
        victims.said(workdir).rename(runs.root / "the_first.said")
        code = runs.finish(workdir)
        told = victims.last_line(workdir)
        if i % 2:
            first.kill()
        first.wait(victims.PATIENCE)
        if code != 1 or "another process is training in" not in told:
            yield Row("two at once", "lost", f"exit code {code}: {told}")
        else:
            yield runs.judged("two at once", workdir, told)


def full_disk(runs: Victims, times: int) -> Iterator[Row]:
    """A small disk, mounted for the run, that is full at a random moment; later it is enlarged."""
    rng = random.Random(0)
    for i in range(times):
        disk = runs.fresh(f"disk_{i}")
        disk.mkdir()
        size = rng.randrange(100_000, 1_000_000)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            yield Row("full disk", "skipped", "no disk can be mounted here")
            return
        try:
            yield _on_small_disk(runs, disk / "run")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        if not any(disk.iterdir()):
            shutil.rmtree(disk)


def _on_small_disk(runs: Victims, workdir: pathlib.Path) -> Row:
    said = victims.said(workdir)
    said.symlink_to(runs.root / f"{workdir.parent.name}.said")  # it must not lie on the full disk
    code = runs.finish(workdir)
    told = victims.last_line(workdir, FULL)
    if code != 1 or not told:
        return Row("full disk", "lost", f"exit code {code}: {victims.last_line(workdir)}")
    grow = ["mount", "-o", "remount,size=100000000", str(workdir.parent)]
    subprocess.run(grow, check=True)
    return runs.judged("full disk", workdir, told)
