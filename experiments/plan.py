"""Would this model fit on that pod, and what would a training run cost? No pod is needed.

    python -m experiments.plan --model=glam_64b_64e --topology=v5p:8x8x16 \
        --mesh=data=16,expert=64 --zero --batch_size=1024 --tokens=600e9
    python -m experiments.plan --model=mixtral_8x7b --topology=h200:64 --mesh=expert=8
    python -m experiments.plan --model=olmoe_1b_7b --topology=h100:8 --search

With `pip install -r requirements-plan.txt` the TPU compiler compiles the whole step (minutes) and
the report is about that program; without it, for a chip that is no TPU, or with --arithmetic, it is
arithmetic on shapes and says so. `moe/presets` lists the models; `--out` adds the report to a
JSON-lines file. `--search` tries all meshes, with and without ZeRO, ways to recompute and batch
sizes by arithmetic, compiles the best and prints the table. A lower --capacity_factor drops more
tokens, so it is another model: what it saves stands in a table of its own.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator

import jax
from absl import flags

from experiments import command, plan_search
from moe import plan, presets, schema, sharding
from moe.analysis import planning
from moe.errors import UserError
from moe.training.config import MeshConfig, RunConfig, TrainConfig
from moe.training.optimizer import OptimizerConfig

SHOWN = 12  # rows of --search
IDLE = {  # flags that do nothing with --search, and why
    "mesh": "tries every mesh",
    "zero": "tries both with and without it",
    "remat_policy": "tries them all",
    "tokens": "reports no days of training",
    "out": "prints a table and keeps no report",
}


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this experiment."""
    text = flags.DEFINE_string
    number = flags.DEFINE_integer
    text("model", "glam_64b_64e", "A name in moe/presets.", flag_values=values)
    text("topology", "v5p:8x8x16", "Chip and shape, or h200:<number>.", flag_values=values)
    text("mesh", "data=-1", "Sizes of axes, as in data=-1,expert=64,model=2.", flag_values=values)
    flags.DEFINE_bool(
        "zero", False, "Parameters and optimizer state also over data.", flag_values=values
    )
    text("transport", "all_to_all", "See moe/dispatch/transport.py.", flag_values=values)
    text(
        "remat_policy",
        "full",
        "Of blocks, see moe/execution.py; none: not recomputed.",
        flag_values=values,
    )
    flags.DEFINE_bool("search", False, "Try all meshes and print the best.", flag_values=values)
    number("compile", 2, "So many of the best are compiled by --search.", flag_values=values)
    flags.DEFINE_float(
        "capacity_factor", 0, "Of the experts in training; 0 is the preset's.", flag_values=values
    )
    number("batch_size", 0, "Sequences a step; 0 is one a device.", flag_values=values)
    number("seq_len", 0, "Tokens of a sequence; 0 is the preset's.", flag_values=values)
    number("accumulate", 1, "Micro-batches a step.", flag_values=values)
    text("optimizer", "adamw", "adamw or adafactor.", flag_values=values)
    flags.DEFINE_float(
        "tokens", 0, "Of the training; 0 is the preset's, or 300e9.", flag_values=values
    )
    flags.DEFINE_bool("arithmetic", False, "Do not compile.", flag_values=values)
    text("out", "", "A JSON-lines file to add the report to.", flag_values=values)


def main(ask: flags.FlagValues) -> None:
    """Plans, and prints the report."""
    refuse_idle(ask)
    jax.config.update("jax_platforms", "cpu")
    preset = presets.preset(ask.model)
    mesh = dataclasses.replace(parse_mesh(ask.mesh), zero=ask.zero, transport=ask.transport)
    run = plan_search.recomputed(make_run(ask, preset, mesh), ask.remat_policy)
    if ask.capacity_factor:
        run = plan_search.with_slots(run, ask.capacity_factor)
    if ask.search:
        print(planning.choices(*searched(ask, run), preset, ask.topology))
        return
    tokens = ask.tokens or preset.tokens or 300e9
    twins = list(twin_rows(ask, preset, run, tokens))  # before the compiler takes its minutes
    planned = make_plan(run, ask.topology, compile_it=not ask.arithmetic)
    rows = [planning.row(ask.model, preset, run, planned, tokens), *twins]
    print(planning.report(rows, ask.topology))
    if ask.out:
        with pathlib.Path(ask.out).open("a") as file:
            file.writelines(json.dumps({"topology": ask.topology, **row}) + "\n" for row in rows)


