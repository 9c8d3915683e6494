"""Tokens to equal loss: how many a model needs for what the dense one reaches with so many.

Both are read off runs of several lengths, each with its own decay, of the same seed: the loss in
a line over the logarithm of the tokens. Speed-ups are geometric means over paired seeds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moe.analysis import markdown, paired, plots, scaling

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure


class Speedup(NamedTuple):
    """How many times fewer tokens, with a 95% interval over seeds."""

    mean: float
    low: float
    high: float
    at_least: bool  # the shortest run of a seed is better already
    reached: bool  # by every seed

    def __str__(self):
        if not self.reached:
            return "not reached"
        if self.at_least:
            return f"≥ {self.mean:.2f}"
        both = "" if math.isnan(self.low) else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.mean:.2f}{both}"


def lengths(run: dict) -> list[dict]:
    """A run's records, the shortest first."""
    return [*run["shorter"], run]


def speedup(runs: dict[int, dict], baseline: dict[int, dict], steps: int) -> Speedup:
    """Of a variant over the baseline's runs of so many steps.

    Args:
      runs, baseline: seed -> record, as of `scaling.by_variant`.
      steps: a length of the baseline's.
    """
    logs, bounds = [], []
    for seed, run in scaling.shared(runs, baseline).items():
        (base,) = (one for one in lengths(baseline[seed]) if one["steps"] == steps)
        own = lengths(run)
        losses = [one["test_nll"] for one in own]
        reached = paired.first_reach([math.log(o["steps"]) for o in own], losses, base["test_nll"])
        logs.append(math.log(steps) - reached)
        bounds.append(losses[0] <= base["test_nll"])
    if any(map(math.isnan, logs)):
        return Speedup(math.nan, math.nan, math.nan, any(bounds), reached=False)
    mean, half = paired.interval(logs)
    low, high = math.exp(mean - half), math.exp(mean + half)
    return Speedup(math.exp(mean), low, high, any(bounds), reached=True)


def table(records: list[dict]) -> str:
    """Every variant's speed-up over the baseline at each of its lengths.

    Args:
      records: the lines of results.jsonl.
    """
    runs = scaling.by_variant(records)
    if scaling.BASELINE not in runs:
        return f"no finished run of {scaling.BASELINE!r} yet: nothing to compare with"
    baseline = runs[scaling.BASELINE]
    steps = [one["steps"] for one in lengths(scaling.first(baseline))]
    rows = [
        [name, *(f"{speedup(seeds, baseline, n)}" for n in steps), *_last(seeds, baseline)]
        for name, seeds in scaling.common(runs, baseline).items()
        if name != scaling.BASELINE
    ]
    tokens = scaling.first(baseline)["tokens_per_step"]
    head = ["model", *(f"at {n * tokens / 1e6:.1f}M tokens" for n in steps), *LAST]
    return f"{markdown.table(head, rows)}\n\n{LEGEND}\n\n{scaling.trained_on(records)}"


LAST = ("test nats", "Δ nats (95%)", "executed FLOPs", "ms/step")
LEGEND = (
    "at: how many times fewer tokens the model needs for the test loss of dense with so many, with"
    " a 95% interval over paired seeds; ≥: its shortest run is better already. Test nats, and their"
    " difference from dense, are of the longest runs; executed FLOPs are those of a training step,"
    " from dense's; steps were timed side by side."
)


def _last(runs, baseline):
    one, base = scaling.first(runs), scaling.first(baseline)
    flops = f"{one['executed_flops'] / base['executed_flops'] - 1:+.2%}"
    seconds = f"{1e3 * one['step_seconds']:.0f}" if "step_seconds" in one else ""
    change = scaling.over_seeds(runs, baseline)
    return f"{scaling.mean(runs, 'test_nll'):.4f}", f"{change}", flops, seconds


def figure_of(records: list[dict]) -> figure.Figure:
    """The test losses of all lengths over tokens, a line for each model, a point for each seed."""
    drawn = plots.blank(figsize=(7, 4.6))
    axis = drawn.subplots()
    for i, (name, runs) in enumerate(scaling.by_variant(records).items()):
        own = [[(o["steps"] * o["tokens_per_step"] / 1e6, o["test_nll"]) for o in lengths(run)]
               for run in runs.values()]  # fmt: skip
        if len({len(points) for points in own}) == 1:
            axis.plot(*np.mean(own, axis=0).T, **plots.style(i), label=name)
        for points in own:
            axis.plot(*zip(*points, strict=True), ".", color=f"C{i}", ms=4)
    plots.doubling(axis)
    axis.set(xlabel="training tokens, millions", ylabel="test loss, nats per target")
    axis.grid(alpha=0.3)
    plots.legend_above(drawn, 4)
    return drawn
