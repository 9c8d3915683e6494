"""What instruction tuning is worth to experts and to dense, as in Shen et al. 2023 (2305.14705).

A measurement is a dictionary with model, cell (of `CELLS`), seed, task, nll and scores.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import abilities, markdown, paired, plots

DENSE = "dense"
CELLS = ("pretrained", "direct", "tuned", "then")
CHANGES = (("pretrained", "tuned"), ("direct", "then"))  # without instruction tuning, and with it
Groups = Mapping[str, Sequence[str]]  # what tasks are called together -> tasks
BySeed = dict[int, float]


def rates(records: Sequence[dict]) -> dict[str, dict[str, float]]:
    """cell -> run -> validation loss at its end, the mean over seeds.

    Args:
      records: the lines of results.jsonl; a run is called <cell>_lr_<rate>.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for one in records:
        cell = one["variant"].rpartition("_lr_")[0]
        found.setdefault(cell, {}).setdefault(one["variant"], []).append(one["curve_nll"][-1])
    return {
        cell: {run: statistics.fmean(losses) for run, losses in runs.items()}
        for cell, runs in found.items()
    }


def best(records: Sequence[dict]) -> dict[str, str]:
    """cell -> its run with the least validation loss."""
    return {cell: min(losses, key=losses.__getitem__) for cell, losses in rates(records).items()}


def text(found: Sequence[dict], records: Sequence[dict], groups: Groups) -> str:
    """The cells, what instruction tuning changes between models, and the rates."""
    tables = cells_table(found, groups), changes_table(found, groups), rates_table(records)
    return "\n\n".join((tables[0], LEGEND, *tables[1:]))


LEGEND = (
    "nats: of a token of the answers to test questions, mean over tasks and seeds. It is the main"
    " number: models so small are near chance at what is right (without examples; of choices by"
    " log p, of open answers exactly). Δ: the paired difference of nats from dense, below 0 where"
    " experts are better, with the 95% interval over seeds. direct and then were fine-tuned on the"
    " single task itself, from pretrained and from tuned, which have seen none of its questions."
    " Below: how far instruction tuning moves Δ, and the validation loss at every learning rate,"
    " of which the best is reported here, beside what training costs."
)


def cells_table(found: Sequence[dict], groups: Groups) -> str:
    """A row for each group of tasks and each cell that was asked them."""
    models = _models(found)
    head = ["tasks", "cell"]
    for model in models:
        head += [f"{model}: nats", "right", *([] if model == DENSE else ["Δ (95%)"])]
    rows = []
    for name, tasks in groups.items():
        for cell in _cells(found, tasks):
            numbers = [_numbers(found, model, cell, tasks) for model in models]
            rows.append([name, cell, *(number for some in numbers for number in some)])
    return markdown.table(head, rows)


def _numbers(found, model, cell, tasks):
    loss = statistics.fmean(by_seed(found, model, cell, tasks, nll).values())
    right = statistics.fmean(by_seed(found, model, cell, tasks, abilities.accuracy).values())
    change = [] if model == DENSE else [f"{_interval(against_dense(found, model, cell, tasks))}"]
    return [f"{loss:.4f}", f"{right:.1%}", *change]


def changes_table(found: Sequence[dict], groups: Groups) -> str:
    """What instruction tuning does to the difference between experts and dense."""
    head = ["tasks", "model", *(f"Δ {after} - Δ {before} (95%)" for before, after in CHANGES)]
    rows = []
    for name, tasks in groups.items():
        known = _cells(found, tasks)
        for model in _models(found)[1:]:
            moved = [
                f"{interaction(found, model, *pair, tasks)}" if set(pair) <= set(known) else ""
                for pair in CHANGES
            ]
            rows.append([name, model, *moved])
    return markdown.table(head, rows)


def rates_table(records: Sequence[dict]) -> str:
    """The validation loss of every rate, and the best, which may be at an edge."""
    used = {one["variant"]: one["learning_rate"] for one in records}
    flops = {one["variant"]: one["executed_flops"] for one in records}
    order = sorted(set(used.values()))
    chosen = best(records)
    rows = []
    for cell, losses in rates(records).items():
        by_rate = {used[run]: loss for run, loss in losses.items()}
        rate = used[chosen[cell]]
        edge = ", at the edge" * (rate in (min(by_rate), max(by_rate)))
        shown = (f"{by_rate[r]:.4f}" if r in by_rate else "" for r in order)
        cost = f"{flops[chosen[cell]]:.4g}"
        rows.append([cell, *shown, f"{rate:g}{edge}", cost])
    head = ["run", *(f"{rate:g}" for rate in order), "best rate", "executed FLOPs a token"]
    return markdown.table(head, rows)


def nll(one: dict) -> float:
    """Nats a token of the answers."""
    return one["nll"]


def by_seed(
    found: Sequence[dict], model: str, cell: str, tasks: Sequence[str],
    number: Callable[[dict], float],
) -> BySeed:  # fmt: skip
    """seed -> the mean of a number over tasks."""
    seeds: dict[int, list[float]] = {}
    for one in found:
        if (one["model"], one["cell"]) == (model, cell) and one["task"] in tasks:
            seeds.setdefault(one["seed"], []).append(number(one))
    return {seed: statistics.fmean(values) for seed, values in seeds.items()}


def against_dense(found: Sequence[dict], model: str, cell: str, tasks: Sequence[str]) -> BySeed:
    """seed -> the loss of a model less that of dense in the same cell."""
    own, dense = (by_seed(found, name, cell, tasks, nll) for name in (model, DENSE))
    return {seed: own[seed] - dense[seed] for seed in own}


def interaction(
    found: Sequence[dict], model: str, before: str, after: str, tasks: Sequence[str]
) -> paired.Interval:
    """How far the difference from dense moves between cells; below 0 experts gain more."""
    was, now = (against_dense(found, model, cell, tasks) for cell in (before, after))
    return _interval({seed: now[seed] - was[seed] for seed in now})


def _interval(seeds):
    return paired.interval(list(seeds.values()))


def _models(found):
    """Dense first."""
    return sorted({one["model"] for one in found}, key=lambda model: (model != DENSE, model))


def _cells(found, tasks):
    """Those that were asked the tasks."""
    asked = {one["cell"] for one in found if one["task"] in tasks}
    return [cell for cell in CELLS if cell in asked]


def drawn(found: Sequence[dict], groups: Groups) -> figure.Figure:
    """Loss of every model over the cells, a panel for each group; bars from least seed to most."""
    made = plots.blank(figsize=(3.4 * len(groups), 4))
    panels = made.subplots(1, len(groups), squeeze=False)[0]
    for axis, (name, tasks) in zip(panels, groups.items(), strict=True):
        for number, model in enumerate(_models(found)):
            _line(axis, found, model, tasks, plots.style(number))
        axis.set(title=name)
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("nats a token of test answers")
    panels[0].legend()
    return made


def _line(axis, found, model, tasks, look):
    cells = _cells(found, tasks)
    losses = [list(by_seed(found, model, cell, tasks, nll).values()) for cell in cells]
    means, spreads = zip(*map(plots.spread, losses), strict=True)
    axis.errorbar(cells, means, np.hstack(spreads), **look, ms=5, capsize=3, label=model)
