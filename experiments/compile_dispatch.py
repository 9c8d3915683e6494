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
from ml_collections import ConfigDict

from experiments import bench_dispatch as bench
from experiments import bench_layers, command
from moe import ffn, hlo, plan, sealed, target
from moe.analysis import markdown
from moe.routing.assignment import TopKAssignment
from moe.training import files

IMPLEMENTATIONS = ("blocks", "ragged_dot")


def programs(
    cell: bench_layers.Cell, choice: TopKAssignment
) -> dict[str, tuple[bench_layers.Layer, ffn.Weights]]:
    """name -> layer, and the shapes of its weights."""
    dense = functools.partial(bench_layers.dense, cell.activation)
    wide = _weight_shapes(cell, cell.k * cell.d_ff)
    experts = _weight_shapes(cell, cell.d_ff, (cell.experts,))
    layers = bench_layers.layers(cell, choice, IMPLEMENTATIONS)
    found = {name: (layer, experts) for name, (layer, _) in layers.items()}
    return {"dense": (dense, wide), **found}


def _weight_shapes(cell, width, experts=()):
    """Those of `bench_layers.sample`."""
    return jax.eval_shape(functools.partial(bench_layers.sample, cell, width, experts))


def rows(cell: bench_layers.Cell, device: jax.Device) -> Iterator[dict]:
    """What is compiled for the device, one line a program."""
    place = jax.sharding.SingleDeviceSharding(device)

    def there(x: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """Its shape, as an array on the device has it."""
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    x_SD = jax.ShapeDtypeStruct((cell.tokens, cell.d_model), cell.dtype)
    choice = bench_layers.choices(cell)
    matrices = ffn.num_matrices(cell.activation) * cell.d_model * cell.k * cell.d_ff
    for name, (layer, weights) in programs(cell, choice).items():
        args = jax.tree.map(there, (x_SD, choice, weights, x_SD))
        with target.compiling_for(device.platform):
            traced = jax.jit(bench.one_pass(layer, "training")).trace(*args)
        began = time.perf_counter()
        compiled = traced.lower(lowering_platforms=(device.platform,)).compile()
        yield {
            **cell._asdict(),
            "program": name,
            "flops_over_ideal": compiled.cost_analysis()["flops"] / (6 * matrices * cell.tokens),
            "temporary_bytes": hlo.temporary_bytes(compiled),
            "compile_seconds": time.perf_counter() - began,
        }


def table(made: list[dict]) -> str:
    """All programs, in Markdown."""
    head = "E", "K", "D", "F", "tokens", "type", "program", "FLOPs over ideal", "temporary GiB"
    names = "experts", "k", "d_model", "d_ff", "tokens", "dtype", "program"
    lines = []
    for row in made:
        sizes = (str(row[name]) for name in names)
        memory = f"{row['temporary_bytes'] / 2**30:.2f}"
        lines.append((*sizes, f"{row['flops_over_ideal']:.2f}", memory))
    return markdown.table(head, lines)


def main(config: ConfigDict, topology: str, workdir: str) -> None:
    """Every cell; rows and table."""
    root = pathlib.Path(workdir or f"runs/{config.name}_{topology.replace(':', '_')}")
    root.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_platforms", "cpu")
    device = plan.tpu_devices(topology)[0]
    cells = tqdm.tqdm([bench_layers.Cell(**cell) for cell in config.cells], desc="cells")
    made = [row for cell in cells for row in rows(cell, device)]
    sealed.write(root / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in made))
    text = f"{table(made)}\n\n{topology}, compiled and not run, {files.machine()}\n"
    (root / "table.md").write_text(text)
    print(f"\n{text}\n{root}/rows.jsonl, table.md")


if __name__ == "__main__":
    CONFIG = command.config("configs/bench_dispatch.py:gpu", "The cells.")
    TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "A TPU topology; one device of it.")
    WORKDIR = flags.DEFINE_string("workdir", "", "Where results go.")
    command.run(lambda: main(CONFIG.value, TOPOLOGY.value, WORKDIR.value))
