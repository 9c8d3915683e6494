"""Does expert parallelism scale? Experts, tokens and devices grow together, e = 1, 2, 4, ..., 64.

    python -m experiments.expert_parallel --config=configs/expert_parallel.py

Every size is compiled, and on simulated devices run for one step. Read from the compiled programs:
how many all-to-alls an MoE layer has, the bytes that leave a device for each of its tokens, and the
memory of a device. All must stay flat, but for a ring's factor (e-1)/e and the router's E logits.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import tqdm
from absl import flags
from ml_collections import ConfigDict

from experiments import command
from moe import hlo, plan, schema, sharding
from moe.analysis import markdown, plots
from moe.batch import Batch
from moe.training import estimate, loop, step
from moe.training.config import RunConfig


def scaled(config: ConfigDict, e: int) -> RunConfig:
    """The run of `e` devices along the expert axis."""
    base = schema.from_config_dict(RunConfig, config.base, "base.")
    experts = dataclasses.replace(base.model.experts, num_experts=config.experts_per_device * e)
    size = {"batch_size": config.sequences_per_device * e}
    return base.replace(model={"experts": experts}, train=size, mesh={"data": 1, "expert": e})


def simulated(run: RunConfig) -> dict:
    """One compiled and executed step on simulated devices."""
    mesh = loop.mesh_of(run, jax.devices()[: run.mesh.expert])
    shape = run.train.batch_size, run.train.seq_len
    rng = np.random.default_rng(0)
    tokens_BT, targets_BT = rng.integers(1, run.model.vocab_size, (2, *shape)).astype(np.int32)
    place = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    with sharding.on(mesh, run.mesh.zero):
        state = step.init(run.task.model, run.tx, run.train.seed)
        inputs = sharding.shard_batch(Batch(tokens_BT, targets_BT, np.ones_like(place), place))
        program = step.make_train_step(run.task, run.tx, 0).lower(state, inputs).compile()
        sizes = [estimate.bytes_per_device(tree) for tree in (state.params, state)]
        _, metrics = program(state, inputs)
    return {
        "by": "simulated",
        "parameters": sizes[0],
        "temporary": plan.beside(program, sizes[1]),
        "traffic": hlo.traffic(hlo.text_of(program), dict(mesh.shape)),
        "loss": float(metrics["loss"]),
    }


def planned(run: RunConfig, config: ConfigDict, topology: str | None) -> dict:
    """What `simulated` finds, by the TPU compiler, or by arithmetic where there is no topology."""
    if topology:
        made = plan.compiled(run, topology)
        schema.require(made.how == "compiled", f"{run.model} does not fit {topology}")
    else:
        made = plan.arithmetic(run, config.chip, run.mesh.expert)
    return {
        "by": made.how,
        "parameters": made.memory.parameters,
        "temporary": made.memory.temporary,
        "traffic": made.traffic,
    }


def row(run: RunConfig, found: dict) -> dict:
    """What a size costs one device, for JSON and the table."""
    t = run.train
    experts = run.model.experts
    assert experts is not None  # their number is what the study is about
    traffic = found.pop("traffic")
    tokens = t.batch_size * t.seq_len / run.mesh.expert
    crossings = traffic.get(("all-to-all", "expert"), hlo.Traffic(0, 0.0))
    return {
        "devices": run.mesh.expert,
        "experts": experts.num_experts,
        **found,
        "all_to_alls_per_layer": crossings.times / run.model.moe_layers,
        "all_to_all_bytes_per_token": crossings.bytes / tokens,
        "other_bytes_per_token": sum(x.bytes for x in traffic.values()) / tokens
        - crossings.bytes / tokens,
        "collectives": sum(x.times for x in traffic.values()),
    }


def table(rows: list[dict]) -> str:
    """The rows in markdown."""
    columns = {
        "by": lambda r: r["by"],
        "devices": lambda r: str(r["devices"]),
        "experts": lambda r: str(r["experts"]),
        "all-to-alls a layer": lambda r: f"{r['all_to_alls_per_layer']:g}",
        "their bytes a token": lambda r: f"{r['all_to_all_bytes_per_token']:,.0f}",
        "other bytes a token": lambda r: f"{r['other_bytes_per_token']:,.0f}",
        "parameters, MiB a device": lambda r: f"{r['parameters'] / 2**20:,.2f}",
        "temporary, MiB a device": lambda r: f"{r['temporary'] / 2**20:,.1f}",
    }
    return markdown.table(columns, ([cell(r) for cell in columns.values()] for r in rows))


def study(config: ConfigDict, root: pathlib.Path) -> None:
    """Compiles every size, prints the table, writes it, the rows and the figure."""
    topologies = config.topologies or (None,) * len(config.axes)
    rows = []
    for e, topology in tqdm.tqdm(list(zip(config.axes, topologies, strict=True))):
        run = scaled(config, e)
        if not config.topologies:
            rows.append(row(run, simulated(run)))
        rows.append(row(run, planned(run, config, topology)))
    rows.sort(key=lambda r: (r["by"], r["devices"]))
    root.mkdir(parents=True, exist_ok=True)
    (root / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (root / "table.md").write_text(table(rows) + "\n")
    plots.save(plots.weak_scaling_figure(rows), root / "scaling.png")
    print(f"\n{table(rows)}\n\n{root}/rows.jsonl, table.md, scaling.png")


def main(config: ConfigDict, workdir: str) -> None:
    """The study, on as many simulated devices as its largest size needs."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(config.axes))
    study(config, pathlib.Path(workdir or f"runs/{config.name}"))


if __name__ == "__main__":
    CONFIG = command.config("configs/expert_parallel.py", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "Where results go; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
