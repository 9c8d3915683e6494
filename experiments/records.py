"""What finished runs say: the lines of results.jsonl.

A study goes on elsewhere without its folders: a results.jsonl that is copied there as earlier.jsonl
says which of its runs are done.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from moe import counting, flops, legacy, plan, schema, sealed
from moe.data.prepared import Prepared
from moe.errors import UserError
from moe.training import files, metrics, step, workdirs
from moe.training.config import RunConfig

Runs = dict[str, RunConfig]  # name -> its run with seed 0
Earlier = dict[tuple[str, int], dict]  # (name, seed) -> its record
ROUTING = (
    *("dropped", "unrouted", "max_load", "unused", "entropy", "gate", "realised_k"),
    *("realised_capacity",),
)  # statistics that results keep
ABREAST = 4  # variants, at least
TIMED = {  # fields of a record, and what they are called in timing.json
    "step_seconds": "median",
    "step_seconds_least": "least",
    "step_bytes": "bytes",
    "temporary_bytes": "memory",
}


def collect(
    runs: Runs, root: pathlib.Path, seeds: range, timed_in: pathlib.Path | None = None,
    documents: bool = True,
) -> list[dict]:  # fmt: skip
    """Writes results.jsonl from the finished runs and returns its records.

    Args:
      runs: the variants.
      root: the study's folder.
      seeds: of every variant.
      timed_in: the folder of timing.json, if it is another.
      documents: keep the loss of every test document, most of a record.
    """
    timed = step_times(timed_in or root)
    known = earlier(runs, root, seeds)
    records = []
    for name, path, seed in in_turn(runs, root, seeds):
        if not (done(path) or (name, seed) in known):
            continue
        found = _finished(path) if done(path) else known[name, seed]
        variant = variant_of(name)
        record = {"variant": variant, "seed": seed, **cost(runs[name]), **_timed(timed, variant)}
        records.append(record | {k: v for k, v in found.items() if k not in record})
    if not documents:
        records = [_without_documents(record) for record in records]
    sealed.write(root / "results.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    return records


def _without_documents(record):
    return {k: v for k, v in record.items() if not k.startswith("test_documents")}


def earlier(runs: Runs, root: pathlib.Path, seeds: range) -> Earlier:
    """The records of earlier.jsonl that are of these runs.

    Raises:
      UserError: if the file is damaged, or one of them is of a run with another config.
    """
    path = root / "earlier.jsonl"
    if not path.exists():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        said = {(line["variant"], line["steps"], line["seed"]): line for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): {sealed.MEND}") from error
    found = {}
    for name, _, seed in in_turn(runs, root, seeds):
        record = said.get((variant_of(name), runs[name].train.steps, seed))
        if record:
            _require_same(record, runs[name], path)
            found[name, seed] = {k: v for k, v in record.items() if k not in TIMED}
    return found


def _require_same(record, run, path):
    of = f"{path}: {record['variant']} with seed {record['seed']}"
    schema.require("config" in record and "data" in record, f"{of} lacks its config or its data")
    run = seeded(run, record["seed"])
    was = workdirs.fingerprint_of_file(record["config"])
    lines = files.as_json(was, workdirs.fingerprint(run))
    schema.require(not lines, f"{of} is of another config:\n  " + "\n  ".join(lines))


def seeded(run: RunConfig, seed: int) -> RunConfig:
    """The run with this seed; "{seed}" in the folders that it reads is the same one."""
    source = run.init_from.workdir.replace("{seed}", str(seed))
    own = run.replace(train={"seed": seed}, init_from={"workdir": source})
    options: Any = run.objective.options
    if not hasattr(options, "folder"):
        return own
    read = dataclasses.replace(options, folder=options.folder.replace("{seed}", str(seed)))
    return own.replace(objective={"options": read})


def require_data(known: Earlier, data: Prepared | None) -> None:
    """Refuses earlier runs on other data than each other, or than those that are left, if any."""
    said = None if data is None else workdirs.identity(data)
    for (name, seed), record in known.items():
        said = said or record["data"]
        schema.require(
            record["data"] == said,
            f"earlier.jsonl has {name} with seed {seed} on other data than this: leave it out",
        )


def in_turn(
    runs: Runs, root: pathlib.Path, seeds: range
) -> Iterator[tuple[str, pathlib.Path, int]]:
    """(name, workdir, seed), seed by seed, so that whole pairs are finished first.

    Of each seed a few variants at a time in all their lengths: little is half done at any moment.
    """
    variants = list(dict.fromkeys(map(variant_of, runs)))
    for seed in seeds:
        for block in np.array_split(variants, max(1, len(variants) // ABREAST)):
            for name in runs:
                if variant_of(name) in block:
                    yield name, folder(root, name, seed), seed


def folder(root: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """The workdir of a run."""
    return root / name / f"seed{seed}"


def done(path: pathlib.Path) -> bool:
    """Is the run in this workdir finished?"""
    return (path / "result.json").exists()


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


def _everything(run):
    """All operations of one training step: elementwise ones, sorts and the optimizer's, too."""
    t = run.train
    state = plan.state_shapes(run)
    train_step = step.of_run(flops.countable(run))
    return counting.count(
        train_step, state, run.task.batch_shapes(t.batch_size, t.seq_len)
    ).everything


def step_times(root: pathlib.Path) -> dict[str, dict]:
    """Seconds of a step by variant, median and least; nothing before they were taken."""
    path = root / "timing.json"
    nothing: dict[str, dict] = {"median": {}, "least": {}}
    found = sealed.read_json(path) if path.exists() else nothing
    return found if "least" in found else nothing


def _timed(timed, name):
    if name not in timed["median"]:
        return {}
    return {field: timed[key][name] for field, key in TIMED.items() if key in timed}


def _finished(path):
    """The result of a run with its validation curve and the routing of its last quarter."""
    lines = metrics.read(path / "metrics.jsonl")
    result = sealed.read_json(path / "result.json", "steps", "seconds")
    result["test"] = legacy.metrics(result.get("test", {}))
    curve = [r for r in lines if r["split"] == "validation"]
    train = [r for r in lines if r["split"] == "train"]
    late = train[-max(1, len(train) // 4) :]
    routing = {
        key: float(np.mean([r[key] for r in late])) for key in ROUTING if late and key in late[0]
    }
    return {
        **result,
        "curve_steps": [r["step"] for r in curve],
        "curve_nll": [r["nll"] for r in curve],
        "train_routing": routing,
        **_said(path, "config"),
        **_said(path, "data"),
    }


def _said(path, name):
    """What a file of the run says; runs of long ago lack some."""
    file = path / f"{name}.json"
    return {name: sealed.read_json(file)} if file.exists() else {}
