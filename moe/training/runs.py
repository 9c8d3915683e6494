"""Finished and unfinished runs, opened again: `load_run` is the one way."""

import pathlib
from typing import Any, NamedTuple

from moe import legacy, schema, sealed
from moe.data import prepare
from moe.errors import UserError
from moe.training import checkpoint, checksums, files, folders, starting, step, workdirs
from moe.training.config import RunConfig


class LoadedRun(NamedTuple):
    """A run as of one checkpoint."""

    run: RunConfig
    data: Any  # prepared, the same that it was trained on
    state: step.State

    @property
    def params(self) -> dict:
        """The parameters of `run.model`, whatever lies beside them in the state."""
        return self.run.plain(self.state.params)


def read_config(workdir: pathlib.Path) -> RunConfig:
    """The config of a run, whichever version wrote it.

    Raises:
      UserError: if there is none.
    """
    path = pathlib.Path(workdir) / "config.json"
    schema.require(path.exists(), f"{workdir} has no config.json: it is not a run's folder")
    return schema.from_config_dict(RunConfig, legacy.run_config(sealed.read_json(path)))


def load_run(workdir: pathlib.Path | str, at: int | None = None) -> LoadedRun:
    """The config, the data and the last state of the run in a folder.

    Args:
      workdir: the folder.
      at: the step of an earlier checkpoint, to have that state instead.

    Raises:
      UserError: if there is no run or no checkpoint, or the data is not what it was trained on.
    """
    workdir = pathlib.Path(workdir)
    if at is not None:
        _require_step(workdir, at)
    run = read_config(workdir)
    data = prepare.prepare(run.data)
    files.require_same(workdir / "data.json", workdirs.identity(data), "data")
    shapes = starting.shapes(run, data)
    found = checkpoint.reading(workdir, lambda checkpoints: checkpoints.restore(shapes), at)
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet")
    return LoadedRun(run, data, found[0])


def _require_step(workdir, at):
    kept = folders.steps_in(workdir)
    schema.require(at in kept, f"{workdir} has checkpoints of steps {kept}, none of step {at}")
    damage = checksums.damage(workdir, at)
    schema.require(not damage, f"the checkpoint of step {at} in {workdir}: {damage}")
