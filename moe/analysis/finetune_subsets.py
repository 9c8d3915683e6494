"""What fine-tuning some parameters of a model gains beside all of them (ST-MoE, section 5.2)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import markdown, paired, plots

ALL = "all"
NOTHING = "nothing"  # the model before
Key = tuple[str, str, str]  # task, model, subset
Seeds = Mapping[int, dict]  # seed -> its measurement


def by_cell(found: Sequence[dict]) -> dict[Key, dict[int, dict]]:
    """(task, model, subset) -> seed -> its measurement."""
    table: dict[Key, dict[int, dict]] = {}
    for one in found:
        table.setdefault(_key(one), {})[one["seed"]] = one
    return table


def _key(one):
    return one["task"], one["model"], one["subset"]


def chosen(trained: Sequence[dict]) -> dict[Key, float]:
    """The learning rate whose last validation loss is lowest, in the mean over seeds."""
    losses: dict[Key, dict[float, list[float]]] = {}
    for one in trained:
        of_rate = losses.setdefault(_key(one), {}).setdefault(one["rate"], [])
        of_rate.append(one["curve_nll"][-1])
    return {
        key: min(rates.items(), key=lambda item: np.mean(item[1]))[0]
        for key, rates in losses.items()
    }


def text(found: Sequence[dict], trained: Sequence[dict]) -> str:
    """Both tables, with what their columns mean.

    Args:
      found: measurements at the best rates and before, with task, model, subset, rate, seed,
        train_nll, validation_nll, test_nll and right.
      trained: records of all rates with task, model, subset, rate, seed, share, executed_flops and
        curve_nll.
    """
    return f"{table(found, trained)}\n\n{LEGEND}\n\n{gains_table(found)}\n\n{GAINS}"


LEGEND = (
    "share: of the parameters that are trained. FLOPs: executed by a step of training, of those of"
    " all; steps and rows are the same for all. rate: the best of those tried by validation loss,"
    " and whether it is at their edge. Nats: per token of the answers. Δ all: the paired difference"
    " from all, with the 95% interval over seeds; gain: the paired difference from nothing. right:"
    " share of test questions, without examples. gap: validation less training, at the end. rise:"
    " of the validation loss at the end over its lowest. A subset that a model lacks, or that is"
    " all of it, has no row: ffn, dense feed-forwards, where every layer has experts; moe and"
    " non_moe in a dense model. ST-MoE's scores (SuperGLUE): all 86.2, non_moe 86.2, moe 82.7,"
    " attention 85.7, ffn 86.4."
)
GAINS = "How much more the first model gains than the second: paired over seeds, in nats, with 95%."


def table(found: Sequence[dict], trained: Sequence[dict]) -> str:
    """A row for each model and subset."""
    cells = by_cell(found)
    rows = [_row(key, cells, trained) for key in cells]
    head = ("task", "model", "trained", "share", "FLOPs", "rate", "test nats", "Δ all (95%)")
    return markdown.table((*head, "gain (95%)", "right", "train nats", "gap (95%)", "rise"), rows)


def _row(key, cells, trained):
    task, model, subset = key
    seeds = cells[key]
    tried, change, gained, rise = ["", "", ""], "", "", ""
    if subset != NOTHING:
        tried = _tried(key, seeds, trained)
        gained = f"{gain(cells, key)}"
        rise = f"{_rise(key, seeds, trained):.4f}"
    if subset not in (NOTHING, ALL):
        change = f"{_difference(seeds, cells[task, model, ALL], _test)}"
    return [
        *(task, model, subset, *tried),
        *(f"{_mean(seeds, _test):.4f}", change, gained),
        f"{_mean(seeds, lambda one: one['right']):.1%}",
        f"{_mean(seeds, lambda one: one['train_nll']):.4f}",
        f"{paired.interval([one['validation_nll'] - one['train_nll'] for one in seeds.values()])}",
        rise,
    ]


def _tried(key, seeds, trained):
    """Share, FLOPs and rate of a row."""
    own = [one for one in trained if _key(one) == key]
    (whole,) = {one["executed_flops"] for one in trained if _key(one) == (*key[:2], ALL)}
    (rate,) = {one["rate"] for one in seeds.values()}
    rates = [one["rate"] for one in own]
    edge = " (edge)" if rate in (min(rates), max(rates)) else ""
    cost = own[0]["executed_flops"] / whole
    return [f"{own[0]['share']:.1%}", f"{cost:.0%}", f"{rate:g}{edge}"]


def _rise(key, seeds, trained):
    (rate,) = {one["rate"] for one in seeds.values()}
    curves = [one["curve_nll"] for one in trained if (_key(one), one["rate"]) == (key, rate)]
    return float(np.mean([curve[-1] - min(curve) for curve in curves]))


def _test(one):
    return one["test_nll"]


def _mean(seeds: Seeds, number: Callable[[dict], float]) -> float:
    return float(np.mean([number(one) for one in seeds.values()]))


def _difference(seeds: Seeds, other: Seeds, number: Callable[[dict], float]) -> paired.Interval:
    return paired.interval([number(seeds[s]) - number(other[s]) for s in seeds])


def gain(cells: Mapping[Key, Seeds], key: Key, than: Key | None = None) -> paired.Interval:
    """Test loss before less that after; or how much more it is than another's.

    Args:
      cells: as of `by_cell`.
      key, than: of it.
    """
    own = _gains(cells, key)
    other = _gains(cells, than) if than else dict.fromkeys(own, 0.0)
    return paired.interval([own[seed] - other[seed] for seed in own])


def _gains(cells, key):
    before = cells[*key[:2], NOTHING]
    return {seed: _test(before[seed]) - _test(one) for seed, one in cells[key].items()}


def gains_table(found: Sequence[dict]) -> str:
    """A row for each task and subset that several models have, a column for each pair of them."""
    cells = by_cell(found)
    models = list(dict.fromkeys(model for _, model, _ in cells))
    pairs = [(more, less) for less, more in itertools.combinations(models, 2)]
    rows = [
        [task, subset, *(_more(cells, task, subset, *pair) for pair in pairs)]
        for task, subset in dict.fromkeys((task, subset) for task, _, subset in cells)
        if subset != NOTHING
    ]
    shown = [row for row in rows if any(row[2:])]
    head = ("task", "trained", *(f"{more} over {less}" for more, less in pairs))
    return markdown.table(head, shown)


def _more(cells, task, subset, model, than):
    keys = [(task, name, subset) for name in (model, than)]
    return f"{gain(cells, *keys)}" if all(key in cells for key in keys) else ""


def drawn(found: Sequence[dict]) -> figure.Figure:
    """Test loss by subset, a panel for each task: means, from the lowest seed to the highest."""
    cells = {key: seeds for key, seeds in by_cell(found).items() if key[2] != NOTHING}
    tasks, models, subsets = (list(dict.fromkeys(part)) for part in zip(*cells, strict=True))
    drawn = plots.blank(figsize=(5.5 * len(tasks), 0.6 * len(subsets) + 1.6))
    axes = drawn.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for (task, model, subset), seeds in cells.items():
        of_model = models.index(model)
        place = subsets.index(subset) + 0.6 * (of_model + 0.5) / len(models) - 0.3
        label = model if subset == ALL else None
        look = plots.style(of_model) | {"ls": "none"}
        _point(axes[tasks.index(task)], seeds, place, look, label)
    for axis, task in zip(axes, tasks, strict=True):
        axis.set(title=task, xlabel="test loss, nats per token of the answers")
        axis.set_yticks(range(len(subsets)), subsets)
        axis.grid(alpha=0.3)
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=8)
    return drawn


def _point(axis, seeds, place, look, label):
    mean, spread = plots.spread([_test(one) for one in seeds.values()])
    axis.errorbar(mean, place, xerr=spread, **look, capsize=3, label=label)
