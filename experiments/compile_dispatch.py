"""What does the compiler make of each dispatcher, for a TPU that is not here? FLOPs and memory.

    python -m experiments.compile_dispatch --config=configs/bench_dispatch.py:gpu --topology=v5e:2x2

Cells and programs are those of `experiments.bench_dispatch`, in training, on one device, with every
kernel of `grouped` for TPUs, one that is refused in this JAX, too. None of them runs. FLOPs are the
compiler's own count, in which the body of a loop is counted once. Needs requirements-plan.txt.
"""

import functools
import json
import pathlib
import time
from collections.abc import Iterator

import jax
import tqdm
from absl import flags

from experiments import bench_dispatch as bench
from experiments import command
from moe import ffn, plan
from moe.analysis import markdown
from moe.training import files

IMPLEMENTATIONS = ("blocks", "ragged_dot")


def programs(cell: bench.Cell, choice) -> dict:
    """name -> layer, and the shapes of its weights."""
    draw = lambda *of: jax.eval_shape(functools.partial(bench.sample, cell, *of))  # noqa: E731
    dense = functools.partial(bench.dense, cell.activation)
    experts = draw(cell.d_ff, (cell.experts,))
    layers = bench.layers(cell, choice, IMPLEMENTATIONS)
    found = {name: (layer, experts) for name, (layer, _) in layers.items()}
    return {"dense": (dense, draw(cell.k * cell.d_ff)), **found}


def rows(cell: bench.Cell, device) -> Iterator[dict]:
    """What is compiled for the device, one line a program."""
    place = jax.sharding.SingleDeviceSharding(device)
    there = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)  # noqa: E731
    x_SD = jax.ShapeDtypeStruct((cell.tokens, cell.d_model), cell.dtype)
    choice = bench.choices(cell)
    matrices = ffn.num_matrices(cell.activation) * cell.d_model * cell.k * cell.d_ff
    for name, (layer, weights) in programs(cell, choice).items():
        args = jax.tree.map(there, (x_SD, choice, weights, x_SD))
        traced = jax.jit(bench.one_pass(layer, "training")).trace(*args)
        began = time.perf_counter()
        compiled = traced.lower(lowering_platforms=(device.platform,)).compile()
        yield {
            **cell._asdict(),
            "program": name,
            "flops_over_ideal": compiled.cost_analysis()["flops"] / (6 * matrices * cell.tokens),
            "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
            "compile_seconds": time.perf_counter() - began,
        }


def table(made: list[dict]) -> str:
    """All programs, in Markdown."""
    head = "E", "K", "D", "F", "tokens", "type", "program", "FLOPs over ideal", "temporary GiB"
    names = "experts", "k", "d_model", "d_ff", "tokens", "dtype", "program"
    return markdown.table(head, (
        (*(str(row[name]) for name in names), f"{row['flops_over_ideal']:.2f}",
         f"{row['temporary_bytes'] / 2**30:.2f}")
        for row in made
    ))  # fmt: skip


def main(config, topology: str, workdir: str) -> None:
    """Every cell; rows and table."""
    root = pathlib.Path(workdir or f"runs/{config.name}_{topology.replace(':', '_')}")
    root.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_platforms", "cpu")
    device = plan.tpu_devices(topology)[0]
    cells = tqdm.tqdm([bench.Cell(**cell) for cell in config.cells], desc="cells")
    made = [row for cell in cells for row in rows(cell, device)]
    files.write(root / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in made))
    text = f"{table(made)}\n\n{topology}, compiled and not run, {files.machine()}\n"
    (root / "table.md").write_text(text)
    print(f"\n{text}\n{root}/rows.jsonl, table.md")


if __name__ == "__main__":
    CONFIG = command.config("configs/bench_dispatch.py:gpu", "The cells.")
    TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "A TPU topology; one device of it.")
    WORKDIR = flags.DEFINE_string("workdir", "", "Where results go.")
    command.run(lambda: main(CONFIG.value, TOPOLOGY.value, WORKDIR.value))
