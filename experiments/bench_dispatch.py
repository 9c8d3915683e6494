"""What does it cost to reach the experts? Dispatchers beside dense feed-forwards of equal FLOPs.

    python -m experiments.bench_dispatch --config=configs/bench_dispatch.py --baselines

A cell is a size of layer, a number of tokens and their choices. Its programs run one after the
other, again and again, and medians are compared:

- `dense`: the feed-forward of equal active FLOPs, K * F wide;
- `floor`: an estimate of what a dispatcher cannot avoid: the dense feed-forward as wide as its
  executed FLOPs, and the time to stream the experts' weights (read once forward; in training read
  twice more and their gradients written once) at the bandwidth of a copy measured beside it. Where
  products and streaming overlap a program may be faster;
- `gather`, `grouped`, `einsum` with groups of so many tokens: seats, dispatch, experts, combine;
- `grouped_ragged_dot`, `grouped_tokamax`: `grouped` by other kernels than its own blocks, where the
  devices have them (for tokamax in bfloat16);
- with --baselines, Hugging Face's Mixtral and Switch blocks in PyTorch, if they are installed.

Routers' own arithmetic is not in it: choices are given. Forward, and forward with all gradients.
"""

import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import baselines, command, timing
from moe import counting, ffn, hlo
from moe.analysis import dispatching
from moe.dispatch import blocks, einsum, gather, grouped
from moe.routing import assignment
from moe.training import files

COPIED = 2**26  # numbers of the copy that measures bandwidth: 256 MiB
PASSES = {"forward": 1, "training": 4}  # and how often each weight is streamed


class Cell(NamedTuple):
    """One size of layer, and its tokens."""

    tokens: int
    d_model: int
    d_ff: int
    dtype: str
    experts: int
    k: int
    factor: float  # of the capacity of dispatchers with slots
    loads: str  # see `choices`
    activation: str
    einsum_groups: tuple[int, ...]


# (x_SD, choice, weights) -> y_SD
Layer = Callable[[jax.Array, assignment.TopKAssignment, ffn.Weights], jax.Array]


class Program(NamedTuple):
    """A call that is ready to run, and what is known of it before it runs."""

    call: Callable[[], Any]
    facts: dict
    compiled: jax.stages.Compiled | None = None  # what it calls; None if that is not JAX's


def choices(cell: Cell, seed: int = 0) -> assignment.TopKAssignment:
    """Who goes where, [1, S, K]: evenly ("uniform"), or drawn with unequal chances.

    "learned" has the spread of loads of trained routers (largest load about twice the mean, as in
    `experiments/RESULTS.md`), "skewed" is Zipf's law.
    """
    rng = np.random.default_rng(seed)
    S = cell.tokens
    K = cell.k
    E = cell.experts
    if cell.loads == "uniform":
        expert_SK = (np.arange(S * K).reshape(S, K) % E)[rng.permutation(S)]
    else:
        log_p_E = {
            "learned": rng.normal(0, 0.3, E),
            "skewed": -np.log(1 + np.arange(E)),
        }[cell.loads]
        expert_SK = np.argsort(-(log_p_E + rng.gumbel(size=(S, E))), axis=-1)[:, :K]
    gate_SK = rng.random((S, K)) + 0.5
    gate_SK /= gate_SK.sum(-1, keepdims=True)
    return assignment.TopKAssignment(
        jnp.asarray(expert_SK[None], jnp.int32), jnp.asarray(gate_SK[None], jnp.float32)
    )


def by_slots(
    dispatcher: ModuleType,
    slots: int,
    group: int,
    activation: str,
    x_SD: jax.Array,
    choice: assignment.TopKAssignment,
    weights: ffn.Weights,
) -> jax.Array:
    """y_SD by a dispatcher with so many slots an expert, in groups of so many tokens."""
    S, D = x_SD.shape
    x_GSD = x_SD.reshape(-1, group, D)
    choice = jax.tree.map(lambda x: x.reshape(-1, group, x.shape[-1]), choice)
    seats = assignment.assign_slots(choice, len(weights.w_in), slots)
    x_EGCD = dispatcher.dispatch(x_GSD, seats).swapaxes(0, 1)
    with jax.named_scope("experts"):
        y_EGCD = ffn.apply(x_EGCD, weights, activation, "EGC", "E")
    return dispatcher.combine(y_EGCD.swapaxes(0, 1), seats, group).reshape(S, D)


def dropless(
    kernel: str,
    activation: str,
    x_SD: jax.Array,
    choice: assignment.TopKAssignment,
    weights: ffn.Weights,
) -> jax.Array:
    """y_SD by the grouped dispatcher."""
    return grouped.IMPLEMENTATIONS[kernel].apply(x_SD, choice, weights, activation)[0]


def dense(
    activation: str, x_SD: jax.Array, _: assignment.TopKAssignment, weights: ffn.Weights
) -> jax.Array:
    """y_SD of a feed-forward that every token meets."""
    return ffn.apply(x_SD, weights, activation, "S")