def refuse_idle(ask: flags.FlagValues) -> None:
    """Refuses flags that would do nothing.

    Raises:
      UserError: with the reason.
    """
    for name, why in IDLE.items() if ask.search else ():
        message = f"--{name} does nothing with --search, which {why}: leave it out"
        schema.require(not ask[name].present, message)
    searches = ask.search or not ask["compile"].present
    schema.require(searches, "--compile does nothing without --search: leave it out")


def searched(
    ask: flags.FlagValues, run: RunConfig
) -> tuple[list[plan_search.Tried], list[plan_search.Tried]]:
    """The best of `plan_search.search`, and the first with fewer slots.

    The first of the best are by the compiler if there is one. If --capacity_factor says how many
    slots, no fewer are tried.
    """
    sides = sides_of(ask.topology)
    at = ask.topology.split(":")[0], math.prod(sides)
    best = plan_search.search(plan_search.runs(run, sides, ask.batch_size), *at)[:SHOWN]
    schema.require(bool(best), f"{ask.model} fits {ask.topology} on no mesh: use more devices")
    fewer = [] if ask.capacity_factor else plan_search.with_fewer_slots(best[0].run, *at)
    made = [
        plan_search.Tried(run, make_plan(run, ask.topology, compile_it=not ask.arithmetic))
        for run, _ in best[: ask.compile]
    ]
    return made + best[ask.compile :], fewer


def twin_rows(
    ask: flags.FlagValues, preset: presets.Preset, run: RunConfig, tokens: float
) -> Iterator[dict]:
    """The row of the dense model that the paper compares with, by arithmetic, under ZeRO.

    Nothing if there is none, or if the pod does not divide it, which is then said.
    """
    if not preset.twin:
        return
    m = run.mesh
    own = sharding.abstract_mesh(device_count(ask.topology), m.data, m.expert, m.model)
    try:
        twin = presets.preset(preset.twin)
        dense = make_run(ask, twin, MeshConfig(model=own.shape["model"], zero=True))
        planned = make_plan(dense, ask.topology, compile_it=False)
        yield planning.row(preset.twin, twin, dense, planned, twin.tokens or tokens)
    except ValueError as error:
        print(f"{preset.twin} is left out: {error}")


def parse_mesh(text: str) -> MeshConfig:
    """MeshConfig of "data=-1,expert=64"; an axis that is not named is 1, data the rest.

    Raises:
      UserError: for anything else.
    """
    try:
        given = {axis: int(size) for axis, size in (part.split("=") for part in text.split(","))}
        schema.require(given.keys() <= set(sharding.AXES), text)
    except ValueError as error:
        raise UserError(f"--mesh={text!r}: expected data=-1,expert=64,model=2 or so") from error
    sizes = {"data": -1, "expert": 1, "model": 1} | given
    return MeshConfig(data=sizes["data"], expert=sizes["expert"], model=sizes["model"])


def make_run(ask: flags.FlagValues, preset: presets.Preset, mesh: MeshConfig) -> RunConfig:
    """The run of a preset that the flags describe."""
    train = TrainConfig(
        steps=10_000,
        batch_size=ask.batch_size or device_count(ask.topology),
        seq_len=ask.seq_len or preset.length,
        accumulate=ask.accumulate,
    )
    return plan.run_of(preset, train, OptimizerConfig(name=ask.optimizer), mesh)


def make_plan(run: RunConfig, topology: str, compile_it: bool) -> plan.Plan:
    """By the compiler if there is one for the chip, else by arithmetic."""
    chip = topology.split(":")[0]
    if compile_it and chip.startswith("v") and plan.has_compiler():
        return plan.compiled(run, topology)
    return plan.arithmetic(run, chip, device_count(topology))


def device_count(topology: str) -> int:
    """Devices of "v5p:8x8x16"."""
    return math.prod(sides_of(topology))


def sides_of(topology: str) -> list[int]:
    """[8, 8, 16] of "v5p:8x8x16".

    Raises:
      UserError: if it is not of this form.
    """
    try:
        return [int(size) for size in topology.split(":")[1].split("x")]
    except (IndexError, ValueError) as error:
        raise UserError(f"--topology={topology!r}: expected v5p:8x8x16 or h200:64") from error


if __name__ == "__main__":
    define(flags.FLAGS)
    command.run(lambda: main(flags.FLAGS))
