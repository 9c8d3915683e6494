"""Tables of what dispatchers cost, from the rows of `experiments.bench_dispatch`."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from moe.analysis import markdown

CELL = (
    "tokens",
    "d_model",
    "d_ff",
    "dtype",
    "experts",
    "k",
    "factor",
    "loads",
    "activation",
    "way",
)


class Target(NamedTuple):
    """A number that some programs should not exceed, in training."""

    says: str
    program: str
    experts: tuple[int, ...]
    # (row, the rows of its cell by program) -> what is judged, None if there is nothing to judge
    number: Callable[[dict, dict[str, dict]], float | None]
    most: float
    k: tuple[int, ...] = (1, 2)
    activation: str = "gelu"
    size: dict = {}  # fields of the cell that differ from `USUAL`

    def of(self, row: dict) -> bool:
        """Is this row one of those that the target judges?"""
        own = {"program": self.program, "activation": self.activation}
        meant = {**USUAL, **self.size, **own}
        usual = all(row[name] == value for name, value in meant.items())
        return usual and row["experts"] in self.experts and row["k"] in self.k


USUAL = {
    "way": "training",
    "loads": "learned",
    "factor": 1.25,
    "tokens": 4096,
    "d_model": 256,
    "d_ff": 1024,
    "dtype": "float32",
}
MIXTRAL = {"tokens": 16_384, "d_model": 4096, "d_ff": 14_336, "dtype": "bfloat16"}
OLMOE = {**MIXTRAL, "d_model": 2048, "d_ff": 1024}


def _to_floor(row, _):
    return row["ratio_to_floor"]


def _to_dense(row, _):
    return row["ratio_to_dense"]


def _over_capacity(row, _):
    return row["ratio_over_capacity"]


def _to_einsum(row, programs):
    groups = [r["seconds"] for name, r in programs.items() if name.startswith("einsum")]
    return row["seconds"] / min(groups) if groups else None


def _to_mixtral(row, programs, way="eager"):
    peer = programs.get(f"mixtral_{way}")
    return peer and row["seconds"] / peer["seconds"]


def _memory(row, programs):
    return row["temporary_bytes"] / programs["dense"]["temporary_bytes"]


TARGETS = (
    Target("gather over its floor", "gather", (8, 64, 256), _to_floor, 1.15),
    Target("grouped over its floor", "grouped", (8, 64, 256), _to_floor, 1.40),
    Target("gather over dense and capacity", "gather", (8,), _over_capacity, 1.15),
    Target("gather over dense and capacity", "gather", (64,), _over_capacity, 1.35),
    # What the better of vmoe's dispatchers (github.com/google-research/vmoe) took of this work.
    Target("gather over dense, vmoe's better", "gather", (8,), _to_dense, 1.4, k=(1,)),
    Target("gather over dense, vmoe's better", "gather", (64,), _to_dense, 2.9, k=(1,)),
    Target("gather over dense, vmoe's better", "gather", (8, 64), _to_dense, 1.8, k=(2,)),
    Target("gather over the best einsum", "gather", (64,), _to_einsum, 0.5, k=(1,)),
    Target("temporary memory, gather over dense", "gather", (8, 64, 256), _memory, 2.0, k=(1,)),
    Target("gather over Mixtral's loop", "gather", (8,), _to_mixtral, 1 / 2, activation="swiglu"),
    Target("gather over Mixtral's loop", "gather", (64,), _to_mixtral, 1 / 15, activation="swiglu"),
    *(
        Target(
            f"{program} over {what}, for an H200", program, (E,), number, most, (K,), "swiglu", size
        )
        for program in ("gather", "grouped", "grouped_hopper")
        for what, E, K, number, most, size in (
            ("dense", 8, 2, _to_dense, 1 / 0.8, MIXTRAL),
            ("dense", 64, 8, _to_dense, 1 / 0.6, OLMOE),
            ("grouped_mm", 64, 8, functools.partial(_to_mixtral, way="grouped_mm"), 1.0, OLMOE),
        )
    ),
)


MODEL_TARGETS = (  # what, of, variants, and what their ratio to dense should not exceed
    ("training", "small", ("e8_top2", "e32_top2"), 1.15),
    ("decoding", "batch 1", ("e64_top1", "e64_top2"), 1.25),
)


def by_cell(rows: list[dict]) -> dict[tuple, dict[str, dict]]:
    """The rows as a table: cell -> program -> row."""
    found: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in CELL), {})[row["program"]] = row
    return found


def table(rows: list[dict]) -> str:
    """Every program of every cell, in Markdown."""
    head = (
        *("E", "K", "experts", "loads", "tokens", "type", "capacity", "pass", "program", "ms"),
        *("over dense", "over dense and capacity", "over floor", "over products"),
        *("temporary MiB", "GFLOPs", "compile s"),
    )
    return markdown.table(head, map(_line, rows)) + (
        "\n\nMedians of programs that ran in turn. dense: the feed-forward of equal active"
        " FLOPs. floor: an estimate, the dense feed-forward of equal executed FLOPs and the"
        " streaming of the experts' weights, measured beside. products: executed FLOPs at the speed"
        " of a plain large product, measured beside. capacity: computed rows a choice,"
        " those of grouped's blocks included. temporary: of the executable. GFLOPs: products."
    )


def _model_line(row):
    shown = functools.partial(_shown, row)
    return (
        row["what"],
        row["model"],
        row["variant"],
        shown("seconds", "{:.2f}", 1e3),
        shown("ratio_to_dense", "{:.2f}"),
        shown("ratio_to_products", "{:.2f}"),
        shown("ratio_to_floor", "{:.2f}"),
        shown("temporary_bytes", "{:.0f}", 2**-20),
        shown("total_parameters", "{:,}"),
        shown("active_parameters", "{:,}"),
    )


def _shown(row, key, form, scale=1):
    return form.format(row[key] * scale) if key in row else "-"


def _line(row):
    shown = functools.partial(_shown, row)
    return (
        *(str(row[name]) for name in ("experts", "k", "activation", "loads", "tokens", "dtype")),
        shown("realised_capacity", "{:.2f}"),
        row["way"],
        row["program"],
        shown("seconds", "{:.1f}", 1e3),
        shown("ratio_to_dense", "{:.2f}"),
        shown("ratio_over_capacity", "{:.2f}"),
        shown("ratio_to_floor", "{:.2f}"),
        shown("ratio_to_products", "{:.2f}"),
        shown("temporary_bytes", "{:.0f}", 2**-20),
        shown("executed_flops", "{:.2f}", 1e-9),
        shown("compile_seconds", "{:.1f}"),
    )


def models_table(rows: list[dict]) -> str:
    """Whole models of `experiments.bench_model`, in Markdown."""
    head = (
        *("what", "of", "variant", "ms", "over dense", "over products", "over floor"),
        *("temporary MiB", "parameters", "active"),
    )
    return markdown.table(head, map(_model_line, rows)) + (
        "\n\nMedians of calls in turn. training: variants of equal executed FLOPs, but for llama,"
        " whose active widths are equal; products: executed FLOPs at the speed of a plain large"
        " product, measured beside; floor: their matrix products alone, each shape by itself."
        " llama, mixtral: Hugging Face's steps. decoding: one token of each text, half of"
        " the cache filled; all models meet as many parameters a token."
    )


def models_targets(rows: list[dict]) -> str:
    """Every target of whole models with what was measured, in Markdown."""
    lines = [
        (f"{what}, {of}: over dense", variant, *_judged(most, row["ratio_to_dense"]))
        for what, of, variants, most in MODEL_TARGETS
        for variant in variants
        for row in rows
        if (row["what"], row["model"], row["variant"]) == (what, of, variant)
    ]
    return markdown.table(("target", "variant", "at most", "measured", "met"), lines)


def _judged(most, number):
    return f"{most:.2f}", f"{number:.2f}", "yes" if number <= most else "no"


def targets(rows: list[dict]) -> str:
    """Every target with what was measured, in Markdown; those that nothing judges are left out."""
    lines = []
    for programs in by_cell(rows).values():
        for row in programs.values():
            for target in TARGETS:
                number = target.number(row, programs) if target.of(row) else None
                if number is not None:
                    cell = target.says, str(row["experts"]), str(row["k"])
                    lines.append((*cell, *_judged(target.most, number)))
    return markdown.table(("target", "E", "K", "at most", "measured", "met"), lines)
