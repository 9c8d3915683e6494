"""What does it cost to reach the experts? Dispatchers beside dense feed-forwards of equal FLOPs.

    python -m experiments.bench_dispatch --config=configs/bench_dispatch.py --baselines

A cell is a size of layer, a number of tokens and their choices. Its programs run one after the
other, again and again, and medians are compared:

- `dense`: the feed-forward of equal active FLOPs, K * F wide;
- `products`: a program's executed FLOPs at the speed of a plain large product, measured beside it:
  the unit that no program of ours can make look good;
- `floor`: an estimate of what a dispatcher cannot avoid: the dense feed-forward as wide as its
  executed FLOPs, and the time to stream the experts' weights (read once forward; in training read
  twice more and their gradients written once) at the bandwidth of a copy measured beside it. Where
  products and streaming overlap a program may be faster;
- `gather`, `grouped`, `einsum` with groups of so many tokens: seats, dispatch, experts, combine;
- `grouped_wide_blocks`, `grouped_ragged_dot`, `grouped_hopper`: `grouped` by other kernels than
  its own blocks, where the devices have them (Hopper's in bfloat16);
- with --baselines, Hugging Face's Mixtral and Switch blocks in PyTorch, if they are installed.

Routers' own arithmetic is not in it: choices are given. Forward, and forward with all gradients.
"""

import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import baselines, command, timing
from experiments.bench_layers import Cell, Layer, choices, dense, layers, sample, usable
from moe import counting, ffn, hlo, sealed
from moe.analysis import dispatching
from moe.routing.assignment import TopKAssignment
from moe.training import files

COPIED = 2**26  # numbers of the copy that measures bandwidth: 256 MiB
PASSES = {"forward": 1, "training": 4}  # name -> how often it streams each weight


class Program(NamedTuple):
    """A call that is ready to run, and what is known of it before it runs."""

    call: Callable[[], Any]
    facts: dict
    compiled: jax.stages.Compiled | None = None  # what it calls; None if that is not JAX's


def one_pass(layer: Layer, way: str) -> Callable:
    """A layer's forward pass, or it and all its gradients, of (x_SD, choice, weights, dy_SD)."""

    def training(
        x_SD: jax.Array,
        choice: TopKAssignment,
        weights: ffn.Weights,
        dy_SD: jax.Array,
    ) -> tuple[jax.Array, tuple]:
        def apply(x_SD: jax.Array, gate_GSK: jax.Array, weights: ffn.Weights) -> jax.Array:
            return layer(x_SD, choice._replace(gate_GSK=gate_GSK), weights)

        y_SD, transpose = jax.vjp(apply, x_SD, choice.gate_GSK, weights)
        return y_SD, transpose(dy_SD)

    def forward(
        x_SD: jax.Array, choice: TopKAssignment, weights: ffn.Weights, _: jax.Array
    ) -> jax.Array:
        return layer(x_SD, choice, weights)

    return {"forward": forward, "training": training}[way]


def program(
    layer: Callable,
    way: str,
    x_SD: jax.Array,
    choice: TopKAssignment,
    weights: ffn.Weights | None,
    counted: bool = True,
) -> Program:
    """Compiles one pass.

    Args:
      layer: a `Layer`, or a function of the same arguments that does not look at the weights.
      way: of `PASSES`.
      x_SD, choice, weights: what it is called with; nothing reads weights that are None.
      counted: count its FLOPs, too.
    """
    fn = one_pass(layer, way)
    args = x_SD, choice, weights, jnp.ones_like(x_SD)
    began = time.perf_counter()
    compiled = jax.jit(fn).lower(*args).compile()
    facts = {
        "compile_seconds": time.perf_counter() - began,
        "temporary_bytes": hlo.temporary_bytes(compiled),
    }
    if counted:
        facts["executed_flops"] = counting.count(fn, *args).total
    if jax.default_backend() == "cpu":  # elsewhere products are calls of kernels
        facts["compiled_flops"] = hlo.products(hlo.text_of(compiled))
    return Program(functools.partial(compiled, *args), facts, compiled)


