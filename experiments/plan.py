"""Would this model fit on that pod, and what would a training run cost? No pod is needed.

    python -m experiments.plan --model=glam_64b_64e --topology=v5p:8x8x16 \
        --mesh=data=16,expert=64 --zero --batch_size=1024 --tokens=600e9
    python -m experiments.plan --model=mixtral_8x7b --topology=h200:64 --mesh=expert=8

With `pip install -r requirements-plan.txt` the TPU compiler compiles the whole step (minutes) and
the report is about that program; without it, for a chip that is no TPU, or with --arithmetic, it is
arithmetic on shapes and says so. `moe/presets.py` lists the models; `--out` adds the report to a
JSON-lines file.
"""

import json
import math
import pathlib

import jax
from absl import flags

from experiments import command
from moe import config as configs
from moe import plan, presets
from moe.analysis import planning
from moe.data import prepare
from moe.training.config import MeshConfig, RunConfig, TrainConfig
from moe.training.optimizer import OptimizerConfig

MODEL = flags.DEFINE_string("model", "glam_64b_64e", "A name in moe/presets.py.")
TOPOLOGY = flags.DEFINE_string("topology", "v5p:8x8x16", "Chip and shape, or h200:<number>.")
MESH = flags.DEFINE_string("mesh", "data=-1", "Sizes of axes, as in data=-1,expert=64,model=2.")
ZERO = flags.DEFINE_bool("zero", False, "Parameters and optimizer state also over data.")
TRANSPORT = flags.DEFINE_string("transport", "all_to_all", "See moe/dispatch/transport.py.")
BATCH = flags.DEFINE_integer("batch_size", 0, "Sequences a step; default one a device.")
LENGTH = flags.DEFINE_integer("seq_len", 0, "Tokens of a sequence; default the preset's.")
ACCUMULATE = flags.DEFINE_integer("accumulate", 1, "Micro-batches a step.")
OPTIMIZER = flags.DEFINE_string("optimizer", "adamw", "adamw or adafactor.")
TOKENS = flags.DEFINE_float("tokens", 0, "Of the training run; default the preset's, or 300e9.")
ARITHMETIC = flags.DEFINE_bool("arithmetic", False, "Do not compile.")
OUT = flags.DEFINE_string("out", "", "A JSON-lines file to add the report to.")


def main():
    """Plans, and prints the report."""
    jax.config.update("jax_platforms", "cpu")
    name, topology, preset = MODEL.value, TOPOLOGY.value, presets.preset(MODEL.value)
    run = make_run(preset, parse_mesh(MESH.value), ZERO.value)
    planned = make_plan(run, topology, compile_it=not ARITHMETIC.value)
    tokens = TOKENS.value or preset.tokens or 300e9
    rows = [planning.row(name, preset, run, planned, tokens)]
    if preset.twin:
        twin = presets.preset(preset.twin)
        dense = MeshConfig(model=run.mesh.model, zero=True)
        other = make_run(twin, dense, True)
        rows.append(
            planning.row(
                preset.twin, twin, other, make_plan(other, topology, False), twin.tokens or tokens
            )
        )
    print(planning.report(rows, topology))
    if OUT.value:
        with pathlib.Path(OUT.value).open("a") as file:
            file.writelines(json.dumps({"topology": topology, **row}) + "\n" for row in rows)


def parse_mesh(text: str) -> MeshConfig:
    """MeshConfig of "data=-1,expert=64"; an axis that is not named is 1, data the rest.

    Raises:
      ValueError: for anything else.
    """
    try:
        sizes = {axis: int(size) for axis, size in (part.split("=") for part in text.split(","))}
        configs.require(sizes.keys() <= {"data", "expert", "model"}, text)
    except ValueError as error:
        raise ValueError(f"--mesh={text!r}: expected data=-1,expert=64,model=2 or so") from error
    return MeshConfig(**sizes, transport=TRANSPORT.value)


def make_run(preset: presets.Preset, mesh: MeshConfig, zero: bool) -> RunConfig:
    """The run of a preset that the flags describe."""
    length, batch = LENGTH.value or preset.length, BATCH.value or device_count(TOPOLOGY.value)
    return RunConfig(
        model=preset.model,
        train=TrainConfig(
            steps=10_000, batch_size=batch, seq_len=length, accumulate=ACCUMULATE.value
        ),
        data=prepare.DataConfig(vocab_size=preset.model.vocab_size),
        optimizer=OptimizerConfig(name=OPTIMIZER.value),
        mesh=mesh,
    ).replace(mesh={"zero": zero})


def make_plan(run: RunConfig, topology: str, compile_it: bool) -> plan.Plan:
    """By the compiler if there is one for the chip, else by arithmetic."""
    chip = topology.split(":")[0]
    if compile_it and chip.startswith("v") and plan.has_compiler():
        return plan.compiled(run, topology)
    return plan.arithmetic(run, chip, device_count(topology))


def device_count(topology: str) -> int:
    """Devices of "v5p:8x8x16".

    Raises:
      ValueError: if it is not of this form.
    """
    try:
        return math.prod(int(size) for size in topology.split(":")[1].split("x"))
    except (IndexError, ValueError) as error:
        raise ValueError(f"--topology={topology!r}: expected v5p:8x8x16 or h200:64") from error


if __name__ == "__main__":
    command.run(main)
