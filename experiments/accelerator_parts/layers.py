"""Part 2: one MoE layer, forward and with all gradients, beside the dense feed-forward.

Programs are those of `experiments.bench_dispatch`. FLOPs are ideal, those of K experts a token:
what a dispatcher pads or drops does not count. Dense runs beside every implementation, in turn.
"""

import functools
from concurrent import futures

import jax
import numpy as np

from experiments import bench_dispatch, bench_layers, timing
from experiments.accelerator_parts.cells import Cell, Settings, require
from moe import ffn, hlo
from moe.dispatch import grouped
from moe.routing.assignment import TopKAssignment

SHAPES = {  # name -> T, D, F, E, K
    "mixtral_8x7b": (16_384, 4096, 14_336, 8, 2),
    "olmoe": (16_384, 2048, 1024, 64, 8),
    "wide": (16_384, 2560, 1280, 64, 4),
}
TINY = {"tiny": (256, 16, 32, 4, 2)}
GROUP = 256  # tokens of a group of `einsum`
TINY_GROUP = 64
# The last two multiply tokens with all slots or, on some devices, with all experts.
NAMES = (
    "gather",
    "grouped_hopper",
    "grouped_wide_blocks",
    "grouped",
    "grouped_ragged_dot",
    "einsum",
)
TIMES = {"forward": 1, "training": 3}  # way -> its FLOPs over those of the forward pass
ROUNDS = 20
LIMIT = 2.0  # seconds of them
GUESS = 25.0  # seconds of a cell, most of it compilation


def cells(settings: Settings) -> list[Cell]:
    """A cell for each implementation and shape."""
    sizes = {
        name: layer(*shape, settings.tiny)
        for name, shape in (TINY if settings.tiny else SHAPES).items()
    }
    return [
        Cell(f"{shape} {name}", functools.partial(measure, size, name), GUESS)
        for name in NAMES
        for shape, size in sizes.items()
    ]


def layer(
    tokens: int, d_model: int, d_ff: int, experts: int, k: int, tiny: bool
) -> bench_layers.Cell:
    """A layer in bfloat16, SwiGLU, with loads as uneven as those of trained routers."""
    return bench_layers.Cell(
        tokens=tokens,
        d_model=d_model,
        d_ff=d_ff,
        dtype="bfloat16",
        experts=experts,
        k=k,
        factor=1.25,
        loads="learned",
        activation="swiglu",
        einsum_groups=(TINY_GROUP if tiny else GROUP,),
    )


def measure(size: bench_layers.Cell, name: str) -> dict:
    """The row of one implementation: both ways.

    Raises:
      Skipped: if the kernel is not here.
    """
    kernels = _kernels(name, size)
    choice = bench_layers.choices(size)
    found = bench_layers.layers(size, choice, kernels)
    apply, computed = found[f"einsum_{size.einsum_groups[0]}" if name == "einsum" else name]
    plain = functools.partial(bench_layers.dense, size.activation)
    x_SD = jax.random.normal(jax.random.key(0), (size.tokens, size.d_model), size.dtype)
    ours = (apply, bench_layers.sample(size, size.d_ff, (size.experts,)))
    dense = (plain, bench_layers.sample(size, size.k * size.d_ff))
    row = {"computed_rows": computed, **size._asdict()}
    programs = compiled({"ours": ours, "dense": dense}, x_SD, choice)
    for way in TIMES:
        measured = one_way(size, way, programs[way])
        row |= {f"{way}_{key}": value for key, value in measured.items()}
    return row


def _kernels(name, size):
    """The kernels of `grouped` that a name asks for."""
    if name == "grouped":
        return ["blocks"]
    kernel = name.removeprefix("grouped_")
    require(kernel, size.dtype, size.d_model, size.d_ff)
    return [kernel] if kernel in grouped.IMPLEMENTATIONS else []


def compiled(
    layers: dict[str, tuple[bench_layers.Layer, ffn.Weights]],
    x_SD: jax.Array,
    choice: TopKAssignment,
) -> dict[str, dict[str, bench_dispatch.Program]]:
    """way -> the programs of both layers, all compiled at the same time.

    Args:
      layers: "ours" and "dense" -> (layer, its weights).
    """

    def build(way: str, name: str) -> bench_dispatch.Program:
        apply, weights = layers[name]
        return bench_dispatch.program(apply, way, x_SD, choice, weights, counted=False)

    with futures.ThreadPoolExecutor() as pool:
        building = {way: {name: pool.submit(build, way, name) for name in layers} for way in TIMES}
    return {
        way: {name: one.result() for name, one in both.items()} for way, both in building.items()
    }


def one_way(size: bench_layers.Cell, way: str, programs: dict[str, bench_dispatch.Program]) -> dict:
    """Milliseconds, TFLOP/s, the ratio to dense, and memory."""
    taken = timing.within({name: p.call for name, p in programs.items()}, ROUNDS, LIMIT)
    seconds = {name: float(np.median(times)) for name, times in taken.items()}
    return {
        "ms": 1e3 * seconds["ours"],
        "tflops": ideal_flops(size, way) / seconds["ours"] / 1e12,
        "dense_tflops": ideal_flops(size, way) / seconds["dense"] / 1e12,
        "ratio_to_dense": seconds["ours"] / seconds["dense"],
        "peak_bytes": _peak(programs["ours"]),
        "dense_peak_bytes": _peak(programs["dense"]),
        "compile_seconds": programs["ours"].facts["compile_seconds"],
    }


def ideal_flops(size: bench_layers.Cell, way: str) -> float:
    """FLOPs of the matrix products of K experts a token."""
    one = 2.0 * ffn.num_matrices(size.activation) * size.d_model * size.d_ff
    return TIMES[way] * one * size.tokens * size.k


def _peak(program):
    assert program.compiled is not None  # layers are programs of JAX
    return peak_bytes(program.compiled)


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Arguments, results and temporary arrays of a program, as its compiler planned them."""
    plan = hlo.memory(compiled)
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return held + plan.temp_size_in_bytes
