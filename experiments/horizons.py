"""Runs of several lengths that share their first steps, which are made only once.

With the schedule "wsd" two runs that differ in `train.steps` alone are one run until the shorter
one decays. So it hands its state of that step to the next longer one, its heir, which goes on from
there to the very result that it would reach alone.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Callable, Iterable
from typing import NamedTuple

from moe.training import checkpoint, files, folders, loop, signals, workdirs
from moe.training.config import RunConfig


def with_shorter(runs: dict[str, RunConfig], lengths: Iterable[int]) -> dict[str, RunConfig]:
    """The runs and, before them, shorter ones of so many steps, called <name>@<steps>."""
    shorter = {
        f"{name}@{steps}": run.replace(train={"steps": steps})
        for steps in lengths
        for name, run in runs.items()
    }
    return shorter | runs


class Heir(NamedTuple):
    """The next longer run, and its folder."""

    run: RunConfig
    path: pathlib.Path


def heir_of(name: str, runs: dict[str, RunConfig]) -> str | None:
    """The name of the next longer of the runs that differ from this one in length alone."""
    run = runs[name]
    steps = run.train.steps
    if run.optimizer.schedule != "wsd" or run.optimizer.stable_steps(steps) == steps:
        return None
    longer = [
        other
        for other, its in runs.items()
        if its.train.steps > steps and run.replace(train={"steps": its.train.steps}) == its
    ]
    return min(longer, key=lambda other: runs[other].train.steps, default=None)


def train(
    run: RunConfig,
    path: pathlib.Path,
    name: str,
    bar: int,
    stop: Callable[[int], bool],
    heir: Heir | None,
) -> dict:
    """As `loop.train`; on its way the run hands its state to its heir."""
    if heir is None or _began(heir.path):
        return loop.train(run, path, name, bar, stop)
    parting = run.optimizer.stable_steps(run.train.steps)
    if (_step(path) or 0) < parting:
        try:
            loop.train(run, path, name, bar, lambda step: step == parting or stop(step))
        except signals.Stopped as stopped:
            if stopped.step != parting:
                raise
    if _step(path) == parting:
        _hand_on(path, heir)
    return loop.train(run, path, name, bar, stop)


def _began(path):
    return (path / "result.json").exists() or folders.exists(path)


def _step(path):
    if not folders.exists(path):
        return None
    with contextlib.closing(checkpoint.Checkpoints(path)) as checkpoints:
        return checkpoints.latest


def _hand_on(path, heir):
    """Copies what a run has, unless another process trains there; its checkpoints appear at once.

    Killed before, it is done again; killed between checkpoints and seals, the last one is believed.
    """
    to = heir.path
    with files.lock(to / "lock") as free, files.lock(to / "train.lock") as idle:
        if not (free and idle) or _began(to):
            return
        workdirs.claim(heir.run, to)
        for name in ("data.json", "init.json", "metrics.jsonl", "rewinds.json"):
            if (path / name).exists():
                shutil.copy(path / name, to / f".{name}")
                (to / f".{name}").rename(to / name)
        parts = [name for name in ("checkpoints", "checksums") if (path / name).exists()]
        for name in parts:
            shutil.rmtree(to / f".{name}", ignore_errors=True)
            shutil.copytree(path / name, to / f".{name}")
        for name in parts:  # what lies there is a save that was not finished
            shutil.rmtree(to / name, ignore_errors=True)
        for name in parts:
            (to / f".{name}").rename(to / name)
