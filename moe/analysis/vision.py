"""Models of images at equal FLOPs, and how much they still see with few slots."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import markdown, paired, plots, scaling
from moe.analysis.paired import Interval

DENSE = "dense"  # the variant that others are set beside
POSITION = "position"  # who is given a slot first
PRIORITY = "priority"

# (variant, order, factor) -> seed -> its look
Cells = dict[tuple[str, str, float], dict[int, dict]]


def table(records: Sequence[dict]) -> str:
    """A row for each model: what it costs, and how many test images it gets right.

    Args:
      records: the lines of results.jsonl.
    """
    runs = scaling.by_variant(list(records))
    head = ("model", "parameters", "learning rate", "FLOPs of dense", "validation nats",
            "test nats", "right", "Δ dense (95%)")  # fmt: skip
    return f"{markdown.table(head, [_row(name, runs) for name in runs])}\n\n{LEGEND}"


LEGEND = (
    "FLOPs of dense: those executed in a training step, over the dense model's. validation nats: at"
    " the last evaluation, which rates are chosen by. right: the share of the test images, at the"
    " capacity of training. Δ dense: the paired difference in points, with the 95% interval over"
    " seeds."
)


def _row(name, runs):
    own = runs[name]
    dense = runs[DENSE]
    one = scaling.first(own)
    base = scaling.first(dense)
    change = paired.interval([100 * (_right(own[s]) - _right(dense[s])) for s in own if s in dense])
    return (
        name,
        f"{one['total_parameters']:,}",
        f"{one['learning_rate']:g}",
        f"{one['executed_flops'] / base['executed_flops']:.3f}",
        f"{_mean(own, lambda r: r['curve_nll'][-1]):.4f}",
        f"{_mean(own, lambda r: r['test_nll']):.4f}",
        f"{_mean(own, _right):.2%}",
        "" if name == DENSE else points(change),
    )


def _right(record):
    return record["test"]["accuracy"]


def _mean(runs, of: Callable[[dict], float]):
    return sum(of(one) for one in runs.values()) / len(runs)


def points(value: Interval) -> str:
    """Points of percent with their interval, if there is one."""
    half = f" ± {value.half:.2f}" if value.half == value.half else ""
    return f"{value.mean:+.2f}{half}"


def share(value: Interval) -> str:
    """A share with its interval, if there is one."""
    half = f" ± {value.half:.1%}" if value.half == value.half else ""
    return f"{value.mean:.1%}{half}"


def capacity_table(found: Sequence[dict]) -> str:
    """A row for each capacity: what is left of the accuracy of a model that drops nothing.

    Args:
      found: measurements with variant, seed, order, factor, accuracy and flops.
    """
    cells = by_cell(found)
    variants = _in_order(found, "variant")
    head = ["capacity", "FLOPs"]
    for name in variants:
        head += [f"{name}: {POSITION}", PRIORITY, "Δ (95%)"]
    rows = [_capacity_row(cells, variants, factor) for factor in _in_order(found, "factor")]
    return f"{markdown.table(head, rows)}\n\n{CAPACITY_LEGEND}"


CAPACITY_LEGEND = (
    "capacity: slots over choices, in evaluation. FLOPs: of a forward pass, over that at the"
    " largest capacity, where nothing is dropped. position, priority: the share of the accuracy"
    " there that is left, when slots are taken by place in the image (its lower part goes without)"
    " and by probability, first choices first; the name before is what was trained. Δ: priority"
    " less position, points of accuracy, with the paired 95% interval over seeds."
)


def by_cell(found: Sequence[dict]) -> Cells:
    """The measurements by what they are of."""
    cells: Cells = {}
    for one in found:
        key = one["variant"], one["order"], one["factor"]
        cells.setdefault(key, {})[one["seed"]] = one
    return cells


def _in_order(found, key):
    return list(dict.fromkeys(one[key] for one in found))


def _capacity_row(cells, variants, factor):
    full = max(at for _, _, at in cells)
    cost = [
        _mean(cells[variants[0], PRIORITY, at], lambda one: one["flops"]) for at in (factor, full)
    ]
    row = [f"{factor:g}", f"{cost[0] / cost[1]:.1%}"]
    for name in variants:
        row += [share(kept(cells, name, order, factor)) for order in (POSITION, PRIORITY)]
        ours, theirs = (cells[name, order, factor] for order in (PRIORITY, POSITION))
        gained = [100 * (ours[s]["accuracy"] - theirs[s]["accuracy"]) for s in ours]
        row.append(points(paired.interval(gained)))
    return row


def kept(cells: Cells, variant: str, order: str, factor: float) -> Interval:
    """The share of the accuracy at the largest capacity that is left at another."""
    full = cells[variant, order, max(at for _, _, at in cells)]
    own = cells[variant, order, factor]
    return paired.interval([own[s]["accuracy"] / full[s]["accuracy"] for s in own])


def drawn(records: Sequence[dict], found: Sequence[dict]) -> figure.Figure:
    """Accuracy against capacity, a panel for each V-MoE; lines across are of the other models."""
    variants = _in_order(found, "variant") or [""]
    made = plots.blank(figsize=(6 * len(variants), 4.5))
    panels = made.subplots(1, len(variants), sharey=True, squeeze=False)[0]
    others = {k: v for k, v in scaling.by_variant(list(records)).items() if k not in variants}
    for axis, name in zip(panels, variants, strict=True):
        for i, order in enumerate((POSITION, PRIORITY)):
            own = [one for one in found if (one["variant"], one["order"]) == (name, order)]
            _curve(axis, own, plots.style(i))
        for i, (other, runs) in enumerate(others.items()):
            look = plots.style(2 + i) | {"marker": None}
            axis.axhline(_mean(runs, _right), lw=1, **look, label=other)
        axis.set(title=name, xlabel="capacity in evaluation")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    panels[0].set(ylabel="share of test images that are right")
    return made


def _curve(axis, found, look):
    """Of one order, with 95% intervals over seeds."""
    at = functools.partial(_at, found)
    factors = [factor for factor in _in_order(found, "factor") if factor <= 1]
    if not factors:
        return
    values = [at(factor) for factor in factors]
    halves = [value.half if value.half == value.half else 0.0 for value in values]
    means = [value.mean for value in values]
    axis.errorbar(factors, means, halves, **look, ms=5, capsize=3, label=found[0]["order"])


def _at(found, factor):
    return paired.interval([one["accuracy"] for one in found if one["factor"] == factor])
