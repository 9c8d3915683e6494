"""Which checkpoints lie in the folder of a run."""

import itertools
import pathlib
import re


def exists(workdir: pathlib.Path) -> bool:
    """Does the run in this folder have a checkpoint, sound or not?"""
    return bool(steps_in(workdir))


def steps_in(workdir: pathlib.Path) -> list[int]:
    """The steps of all complete checkpoints, the last first; what is written half has no number."""
    found = (workdir / "checkpoints").glob("*")
    return sorted(
        (int(path.name) for path in found if re.fullmatch("[0-9]+", path.name)), reverse=True
    )


def set_aside(workdir, step):
    """Moves one checkpoint into `damaged/`, where none was moved before."""
    target = workdir / "damaged"
    target.mkdir(exist_ok=True)
    names = (target / f"{step}_{number}" for number in itertools.count())
    (workdir / "checkpoints" / str(step)).rename(next(n for n in names if not n.exists()))
