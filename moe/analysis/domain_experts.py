"""One general model against one of each domain: losses by way and domain, paired over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import markdown, paired, plots

GENERAL = "dense"
DEMIX = "demix"
MERGED = "branches"
MIXED = "mix"

Losses = dict[tuple[str, int], dict[str, float]]  # (way, seed) -> by domain


def by_way(found: Sequence[dict]) -> Losses:
    """The losses of every way and seed, by domain."""
    table: Losses = {}
    for one in found:
        for way, nll in one["nll"].items():
            table.setdefault((way, one["seed"]), {})[one["domain"]] = nll
    return table


def table(found: Sequence[dict]) -> str:
    """A row for each way, the best first: mean over domains, difference from dense, each domain.

    Args:
      found: of `experiments.domain_experts.measured`.
    """
    losses = by_way(found)
    domains = list(dict.fromkeys(one["domain"] for one in found))
    ways = sorted({way for way, _ in losses}, key=lambda way: _mean(losses, way))
    rows = [_row(way, losses, domains) for way in ways]
    head = ("way", "mean over domains", "Δ dense (95%)", *domains)
    return f"{markdown.table(head, rows)}\n\n{LEGEND}"


LEGEND = (
    "Test loss, nats per token; every way but `seed` took as many FLOPs of training in all. dense:"
    " one model of all domains; seed: the same after the seed phase. branches: a model for each"
    " domain, mixed by Bayes' posterior over domains with a uniform prior, one updated by the rows"
    " before, one cached from validation text. branch: that of the text's own domain, known by"
    " its label. average: the mean of the branches' parameters, or weighted by the cached"
    " prior. mix: their feed-forwards as experts, trained together. demix: experts by domain label,"
    " or mixed like branches. A mixture of N models takes N times the FLOPs when it is used."
)


def _row(way, losses, domains):
    change = "" if way == GENERAL else f"{difference(losses, way)}"
    of_domain = (f"{np.mean([x[d] for x in _seeds(losses, way).values()]):.4f}" for d in domains)
    return way, f"{_mean(losses, way):.4f}", change, *of_domain


def _seeds(losses, way):
    return {seed: x for (name, seed), x in losses.items() if name == way}


def _mean(losses, way):
    return float(np.mean([list(x.values()) for x in _seeds(losses, way).values()]))


def difference(losses: Losses, way: str, other: str = GENERAL) -> paired.Interval:
    """The paired difference of the means over domains."""
    own, base = _seeds(losses, way), _seeds(losses, other)
    pairs = [np.mean([own[s][d] - base[s][d] for d in own[s]]) for s in own if s in base]
    return paired.interval(pairs)


def drawn(found: Sequence[dict]) -> figure.Figure:
    """The mean over domains of every way, from the lowest seed to the highest."""
    losses = by_way(found)
    ways = sorted({way for way, _ in losses}, key=lambda way: -_mean(losses, way))
    made = plots.blank(figsize=(8, 0.32 * len(ways) + 1.2))
    axis = made.subplots()
    for place, way in enumerate(ways):
        means = [float(np.mean(list(x.values()))) for x in _seeds(losses, way).values()]
        mean, spread = plots.spread(means)
        axis.errorbar(mean, place, xerr=spread, fmt="o", ms=5, capsize=3, color="C0")
    axis.axvline(_mean(losses, GENERAL), color="0.5", lw=1, ls="--")
    axis.set_yticks(range(len(ways)), ways)
    axis.set(xlabel="test loss, nats per token, mean over domains")
    axis.grid(alpha=0.3)
    return made
