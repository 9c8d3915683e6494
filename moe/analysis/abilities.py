"""What trained models can do, beside what their training cost: few-shot tasks, calibration.

Every measurement is a dictionary with variant, seed and steps; intervals are over paired seeds.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from moe.analysis import few_shot, markdown, paired, plots, reliability
from moe.evaluation import calibration

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

BASELINE = "dense"
Number = Callable[[dict], float]


def by_run(found: Iterable[dict]) -> dict[tuple[str, int], dict[int, list[dict]]]:
    """(variant, steps) -> seed -> its measurements."""
    table: dict[tuple[str, int], dict[int, list[dict]]] = {}
    for one in found:
        table.setdefault((one["variant"], one["steps"]), {}).setdefault(one["seed"], []).append(one)
    return dict(sorted(table.items(), key=lambda item: (item[0][1], item[0][0] != BASELINE)))


def over_seeds(runs: dict[int, list[dict]], number: Number) -> paired.Interval:
    """The mean of a number over a run's measurements, and then over seeds."""
    return paired.interval([_mean(ones, number) for ones in runs.values()])


def against_dense(
    table: dict[tuple[str, int], dict[int, list[dict]]], key: tuple[str, int], number: Number
) -> paired.Interval | None:
    """The same less that of the dense model of this length and seed; None of itself."""
    dense = table.get((BASELINE, key[1]), {})
    seeds = [seed for seed in table[key] if seed in dense]
    if key[0] == BASELINE or not seeds:
        return None
    return paired.interval([_mean(table[key][s], number) - _mean(dense[s], number) for s in seeds])


def _mean(ones, number):
    return float(np.mean([number(one) for one in ones]))


def costs(trained: Iterable[dict]) -> dict[tuple[str, int], float]:
    """(variant, steps) -> executed FLOPs of its training, from a study's records."""
    return {
        (r["variant"], r["steps"]): r["executed_flops"] * r["tokens_per_step"] * r["steps"]
        for r in trained
    }


def bits(one: dict) -> float:
    """Bits per byte of the gold answers."""
    return one["bits_per_byte"]["mean"]


def accuracy(one: dict) -> float:
    """Share of questions answered right: of choices by log p, of open answers exactly."""
    scores = one["scores"]
    return scores["acc" if "acc" in scores else "exact_match"]["mean"]


def few_shot_table(found: list[dict], trained: list[dict]) -> str:
    """Means over the tasks by model and length, then every task of the longest runs."""
    spent = costs(trained)
    shots = sorted({one["shots"] for one in found})
    rows = []
    for key in by_run(found):
        row = [key[0], f"{key[1]}", f"{spent[key]:.2e}"]
        for k in shots:
            table = by_run(one for one in found if one["shots"] == k)
            row.append(f"{over_seeds(table[key], accuracy).mean:.1%}")
            row.append(f"{over_seeds(table[key], bits).mean:.3f}")
            row.append(_shown(against_dense(table, key, bits)))
        rows.append(row)
    head = ["model", "steps", "training FLOPs"]
    for k in shots:
        head += [f"{k}-shot right", "bits/byte", "Δ (95%)"]
    every = _by_task([one for one in found if one["steps"] == max(o["steps"] for o in found)])
    left = {one["task"]: one["left_out"] for one in found if one.get("left_out")}
    parts = [
        markdown.table(head, rows),
        LEGEND,
        every,
        *([few_shot.left_out(left)] if left else []),
    ]
    return "\n\n".join(parts)


LEGEND = (
    "right: share of questions, mean over tasks and seeds. bits/byte: of the gold answer. Δ: its"
    " paired difference from dense of the same length, with the 95% interval over seeds; few-shot"
    " means are over the tasks that have examples."
)


def _shown(change):
    return "" if change is None else f"{change}"


def _by_task(found):
    """Accuracy and bits of every task, a column for each model."""
    models = list(dict.fromkeys(variant for variant, _ in by_run(found)))
    rows = []
    for task, shots in dict.fromkeys((one["task"], one["shots"]) for one in found):
        here = by_run(one for one in found if (one["task"], one["shots"]) == (task, shots))
        means = {variant: runs for (variant, _), runs in here.items()}
        cells = [
            f"{over_seeds(means[m], accuracy).mean:.1%}, {over_seeds(means[m], bits).mean:.3f}"
            for m in models
        ]
        rows.append([task, f"{shots}", *cells])
    return markdown.table(["task", "shots", *(f"{m}: right, bits/byte" for m in models)], rows)


def few_shot_figure(found: list[dict], trained: list[dict]) -> figure.Figure:
    """Bits per byte of the gold answers over training FLOPs, a panel by number of examples."""
    spent = costs(trained)
    shots = sorted({one["shots"] for one in found})
    drawn = plots.blank(figsize=(4.6 * len(shots), 4.2))
    for axis, k in zip(drawn.subplots(1, len(shots), squeeze=False)[0], shots, strict=True):
        table = by_run(one for one in found if one["shots"] == k)
        for i, variant in enumerate(dict.fromkeys(variant for variant, _ in table)):
            own = {key: over_seeds(runs, bits) for key, runs in table.items() if key[0] == variant}
            flops = [spent[key] / 1e12 * 1.04**i for key in own]
            means, halves = zip(*own.values(), strict=True)
            bars = np.nan_to_num(halves)
            axis.errorbar(flops, means, bars, **plots.style(i), capsize=3, label=variant)
        plots.doubling(axis)
        axis.set(title=f"{k}-shot", xlabel="executed TFLOPs of training, moved apart")
        axis.grid(alpha=0.3)
    drawn.axes[0].set_ylabel("bits per byte of the gold answers")
    plots.legend_above(drawn, 4)
    return drawn


CALIBRATION = {
    "accuracy": "right",
    "confidence": "confidence",
    "ece": "ECE",
    "ece_by_chance": "by chance",
    "ece_equal_count": "ECE, equal counts",
    "brier_reliability": "reliability",
    "brier_all": "Brier of all tokens",
}


def calibration_table(found: list[dict], trained: list[dict]) -> str:
    """Calibration of next tokens by model and length, and its difference from dense."""
    spent = costs(trained)
    table = by_run(found)
    rows = []
    for key, runs in table.items():
        means = [over_seeds(runs, operator.itemgetter(field)) for field in CALIBRATION]
        change = against_dense(table, key, operator.itemgetter("ece"))
        numbers = [f"{mean.mean:.4f}" for mean in means]
        rows.append([key[0], f"{key[1]}", f"{spent[key]:.2e}", *numbers, _shown(change)])
    head = ["model", "steps", "training FLOPs", *CALIBRATION.values(), "Δ ECE (95%)"]
    return markdown.table(head, rows)


def reliability_figure(found: list[dict]) -> figure.Figure:
    """How often the longest runs are right, over how sure they are; a panel for each model."""
    longest = max(one["steps"] for one in found)
    models = {key[0]: runs for key, runs in by_run(found).items() if key[1] == longest}
    panels = {}
    for variant, runs in models.items():
        error = over_seeds(runs, operator.itemgetter("ece"))
        curves = [calibration.Bins(**ones[0]["reliability"]) for ones in runs.values()]
        panels[f"{variant}: ECE {error.mean:.4f}"] = curves
    return reliability.diagram(panels)
