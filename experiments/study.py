"""Runs many models over paired seeds: resumable, several at a time, each finished run kept.

A study lives in one folder: <name>/seed<n>/ is a workdir of `moe.training.loop`, timing.json has
step times measured side by side, and results.jsonl gathers one line per finished run. The name is
that of a variant, or <variant>@<steps> for a shorter run of it, see `experiments.horizons`.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from experiments import horizons, timing, workers
from moe import counting, flops, hlo, legacy, plan, schema, sealed, sharding
from moe.config import ModelConfig, MoEConfig
from moe.data import prepare
from moe.errors import NotFiniteError
from moe.training import files, loop, metrics, signals, step
from moe.training.config import RunConfig

Runs = dict[str, RunConfig]  # name -> its run with seed 0
ROUTING = (
    *("dropped", "unrouted", "max_load", "unused", "entropy", "gate", "realised_k"),
    *("realised_capacity",),
)  # statistics that results keep
ROUNDS = 60  # step times taken of each variant


def run(runs: Runs, root: pathlib.Path, seeds: range, jobs: int, timed: bool = True) -> list[dict]:
    """Does what is not done yet, then gathers results.jsonl.

    Args:
      runs: the variants.
      root: the study's folder.
      seeds: every variant is trained with each.
      jobs: runs at a time, each in a process with its own share of the CPU cores.
      timed: take step times, too; else that is left to `time_steps`.

    Returns:
      The lines of results.jsonl.

    Raises:
      UserError: if a run in the folder, finished or not, was made by another config, or on other
        data while runs are left; if what is left cannot be run; if the study is running already.
    """
    schema.require(
        len(seeds) > 0 and jobs > 0, f"there must be seeds and jobs, not {seeds} and {jobs}"
    )
    left = [name for name, path, _ in _all(runs, root, seeds) if not _done(path)]
    data = None
    for name in dict.fromkeys(left):  # refuses the last variant before the first is trained
        _, data = loop.setup(runs[name], data)
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        for name, path, seed in _all(runs, root, seeds):
            _require_data(path, data)
            loop.claim_workdir(_seeded(runs[name], seed), path, data)
        if left:
            workers.run(_work, jobs, jobs, runs, root, seeds)
        if timed:
            time_steps(runs, root, jobs, again=bool(left))
        return collect(runs, root, seeds)


def time_steps(runs: Runs, root: pathlib.Path, jobs: int, again: bool = False) -> None:
    """Writes timing.json, if it lacks a model: one of each variant, side by side.

    Args:
      runs: of one study, or of several that are to be compared.
      root: where timing.json goes.
      jobs: the step has the cores of one of so many jobs.
      again: whether or not it lacks one.
    """
    models = {name: run for name, run in runs.items() if "@" not in name}
    if again or not models.keys() <= _timing(root)["median"].keys():
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
        data is None or not _done(path) or (path / "data.json").exists(),
        f"{path} has a result.json but no data.json, so its data is unknown and the runs that are"
        " left can't be compared with it: bring data.json back, or delete the run",
    )


def collect(
    runs: Runs, root: pathlib.Path, seeds: range, timed_in: pathlib.Path | None = None
) -> list[dict]:
    """Writes results.jsonl from the finished runs and returns its records.

    Args:
      runs, root, seeds: as of `run`.
      timed_in: the folder of timing.json, if it is another.
    """
    timed = _timing(timed_in or root)
    costs = {name: cost(run) for name, run in runs.items()}
    records = [
        {
            "variant": variant_of(name),
            "seed": seed,
            **costs[name],
            **_timed(timed, variant_of(name)),
            **_finished(path),
        }
        for name, path, seed in _all(runs, root, seeds)
        if _done(path)
    ]
    sealed.write(root / "results.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    return records


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


def variant_of(name: str) -> str:
    """Of <variant>@<steps>, the variant."""
    return name.partition("@")[0]


@functools.cache
def cost(run: RunConfig) -> dict:
    """What one variant costs: parameters, learning rate, FLOPs per token, by part."""
    counts = flops.parameters(run.model)
    t = run.train
    executed = flops.of_run(run)
    tokens = t.batch_size * t.seq_len
    return {
        "experts": run.model.experts.num_experts if run.model.experts else 0,
        "total_parameters": counts.total,
        "active_parameters": counts.active,
        "ideal_flops": sum(run.task.ideal_flops(t.seq_len).values()),
        "executed_flops": executed.total / tokens,
        "eval_flops": flops.evaluating(run.model, run.micro_batch, t.seq_len).total
        / (run.micro_batch * t.seq_len),
        "executed_parts": {k: v / tokens for k, v in executed.products.items()},
        "all_flops": _everything(run) / tokens,
        "learning_rate": run.optimizer.learning_rate,
        "tokens_per_step": tokens,
    }


def _done(path):
    return (path / "result.json").exists()


def _everything(run):
    """All operations of one training step: elementwise ones, sorts and the optimizer's, too."""
    t = run.train
    state = plan.state_shapes(run)
    train_step = step.of_run(run)
    return counting.count(
        train_step, state, run.task.batch_shapes(t.batch_size, t.seq_len)
    ).everything


