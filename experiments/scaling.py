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

from experiments import command, horizons, study
from experiments.records import Runs
from moe import flops, schema
from moe.analysis import plots, scaling
from moe.config import ModelConfig
from moe.layers import ngrams
from moe.training.config import RunConfig

VARIANT = {"experts", "flops", "learning_rate", "model", "parameters_of"}  # what one may have


def variants(config: ConfigDict) -> Runs:
    """The runs of the study: shorter ones first, then by E.

    A variant is the base with other fields of `model`, and with at most one of
    - `experts`, as wide as the FLOPs of a dense model with the same other fields allow;
    - `flops`, so many times those of the base, by another d_ff;
    - `parameters_of`, tables of n-grams that make up for another variant's parameters.
    """
    base = schema.from_config_dict(RunConfig, config.base, "base.")
    models: dict[str, ModelConfig] = {}
    for name, variant in sorted(config.variants.items(), key=lambda v: "parameters_of" in v[1]):
        study.check_variant(name, variant, VARIANT)
        said = {"experts", "flops", "parameters_of"} & set(variant)
        schema.require(len(said) <= 1, f"variants.{name} has {sorted(said)}: keep one of them")
        models[name] = _model(name, variant, base, config, models)
    rate = base.optimizer.learning_rate
    runs = {
        name: dataclasses.replace(base, model=model).replace(
            optimizer={"learning_rate": config.variants[name].get("learning_rate", rate)}
        )
        for name, model in sorted(models.items(), key=_place)
    }
    shares = sorted(config.get("shorter", ()))
    schema.require(
        all(0 < share < 1 for share in shares),
        f"shorter={tuple(shares)} are shares of the steps: all must be above 0 and below 1",
    )
    return horizons.with_shorter(runs, [round(share * base.train.steps) for share in shares])


def _model(name, variant, base, config, others):
    t = base.train
    size: dict = {"batch": t.batch_size, "length": t.seq_len, "accumulate": t.accumulate}
    size |= {"by": config.match, "remat_policy": base.mesh.remat_policy}
    model = dataclasses.replace(base.model, **variant.get("model", {}))
    if "flops" in variant:
        return flops.dense_of(base.model, variant.flops, shape=model, **size)
    if "parameters_of" in variant:
        schema.one_of(f"variants.{name}.parameters_of", variant.parameters_of, others)
        return _with_ngrams(model, others[variant.parameters_of])
    if "experts" not in variant:
        return model
    sparse = study.with_experts(name, variant, model, config)
    matched = flops.match(model, sparse, **size)
    print(f"{name:>16}: {config.match} FLOPs, {matched}")
    return matched.sparse


def _with_ngrams(model, other):
    """The model with n-gram tables that give it the other's number of parameters."""
    lacking = flops.parameters(other).total - flops.parameters(model).total
    rows = round(lacking / (len(ngrams.ORDERS) * model.d_model))
    return dataclasses.replace(model, ngram_rows=rows)


def _place(item):
    name, model = item
    experts = model.experts
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
    records = study.run(runs, root, study.seeds_of(config), config.jobs)
    report(records, root, config.watts / config.jobs)


if __name__ == "__main__":
    CONFIG = command.config("configs/scaling.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
