"""Is a dense model a good beginning for one with experts, and for how long?

    python -m experiments.upcycling --config=configs/upcycling.py:demo

Three rounds, resumable: dense parents of several lengths are trained; each becomes experts, by
`experiments.adapt`; these are trained on, beside the parent itself for as many FLOPs, and the same
experts from scratch.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator

from absl import flags
from ml_collections import ConfigDict

from experiments import command, horizons, looks, made, records, study
from experiments.records import Runs
from moe import flops, schema
from moe.analysis import upcycling as tables
from moe.config import ModelConfig, MoEConfig
from moe.training import runs
from moe.training.config import RunConfig

PARENT = "dense"


def parents(config: ConfigDict) -> Runs:
    """The dense model after each number of steps; the longest one is called without it.

    Raises:
      UserError: for a config whose ways have nothing to be compared with.
    """
    schema.require(
        config.at in config.parents, f"at={config.at} is none of parents={config.parents}"
    )
    schema.require(
        tables.COPIES in config.ways and config.ways[tables.COPIES].everywhere,
        f"ways={list(config.ways)} lacks {tables.COPIES!r} with everywhere=True, which others are"
        " compared with",
    )
    base = schema.from_config_dict(RunConfig, config.base, "base.")
    *shorter, longest = sorted(config.parents)
    return horizons.with_shorter({PARENT: base.replace(train={"steps": longest})}, shorter)


def ways(config: ConfigDict, dense: Runs) -> Iterator[tuple[str, str, ConfigDict]]:
    """(name, parent's name, how) of all that parents become: <way>_<the parent's steps>."""
    for parent, run in dense.items():
        for way, how in config.ways.items():
            steps = run.train.steps
            if how.everywhere or steps == config.at:
                yield f"{way}_{steps}", parent, how


def make(config: ConfigDict, dense: Runs, root: pathlib.Path, seeds: range) -> None:
    """Writes the models that parents become, those that are not there yet."""
    size = {"experts": config.experts.num_experts, "k": config.experts.k}
    for name, parent, how in ways(config, dense):
        for seed in seeds:
            source = records.folder(root, parent, seed)
            out = records.folder(root / "made", name, seed)
            made.upcycled([source], out, **size, seed=seed, parts=how.parts, share=how.share)


def children(config: ConfigDict, dense: Runs, root: pathlib.Path, seeds: range) -> Runs:
    """All that is trained after parents, and from scratch."""
    base = dense[PARENT]
    experts = schema.from_config_dict(MoEConfig, config.experts, "experts.")
    sparse = dataclasses.replace(base.model, experts=experts)
    scratch = base.replace(optimizer={"warmup_steps": config.warmup_steps})
    found = _of(config, "scratch_0", dataclasses.replace(scratch, model=sparse), config.scratch)
    for name, parent, how in ways(config, dense):
        folder = root / "made" / name
        model = _common(runs.read_config(folder / f"seed{seeds[0]}").model, experts)
        after = _after(dense[parent], config, model, folder, how.optimizer)
        found |= _of(config, name, after, config.lengths)
    for parent, run in dense.items():
        own = _after(run, config, run.model, root / parent)
        ratio = flops.of_run(_after(run, config, sparse, root)).total / flops.of_run(own).total
        lengths = [round(ratio * length) for length in config.lengths]
        found |= _of(config, f"continued_{run.train.steps}", own, lengths)
    return found


def _after(parent, config, model: ModelConfig, folder, optimizer: bool = False) -> RunConfig:
    """The run of a model on what its parent has not read."""
    run = parent.replace(
        train={"first_batch": parent.train.steps},
        optimizer={"warmup_steps": config.warmup_steps},
        init_from={"workdir": str(folder / "seed{seed}"), "optimizer": optimizer},
    )
    return dataclasses.replace(run, model=model)


def _common(model: ModelConfig, experts: MoEConfig) -> ModelConfig:
    """The model with groups and capacity as experts from scratch have them."""
    own = model.experts
    assert own is not None
    same = ("group_size", "capacity_factor", "eval_capacity_factor", "router_scale")
    changed = dataclasses.replace(own, **{field: getattr(experts, field) for field in same})
    return dataclasses.replace(model, experts=changed)


def _of(config, name, run, lengths: Iterable[int]) -> Runs:
    """The run in all lengths, at its learning rate, or at each of several."""
    kind = name.partition("_")[0]
    rates = config.rates.get(kind, config.rates.copies)
    if isinstance(rates, tuple):
        named = {f"{name}_lr_{rate}".replace(".", "_"): rate for rate in rates}
    else:
        named = {name: rates}
    *shorter, longest = sorted(lengths)
    found = {
        one: run.replace(optimizer={"learning_rate": rate}, train={"steps": longest})
        for one, rate in named.items()
    }
    return horizons.with_shorter(found, shorter)


def main(config: ConfigDict, workdir: str) -> None:
    """Runs all rounds and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    seeds = study.seeds_of(config)
    dense = parents(config)
    once = {"timed": False, "documents": False}
    study.run(dense, root, seeds, config.jobs, **once)
    make(config, dense, root, seeds)
    found = study.run(
        dense | children(config, dense, root, seeds), root, seeds, config.jobs, **once
    )
    looks.report(root, "upcycling", tables.table(found), tables.drawn(found), of="results.jsonl")


if __name__ == "__main__":
    CONFIG = command.config("configs/upcycling.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
