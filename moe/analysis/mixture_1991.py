"""Epochs of mixtures and of single networks to one criterion, over learning rates.

A record is of a reading of the task, a model, a loss and a rate; its numbers are of the seeds, and
then of the pilots, which choose the rates and count for nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import markdown, paired, plots

NETWORKS = {"mixture_4": "network_6", "mixture_8": "network_12"}  # of as many weights
PUBLISHED = {
    "mixture_4": (1124, 23), "mixture_8": (1083, 12),
    "network_6": (2209, 83), "network_12": (2435, 124),
}  # Jacobs et al. 1991, table 1: mean epochs of 25 runs, and their standard deviation  # fmt: skip
COMPETITIVE = "competitive"
Sweep = dict[float, dict]  # learning rate -> record
Key = tuple[str, str, str]  # reading, model, loss


def sweeps(records: Sequence[dict]) -> dict[Key, Sweep]:
    """The records of every model, by rate."""
    found: dict[Key, Sweep] = {}
    for one in records:
        found.setdefault((one["reading"], one["model"], one["loss"]), {})[one["rate"]] = one
    return found


def best_rate(sweep: Sweep) -> float | None:
    """The rate whose pilots reach the criterion in the fewest epochs; None: at none all do."""
    means = {rate: pilot_epochs(one) for rate, one in sweep.items()}
    best = min(means, key=lambda rate: means[rate])
    return None if math.isinf(means[best]) else best


def pilot_epochs(one: dict) -> float:
    """Mean epochs of the pilots; infinite if one does not reach the criterion."""
    if not all(one["reached"][one["seeds"] :]):
        return math.inf
    return float(np.mean(one["epochs"][one["seeds"] :]))


def ratio(own: dict, other: dict) -> str:
    """Epochs over those of another model, a geometric mean over seeds, with its 95% interval.

    If not all seeds of both reach the criterion, their share.
    """
    seeds = own["seeds"]
    reached = own["reached"][:seeds] + other["reached"][:seeds]
    if not all(reached):
        return f"{np.mean(reached):.0%}"
    logs = np.log(own["epochs"][:seeds]) - np.log(other["epochs"][:seeds])
    return ratio_text(logs)


def ratio_text(logs: ArrayLike) -> str:
    """The geometric mean of ratios of which these are the logarithms, with its 95% interval."""
    mean, half = paired.interval(logs)
    if math.isnan(half):
        return _number(math.exp(mean))
    low, high = math.exp(mean - half), math.exp(mean + half)
    return f"{_number(math.exp(mean))} ({_number(low)} to {_number(high)})"


def _number(x):
    return f"{x:.2f}" if x >= 0.1 else f"{x:.2g}"


def epochs(one: dict) -> str:
    """Mean epochs with their 95% interval; at least so many, if a seed was stopped before."""
    seeds = one["seeds"]
    mean, half = paired.interval(one["epochs"][:seeds])
    bound = "" if all(one["reached"][:seeds]) else "≥ "
    return f"{bound}{mean:,.0f}" + ("" if math.isnan(half) else f" ± {half:,.0f}")


def table(records: Sequence[dict]) -> str:
    """All readings, models and losses at their best rates; then both sides at every rate."""
    found = sweeps(records)
    best = markdown.table(BEST, [_at_best(found, key) for key in found])
    rates = list(next(iter(found.values())))
    rows = [_at_each(found, key, rates) for key in found if _network(found, key)]
    each = markdown.table([*PLACE, *(f"{rate:g}" for rate in rates)], rows)
    return f"{best}\n\n{each}\n\n{LEGEND}"


PLACE = ("reading", "model", "loss")
BEST = (
    *PLACE, "weights", "rate", "epochs (95%)", "sd", "reached", "of the network (95%)",
    "training right", "test right", "paper: epochs (sd)", "paper: of the network",
)  # fmt: skip
LEGEND = (
    "epochs: updates by all training cases until the mean squared error is that of the criterion;"
    " ≥: seeds that do not reach it count with the most epochs. rate: the one of the sweep at which"
    " the pilots, other seeds, are fastest (*: at an end of the sweep); the gradient is that of the"
    " mean over cases. of the network: epochs over those of the network of as many weights, each at"
    " its own rate; geometric mean over paired seeds. right: of cases when training ends; tests are"
    " of speakers that were not heard. The second table has that ratio with the same rate for both"
    " sides; a share: of seeds of both sides that reach the criterion, where not all do."
)


def _at_best(found, key):
    own, network = found[key], _network(found, key)
    rate = best_rate(own)
    head = [*key, f"{next(iter(own.values()))['weights']}"]
    if rate is None:
        most = max(np.mean(one["reached"][: one["seeds"]]) for one in own.values())
        return [*head, "none", "not reached", "", f"{most:.0%}", "", "", "", *_published(*key)]
    one, seeds = own[rate], own[rate]["seeds"]
    other = best_rate(network) if network else None
    return [
        *head,
        f"{rate:g}" + "*" * (rate in (min(own), max(own))),
        epochs(one),
        f"{np.std(one['epochs'][:seeds], ddof=1):,.0f}" if seeds > 1 else "",
        f"{np.mean(one['reached'][:seeds]):.0%}",
        "" if network is None or other is None else ratio(one, network[other]),
        f"{np.mean(one['train'][:seeds]):.1%}",
        f"{np.mean(one['test'][:seeds]):.1%}",
        *_published(*key),
    ]


def _network(found, key):
    """The sweep of the network of as many weights; None of a network."""
    reading, model, _ = key
    return found.get((reading, NETWORKS.get(model, ""), COMPETITIVE))


def _published(reading, model, loss):
    del reading
    if loss != COMPETITIVE or model not in PUBLISHED:
        return ["", ""]
    mean, spread = PUBLISHED[model]
    rival = NETWORKS.get(model)
    return [f"{mean:,} ({spread})", f"{mean / PUBLISHED[rival][0]:.2f}" if rival else ""]


def _at_each(found, key, rates):
    """The ratio at one rate for both sides, for every rate."""
    own, network = found[key], _network(found, key)
    return [*key, *(ratio(own[rate], network[rate]) for rate in rates)]


def drawn(records: Sequence[dict]) -> figure.Figure:
    """Epochs over learning rates, a panel for each reading; hollow: not every seed gets there."""
    found = sweeps(records)
    readings = list(dict.fromkeys(reading for reading, _, _ in found))
    made = plots.blank(figsize=(6.5 * len(readings), 4.6))
    axes = made.subplots(1, len(readings), sharey=True, squeeze=False)[0]
    for axis, reading in zip(axes, readings, strict=True):
        own = {key: sweep for key, sweep in found.items() if key[0] == reading}
        for i, ((_, model, loss), sweep) in enumerate(own.items()):
            label = model if loss == COMPETITIVE else f"{model}, {loss}"
            _line(axis, sweep, plots.style(i), label)
        plots.doubling(axis)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set(title=reading, xlabel="learning rate")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("epochs to the criterion")
    return made


def _line(axis, sweep, look, label):
    """Means over seeds with their intervals."""
    seeds = next(iter(sweep.values()))["seeds"]
    means = [paired.interval(one["epochs"][:seeds]) for one in sweep.values()]
    halves = np.nan_to_num([mean.half for mean in means])
    at = [mean.mean for mean in means]
    axis.errorbar(list(sweep), at, halves, **look, capsize=2, label=label)
    for rate, one, mean in zip(sweep, sweep.values(), at, strict=True):
        if not all(one["reached"][:seeds]):
            axis.plot(rate, mean, **look, mfc="white", zorder=3)