def _timing(root):
    """Seconds of a step by variant, median and least; nothing before they were taken."""
    path = root / "timing.json"
    nothing: dict[str, dict] = {"median": {}, "least": {}}
    found = sealed.read_json(path) if path.exists() else nothing
    return found if "least" in found else nothing


def _timed(timed, name):
    if name not in timed["median"]:
        return {}
    known = {
        "median": "step_seconds",
        "least": "step_seconds_least",
        "bytes": "step_bytes",
        "memory": "temporary_bytes",
    }
    return {field: timed[key][name] for key, field in known.items() if key in timed}


def _finished(path):
    """The result of a run with its validation curve and the routing of its last quarter."""
    records = metrics.read(path / "metrics.jsonl")
    result = sealed.read_json(path / "result.json", "steps", "seconds")
    result["test"] = legacy.metrics(result.get("test", {}))
    curve = [r for r in records if r["split"] == "validation"]
    train = [r for r in records if r["split"] == "train"]
    late = train[-max(1, len(train) // 4) :]
    routing = {
        key: float(np.mean([r[key] for r in late])) for key in ROUTING if late and key in late[0]
    }
    return {
        **result,
        "curve_steps": [r["step"] for r in curve],
        "curve_nll": [r["nll"] for r in curve],
        "train_routing": routing,
    }


def _all(runs: Runs, root, seeds) -> Iterator[tuple[str, pathlib.Path, int]]:
    """(name, workdir, seed), seed by seed, so that whole pairs are finished first."""
    for seed in seeds:
        for name in runs:
            yield name, _folder(root, name, seed), seed


def _folder(root, name, seed):
    return root / name / f"seed{seed}"


def _seeded(run, seed):
    return run.replace(train={"seed": seed})


def _work(index, runs, root, seeds):
    """Trains every run that is neither finished nor in another worker's hands.

    Raises:
      NotFiniteError: at the end, if runs diverged; the others are trained nevertheless.
    """
    diverged = []
    with signals.asked() as stop:
        for name, path, seed in _all(runs, root, seeds):
            with files.lock(path / "lock") as free:
                if not free:
                    continue
                try:
                    heir = _heir(name, runs, root, seed)
                    said = f"{name} seed {seed}"
                    horizons.train(_seeded(runs[name], seed), path, said, index, stop, heir)
                except NotFiniteError as error:
                    diverged.append(str(error))
                collect(runs, root, seeds)
    if diverged:
        raise NotFiniteError("\n".join(diverged))


def _heir(name, runs, root, seed):
    found = horizons.heir_of(name, runs)
    return found and horizons.Heir(_seeded(runs[found], seed), _folder(root, found, seed))


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
        seconds = timing.interleaved(calls, ROUNDS, "timing steps side by side")
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
