"""What do experts buy at equal FLOPs? Dense and MoE decoders on the same tokens, side by side.

    python -m experiments.scaling --config=configs/scaling.py:demo

Trains every variant over paired seeds (same data order, same shared initial weights), then prints
and writes the table and the figure. Interrupted, the same command goes on; finished runs are kept.
Pointed by --workdir at a finished study, it only reports.
"""

import dataclasses
import pathlib

from absl import flags
from ml_collections import ConfigDict

from experiments import command, study
from moe import flops, schema
from moe.analysis import plots, scaling
from moe.config import MoEConfig
from moe.training.config import RunConfig


def variants(config: ConfigDict) -> study.Runs:
    """The runs of the study, each matched to the dense baseline, by number of experts."""
    base = schema.from_config_dict(RunConfig, config.base, "base.")
    runs = {name: _variant(name, v, base, config) for name, v in config.variants.items()}
    return dict(sorted(runs.items(), key=lambda item: _place(*item)))


def _variant(name, variant, base, config):
    known = {"experts", "flops", "learning_rate", "model"}
    schema.require(
        set(variant) <= known, f"variants.{name} has {sorted(variant)}: only {sorted(known)}"
    )
    t = base.train
    size = {"batch": t.batch_size, "length": t.seq_len, "accumulate": t.accumulate}
    size["by"] = config.match
    model = dataclasses.replace(base.model, **variant.get("model", {}))
    sections = {}
    if "flops" in variant:
        model = flops.dense_of(model, variant.flops, **size)
    if "experts" in variant:
        shared = ConfigDict({"d_ff": model.d_ff, **config.experts, **variant.experts})
        experts = schema.from_config_dict(MoEConfig, shared, f"variants.{name}.experts.")
        matched = flops.match(model, dataclasses.replace(model, experts=experts), **size)
        print(f"{name:>16}: {config.match} FLOPs, {matched}")
        model = matched.sparse
    if "learning_rate" in variant:
        sections["optimizer"] = {"learning_rate": variant.learning_rate}
    return dataclasses.replace(base, model=model).replace(**sections)


def _place(name, run):
    experts = run.model.experts
    return (experts.num_experts, experts.k, name) if experts else (0, 0, name)


def report(records: list[dict], root: pathlib.Path, watts: float) -> None:
    """Prints the table, writes the whole of it and the figure, says where they are."""
    (root / "table.md").write_text(scaling.table(records, watts) + "\n")
    plots.save(plots.scaling_figure(records), root / "scaling.png")
    print(f"\n{scaling.table(records, watts, scaling.SHORT)}\n")
    for name in ("results.jsonl", "table.md", "scaling.png"):
        print(root / name)


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    runs = variants(config)
    records = study.run(runs, root, config.seeds, config.jobs)
    report(records, root, config.watts / config.jobs)


if __name__ == "__main__":
    CONFIG = command.config("configs/scaling.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
