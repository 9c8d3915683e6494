"""Runs many models over paired seeds: resumable, several at a time, each finished run kept.

A study lives in one folder: <name>/seed<n>/ is a workdir of `moe.training.loop`, timing.json has
step times measured side by side, and results.jsonl gathers one line per finished run. The name is
that of a variant, or <variant>@<steps> for a shorter run of it, see `experiments.horizons`.
"""

import contextlib
import dataclasses
import functools
import pathlib

import numpy as np
from ml_collections import ConfigDict

from experiments import horizons, records, timing, workers
from experiments.records import Runs
from moe import hlo, schema, sealed, sharding
from moe.config import ModelConfig, MoEConfig
from moe.data import prepare
from moe.errors import NotFiniteError
from moe.training import files, loop, signals, step, workdirs

ROUNDS = 40  # step times taken of each variant


def run(
    runs: Runs, root: pathlib.Path, seeds: range, jobs: int, timed: bool = True,
    documents: bool = True,
) -> list[dict]:  # fmt: skip
    """Does what is not done yet, then gathers results.jsonl.

    Args:
      runs: the variants.
      root: the study's folder.
      seeds: every variant is trained with each.
      jobs: runs at a time, each in a process with its own share of the CPU cores.
      timed: take step times, too; else that is left to `time_steps`.
      documents: as of `records.collect`.

    Returns:
      The lines of results.jsonl.

    Raises:
      UserError: if a run in the folder, finished or not, was made by another config, or on other
        data while runs are left; if what is left cannot be run; if the study is running already.
    """
    schema.require(
        len(seeds) > 0 and jobs > 0, f"there must be seeds and jobs, not {seeds} and {jobs}"
    )
    known = records.earlier(runs, root, seeds)
    left = [name for name, _, _ in _left(runs, root, seeds, known)]
    data = None
    for name in dict.fromkeys(left):  # refuses the last variant before the first is trained
        _, data = loop.setup(runs[name], data)
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        records.require_data(known, data)
        for name, path, seed in records.in_turn(runs, root, seeds):
            if (name, seed) in known:
                continue
            _require_data(path, data)
            workdirs.claim(records.seeded(runs[name], seed), path, data)
        if left:
            workers.run(_work, jobs, jobs, runs, root, seeds, documents)
        if timed:
            time_steps(runs, root, jobs, again=bool(left))
        return records.collect(runs, root, seeds, documents=documents)


def time_steps(runs: Runs, root: pathlib.Path, jobs: int, again: bool = False) -> None:
    """Writes timing.json, if it lacks a model: one of each variant, side by side.

    Args:
      runs: of one study, or of several that are to be compared.
      root: where timing.json goes.
      jobs: the step has the cores of one of so many jobs.
      again: whether or not it lacks one.
    """
    models = {name: run for name, run in runs.items() if "@" not in name}
    if again or not models.keys() <= records.step_times(root)["median"].keys():
        workers.run(_time_steps, 1, jobs, models, root)


@contextlib.contextmanager
def _alone(root):
    """Refuses a second launch of a study that is running: it would spoil the timing."""
    with files.lock(root / "lock") as free:
        schema.require(free, f"{root} is being run by another process: wait for it")
        yield


def _require_data(path, data):
    """All runs must be on the same data, so that of a finished one must be known."""
    schema.require(
        data is None or not records.done(path) or (path / "data.json").exists(),
        f"{path} has a result.json but no data.json, so its data is unknown and the runs that are"
        " left can't be compared with it: bring data.json back, or delete the run",
    )


def seeds_of(config: ConfigDict) -> range:
    """The seeds of a study; pilots begin at another than the studies that they are made for."""
    first = config.get("first_seed", 0)
    return range(first, first + config.seeds)


def check_variant(name: str, variant: ConfigDict, known: set[str]) -> None:
    """Refuses what no variant of this kind of study has."""
    schema.require(
        set(variant) <= known, f"variants.{name} has {sorted(variant)}: only {sorted(known)}"
    )


def with_experts(
    name: str, variant: ConfigDict, model: ModelConfig, config: ConfigDict
) -> ModelConfig:
    """The model with the variant's experts, and what those of the study share."""
    shared = ConfigDict({"d_ff": model.d_ff, **config.experts, **variant.experts})
    experts = schema.from_config_dict(MoEConfig, shared, f"variants.{name}.experts.")
    return dataclasses.replace(model, experts=experts)


def _left(runs, root, seeds, known):
    """What is not done, here or earlier, as of `records.in_turn`."""
    return [
        (name, path, seed)
        for name, path, seed in records.in_turn(runs, root, seeds)
        if not records.done(path) and (name, seed) not in known
    ]


def _work(index, runs, root, seeds, documents=True):
    """Trains every run that is neither finished nor in another worker's hands.

    Raises:
      NotFiniteError: at the end, if runs diverged; the others are trained nevertheless.
    """
    diverged = []
    known = records.earlier(runs, root, seeds)
    with signals.asked() as stop:
        for name, path, seed in _left(runs, root, seeds, known):
            with files.lock(path / "lock") as free:
                if not free:
                    continue
                try:
                    heir = _heir(name, runs, root, seed, known)
                    said = f"{name} seed {seed}"
                    horizons.train(records.seeded(runs[name], seed), path, said, index, stop, heir)
                except NotFiniteError as error:
                    diverged.append(str(error))
                records.collect(runs, root, seeds, documents=documents)
    if diverged:
        raise NotFiniteError("\n".join(diverged))


def _heir(name, runs, root, seed, known):
    found = horizons.heir_of(name, runs)
    if found is None or (found, seed) in known:
        return None
    return horizons.Heir(records.seeded(runs[found], seed), records.folder(root, found, seed))


def _time_steps(index, runs, root):
    """Times one training step of every variant in turn, so that noise falls on all alike."""
    del index
    first = next(iter(runs.values()))
    with sharding.on(loop.mesh_of(first), first.mesh.zero):
        data = prepare.prepare(first.data)
        states = {name: _state(run, data) for name, run in runs.items()}
        steps = {name: loop.compiled(run, states[name], data) for name, run in runs.items()}
        calls = {
            name: functools.partial(
                timing.advance, states, name, steps[name], loop.batch(run, data, 0)
            )
            for name, run in runs.items()
        }
        seconds = timing.interleaved(calls, ROUNDS, "timing steps side by side", settled=True)
    found = {
        "machine": files.machine(),
        "median": {name: float(np.median(s)) for name, s in seconds.items()},
        "least": {name: float(np.min(s)) for name, s in seconds.items()},
        "bytes": {name: hlo.bytes_accessed(s) for name, s in steps.items()},
        "memory": {name: hlo.temporary_bytes(s) for name, s in steps.items()},
        "seconds": {name: [round(x, 6) for x in s] for name, s in seconds.items()},
    }
    sealed.write_json(root / "timing.json", found)


def _state(run, data):
    return step.init(run.task.model, run.tx, run.train.seed, data.tokens["train"])
