"""One training run.

    python -m experiments.train --config=configs/train.py --workdir=runs/first
    python -m experiments.train --config=configs/train.py --workdir=runs/second \
        --config.model.experts.num_experts=64 --config.train.steps=2000

Interrupted, the same command goes on from the last checkpoint. By Ctrl-C or SIGTERM it saves first,
and ends with exit code 75.
"""

import json
import pathlib

from absl import flags

from experiments import command
from moe import flops, schema
from moe.adapt import finetune
from moe.dispatch import grouped
from moe.errors import UserError
from moe.models import lora
from moe.training import loop, processes, signals
from moe.training.config import RunConfig

CONFIG = command.config("configs/train.py", "The run.")
WORKDIR = flags.DEFINE_string("workdir", "runs/train", "Where metrics, checkpoints, result go.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One process per host; JAX finds the others (TPU pod, Slurm, Open MPI)."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, if not found.")
PROCESSES = flags.DEFINE_integer("num_processes", None, "How many, if JAX cannot find out.")
PROCESS = flags.DEFINE_integer("process_id", None, "This one's number, if JAX cannot find out.")


def main() -> None:
    """Trains, then prints the result."""
    join()
    run = schema.from_config_dict(RunConfig, CONFIG.value)
    counts = flops.parameters(run.model)
    t = run.train
    print(f"parameters: {counts.total:,} total, {counts.active:,} active")
    if run.lora.rank:
        moving = lora.trained(run.model, run.lora)
        print(
            f"trained: {moving:,} numbers of low-rank changes, {moving / counts.total:.1%} of all"
        )
    elif run.optimizer.frozen:
        moving, total = finetune.trained(run.model, run.optimizer.frozen)
        print(f"trained: {moving:,} parameters, {moving / total:.1%} of all")
    ideal = flops.per_token(run.model, t.batch_size, t.seq_len, "ideal")
    all_trained = ", if every parameter were trained" if run.frozen else ""
    print(f"ideal FLOPs/token of a training step{all_trained}: {ideal:,.0f}")
    executed = flops.of_run(run).total / (t.batch_size * t.seq_len)
    print(f"executed FLOPs/token of a training step: {executed:,.0f}")
    experts = run.model.experts
    if experts and experts.dropless:
        own = run.model.dtype, run.model.d_model, experts.d_ff
        print(f"experts are multiplied by {grouped.choose(run.mesh.implementation, *own)!r}")
        print("(and those of blocks beyond the slots: realised_capacity tells all computed rows)")
    workdir = pathlib.Path(WORKDIR.value)
    done = (workdir / "result.json").exists()
    print(f"workdir: {workdir}")
    with signals.asked() as stop:
        result = loop.train(run, workdir, stop=stop)
    if done:
        print(f"{workdir} had been trained to its end; this is what came out:")
    shown = {k: v for k, v in result.items() if not k.startswith("test_documents")}
    shown["test"] = {k: v for k, v in result["test"].items() if k != "load_LE"}
    print(json.dumps(shown, indent=2))
    print(f"metrics, checkpoints and result are in {workdir}")


def join() -> None:
    """Joins the other processes, if the flags say that there are any."""
    place = COORDINATOR.value, PROCESSES.value, PROCESS.value
    if DISTRIBUTED.value:
        processes.join(*place)
    elif any(value is not None for value in place):
        raise UserError("--coordinator, --num_processes, --process_id need --distributed")


if __name__ == "__main__":
    command.run(main)