def programs(cell: Cell, way: str, with_peers: bool) -> dict[str, Program]:
    """All programs of a cell."""
    choice = choices(cell)
    x_SD = jax.random.normal(jax.random.key(0), (cell.tokens, cell.d_model), cell.dtype)
    weights = sample(cell, cell.d_ff, (cell.experts,))
    found = {}
    wide = cell.k * cell.d_ff
    plain = functools.partial(dense, cell.activation)
    found["dense"] = program(plain, way, x_SD, choice, sample(cell, wide))
    for name, (layer, rows) in layers(cell, choice, usable(cell)).items():
        output = name.startswith("grouped")  # no jaxpr knows how many blocks, or what a kernel does
        found[name] = program(layer, way, x_SD, choice, weights, counted=not output)
        own = sample(cell, round(wide * rows))
        found[f"floor of {name}"] = program(plain, way, x_SD, choice, own)
        found[name].facts["realised_capacity"] = rows
        if output:
            found[name].facts["executed_flops"] = found["dense"].facts["executed_flops"] * rows
    copied = jnp.zeros(COPIED, jnp.float32)
    found["copy"] = program(lambda x, *_: x + 1, "forward", copied, choice, None)
    product, product_flops = timing.large_product(cell.dtype)
    found["product"] = Program(product, {"executed_flops": product_flops})
    if with_peers:
        for name, call in baselines.calls(cell, choice, way == "training").items():
            found[name] = Program(call, {})
    return found


def rows(cell: Cell, way: str, found: dict[str, Program], rounds: int) -> list[dict]:
    """Runs the programs of a cell side by side; one line of rows.jsonl for each."""
    what = f"E={cell.experts} K={cell.k} {cell.activation} {cell.loads} {cell.dtype} {way}"
    taken = timing.interleaved({name: p.call for name, p in found.items()}, rounds, what)
    seconds = {name: float(np.median(times)) for name, times in taken.items()}
    matrices = ffn.num_matrices(cell.activation) * cell.d_model * cell.d_ff * cell.experts
    streamed = PASSES[way] * matrices * jnp.dtype(cell.dtype).itemsize
    bandwidth = 2 * 4 * COPIED / seconds["copy"]
    speed = found["product"].facts["executed_flops"] / seconds["product"]
    made = []
    for name, one in found.items():
        if name.startswith("floor of ") or name in ("copy", "product"):
            continue
        line = {
            **cell._asdict(),
            "way": way,
            "program": name,
            "seconds": seconds[name],
            "ratio_to_dense": seconds[name] / seconds["dense"],
            **one.facts,
        }
        if "executed_flops" in one.facts:
            line["large_product_flops_per_second"] = speed
            line["ratio_to_products"] = seconds[name] * speed / one.facts["executed_flops"]
        if "realised_capacity" in one.facts:
            floor = seconds[f"floor of {name}"] + streamed / bandwidth
            line |= {
                "ratio_over_capacity": line["ratio_to_dense"] / one.facts["realised_capacity"],
                "floor_seconds": floor,
                "ratio_to_floor": seconds[name] / floor,
                "bandwidth": bandwidth,
            }
        made.append(line)
    return made


def main(config: ConfigDict, workdir: str, with_peers: bool) -> None:
    """Every cell, both ways; rows, table and figure."""
    import tqdm  # neither is needed to use this file's layers elsewhere

    from moe.analysis import plots

    root = pathlib.Path(workdir or f"runs/{config.name}")
    root.mkdir(parents=True, exist_ok=True)
    if with_peers:
        baselines.require()
    made = []
    for cell in tqdm.tqdm([Cell(**cell) for cell in config.cells], desc="cells"):
        for way in PASSES:
            made += rows(cell, way, programs(cell, way, with_peers), config.rounds)
            sealed.write(root / "rows.jsonl", "".join(json.dumps(r) + "\n" for r in made))
    text = f"{dispatching.table(made)}\n\n{dispatching.targets(made)}\n\n{files.machine()}\n"
    (root / "table.md").write_text(text)
    plots.save(plots.dispatch_figure(made), root / "dispatch.png")
    print(f"\n{text}\n{root}/rows.jsonl, table.md, dispatch.png")


if __name__ == "__main__":
    CONFIG = command.config("configs/bench_dispatch.py", "The cells.")
    WORKDIR = flags.DEFINE_string("workdir", "", "Where results go; default runs/<config.name>.")
    PEERS = flags.DEFINE_bool("baselines", False, "Also Hugging Face's blocks, if installed.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value, PEERS.value))