def computed(kernel: str, cell: Cell, choice: assignment.TopKAssignment) -> int:
    """Rows that a kernel's experts compute: the pairs, or slots and blocks, whatever the width."""
    if kernel != "blocks":
        return cell.tokens * cell.k
    thin = jnp.zeros((cell.experts, 1, 1))
    x_SD = jnp.zeros((cell.tokens, 1))
    return int(blocks.apply(x_SD, choice, ffn.Weights(thin, thin), "relu")[1])


def usable(cell: Cell) -> list[str]:
    """The kernels of `grouped` that are here and multiply the cell's type."""
    here = filter(grouped.installed, grouped.fit())
    return [name for name in here if name != "tokamax" or cell.dtype == "bfloat16"]


def layers(
    cell: Cell, choice: assignment.TopKAssignment, kernels: Iterable[str]
) -> dict[str, tuple[Layer, float]]:
    """name -> the layer, and the rows that its experts compute for each choice of a token."""
    S = cell.tokens
    E = cell.experts
    found: dict[str, Layer] = {"gather": _in_slots(cell, gather, S)}
    rows = {"gather": E * _slots(cell, S)}
    for kernel in kernels:
        name = "grouped" if kernel == "blocks" else f"grouped_{kernel}"
        found[name] = functools.partial(dropless, kernel, cell.activation)
        rows[name] = computed(kernel, cell, choice)
    for group in cell.einsum_groups:
        found[f"einsum_{group}"] = _in_slots(cell, einsum, group)
        rows[f"einsum_{group}"] = E * _slots(cell, group) * (S // group)
    return {name: (layer, rows[name] / (S * cell.k)) for name, layer in found.items()}


def _slots(cell, group):
    """Slots of an expert in a group of so many tokens."""
    return assignment.capacity(cell.factor, group, cell.k, cell.experts)


def _in_slots(cell, dispatcher, group):
    """The layer of a dispatcher with slots, in groups of so many tokens."""
    return functools.partial(by_slots, dispatcher, _slots(cell, group), group, cell.activation)


def sample(cell: Cell, width: int, experts: tuple = ()) -> ffn.Weights:
    """Random weights of one feed-forward or of E."""
    key = jax.random.key(width)
    D = cell.d_model
    gated = ffn.ACTIVATIONS[cell.activation][1]

    @jax.jit
    def make() -> ffn.Weights:
        def matrix(*shape: int) -> jax.Array:
            return 0.02 * jax.random.normal(key, (*experts, *shape), cell.dtype)

        return ffn.Weights(matrix(D, width), matrix(width, D), matrix(D, width) if gated else None)

    return make()


def one_pass(layer: Layer, way: str) -> Callable:
    """A layer's forward pass, or it and all its gradients, of (x_SD, choice, weights, dy_SD)."""

    def training(
        x_SD: jax.Array,
        choice: assignment.TopKAssignment,
        weights: ffn.Weights,
        dy_SD: jax.Array,
    ) -> tuple[jax.Array, tuple]:
        def apply(x_SD: jax.Array, gate_GSK: jax.Array, weights: ffn.Weights) -> jax.Array:
            return layer(x_SD, choice._replace(gate_GSK=gate_GSK), weights)

        y_SD, transpose = jax.vjp(apply, x_SD, choice.gate_GSK, weights)
        return y_SD, transpose(dy_SD)

    def forward(
        x_SD: jax.Array, choice: assignment.TopKAssignment, weights: ffn.Weights, _: jax.Array
    ) -> jax.Array:
        return layer(x_SD, choice, weights)

    return {"forward": forward, "training": training}[way]


def program(
    layer: Callable,
    way: str,
    x_SD: jax.Array,
    choice: assignment.TopKAssignment,
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
        "temporary_bytes": temporary_bytes(compiled),
    }
    if counted:
        facts["executed_flops"] = counting.count(fn, *args).total
    if jax.default_backend() == "cpu":  # elsewhere products are calls of kernels
        facts["compiled_flops"] = hlo.products(hlo.text_of(compiled))
    return Program(functools.partial(compiled, *args), facts, compiled)


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
    """The temporary arrays of a program, as its compiler planned them."""
    used = compiled.memory_analysis()
    assert used is not None  # only a compiler that is not XLA says nothing
    return used.temp_size_in_bytes


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
    made = []
    for name, one in found.items():
        if name.startswith("floor of ") or name == "copy":
            continue
        line = {
            **cell._asdict(),
            "way": way,
            "program": name,
            "seconds": seconds[name],
            "ratio_to_dense": seconds[name] / seconds["dense"],
            **one.facts,
        }
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
            files.write(root / "rows.jsonl", "".join(json.dumps(r) + "\n" for r in made))
    text = f"{dispatching.table(made)}\n\n{dispatching.targets(made)}\n\n{files.machine()}\n"
    (root / "table.md").write_text(text)
    plots.save(plots.dispatch_figure(made), root / "dispatch.png")
    print(f"\n{text}\n{root}/rows.jsonl, table.md, dispatch.png")


if __name__ == "__main__":
    CONFIG = command.config("configs/bench_dispatch.py", "The cells.")
    WORKDIR = flags.DEFINE_string("workdir", "", "Where results go; default runs/<config.name>.")
    PEERS = flags.DEFINE_bool("baselines", False, "Also Hugging Face's blocks, if installed.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value, PEERS.value))
