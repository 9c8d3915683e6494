"""The grid of cells that the law is fitted to: its parts are studies, its result is one table."""

import csv
import dataclasses
import io
import math
import pathlib

from ml_collections import ConfigDict

from experiments import horizons, records, study
from moe import schema, sealed
from moe.errors import NotFiniteError
from moe.training.config import RunConfig

VARIANT = {"model", "experts", "rate", "seen"}  # what one may have
COLUMNS = (
    *("part", "cell", "seed", "steps", "d_model", "experts", "k", "granularity", "size", "total"),
    *("tokens", "unique_tokens", "learning_rate", "ideal_flops", "executed_flops"),
    *("step_seconds", "step_bytes", "temporary_bytes", "train_seconds", "dropped", "test_nll"),
)


def runs(config: ConfigDict, part: ConfigDict) -> records.Runs:
    """The runs of a part, the shortest first; FLOPs are counted later and not matched."""
    base = schema.from_config_dict(RunConfig, config.base, "base.")
    *shorter, longest = (round(share * base.train.steps) for share in part.shares)
    base = base.replace(train={"steps": longest})
    models = {name: _run(name, variant, base, config) for name, variant in part.variants.items()}
    return horizons.with_shorter(models, shorter)


def _run(name, variant, base, config):
    study.check_variant(name, variant, VARIANT)
    model = dataclasses.replace(base.model, **variant.model)
    if "experts" in variant:
        model = study.with_experts(name, variant, model, config)
    t = base.train
    tokens = t.steps * t.batch_size * t.seq_len
    changed: dict = {"optimizer": {"learning_rate": variant.rate * base.optimizer.learning_rate}}
    if variant.seen > 1:
        changed["train"] = {"unique_tokens": tokens // variant.seen}
    return dataclasses.replace(base, model=model).replace(**changed)


def run(config: ConfigDict, root: pathlib.Path) -> list[dict]:
    """Does what is not done of every part, times models side by side; the rows of cells.csv.

    Raises:
      NotFiniteError: at the end, if runs diverged; the others are in cells.csv.
    """
    parts = {name: runs(config, part) for name, part in config.parts.items()}
    diverged = []
    for name, of_part in parts.items():
        try:
            seeds = study.seeds_of(config.parts[name])
            study.run(of_part, root / name, seeds, config.jobs, timed=False, documents=False)
        except NotFiniteError as error:
            diverged.append(str(error))
    if config.timed:
        models = {n: r for runs in parts.values() for n, r in runs.items()}
        study.time_steps(models, root, config.jobs)
    rows = [row for name in parts for row in _rows(name, parts[name], config, root)]
    sealed.write(root / "cells.csv", table(rows))
    if diverged:
        raise NotFiniteError("\n".join(diverged))
    return rows


def _rows(name, of_part, config, root):
    """Of every finished run of a part."""
    seeds = study.seeds_of(config.parts[name])
    found = records.collect(of_part, root / name, seeds, root, documents=False)
    return [row(name, of_part[record["variant"]], record) for record in found]


def planned(config: ConfigDict) -> list[dict]:
    """The rows of all cells before they are run: what was not measured is NaN."""
    unknown = {"seconds": math.nan, "train_routing": {}, "test_nll": math.nan}
    found = []
    for name, part in config.parts.items():
        for run_name, one in runs(config, part).items():
            known = {"variant": records.variant_of(run_name), "steps": one.train.steps}
            cost = records.cost(one) | known | unknown
            seeds = study.seeds_of(part)
            found += [row(name, one, cost | {"seed": seed}) for seed in seeds]
    return found


def row(part: str, run: RunConfig, record: dict) -> dict:
    """One finished run in short: what the law reads of it, and what it cost a token and a step."""
    model = run.model
    experts = model.experts
    embedding = model.vocab_size * model.d_model
    return {
        "part": part,
        "cell": record["variant"],
        "seed": record["seed"],
        "steps": record["steps"],
        "d_model": model.d_model,
        "experts": experts.num_experts if experts else 1,
        "k": experts.k if experts else 1,
        "granularity": model.d_ff // experts.d_ff if experts else 1,
        "size": record["active_parameters"] - embedding,
        "total": record["total_parameters"] - embedding,
        "tokens": record["steps"] * record["tokens_per_step"],
        "unique_tokens": run.train.unique_tokens or record["steps"] * record["tokens_per_step"],
        "learning_rate": record["learning_rate"],
        "ideal_flops": round(record["ideal_flops"]),
        "executed_flops": round(record["executed_flops"]),
        "step_seconds": record.get("step_seconds", ""),
        "step_bytes": record.get("step_bytes", ""),
        "temporary_bytes": record.get("temporary_bytes", ""),
        "train_seconds": round(record["seconds"], 1),
        "dropped": record["train_routing"].get("dropped", 0.0),
        "test_nll": record["test_nll"],
    }


def table(rows: list[dict]) -> str:
    """The rows as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
