"""How fast and how evenly models write, over the texts of a batch and the number of experts.

Every record is a dictionary with model, seed and batch; differences and ratios are within a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import markdown, paired, plots

DENSE = "dense"
Runs = dict[int, dict]  # seed -> its record


def spread(seconds_RT: np.ndarray, batch: int) -> dict[str, float]:
    """How fast steps are, and how unlike.

    Args:
      seconds_RT: of T steps in each of R rounds, in which they do the same.
      batch: tokens that a step makes.

    Returns:
      seconds: the median. p95, p99: percentiles over the median. repeated_p95: the same of each
      step's median over rounds, from which most of what is not the step's own is gone.
    """
    median = np.median(seconds_RT)
    own_T = np.median(seconds_RT, axis=0)
    return {
        "seconds": float(median),
        "tokens_per_second": float(batch / median),
        "p95": float(np.percentile(seconds_RT, 95) / median),
        "p99": float(np.percentile(seconds_RT, 99) / median),
        "repeated_p95": float(np.percentile(own_T, 95) / np.median(own_T)),
    }


def follows(seconds_RT: np.ndarray, turn_T: np.ndarray) -> float | None:
    """The correlation of a step's time, its median over rounds, with its turns; None: all alike."""
    if np.ptp(turn_T) == 0:
        return None
    return float(np.corrcoef(np.median(seconds_RT, axis=0), turn_T)[0, 1])


def by_model(found: Iterable[dict]) -> dict[tuple[int, str], Runs]:
    """(batch, model) -> seed -> its record."""
    table: dict[tuple[int, str], Runs] = {}
    for one in found:
        table.setdefault((one["batch"], one["model"]), {})[one["seed"]] = one
    return table


def table(found: list[dict]) -> str:
    """What the models are, how fast and evenly they write, what that asks of experts.

    Args:
      found: of `experiments.serving.measured`.
    """
    runs = by_model(found)
    first = min(batch for batch, _ in runs)
    models = {name: own for (batch, name), own in runs.items() if batch == first}
    parts = [
        _table(MODELS, [(own, models[DENSE], own) for own in models.values()]),
        _table(SPEED, [_with_others(runs, key) for key in runs]),
        _table(LOADS, [_with_others(runs, key) for key in runs if key[1] != DENSE]),
    ]
    return "\n\n".join([*parts, LEGEND])


LEGEND = (
    "test nats: of the model as it writes, without drops. Δ: paired differences, ± the 95% interval"
    " over seeds. tokens/s: texts at once over the median step. of dense, of whole: tokens/s over"
    " that of dense, and of the model before it was pruned. p95, p99: of all steps, over the"
    " median. repeated p95: of each step's median over rounds that do the same, over the median;"
    " what of it dense has is the machine's. turns r: correlation of that median with the turns of"
    " a step's loops; empty where all steps take as many. Of a step: tokens an expert, the largest"
    " over their mean, their standard deviation over steps by the mean (of many by chance the root"
    " of 1/mean), the share of experts that it chose, whose weights it needs (with as many choices"
    " as experts this program reads all). unused: experts that no step chose. turns: of the loops,"
    " in which alone a step's work can vary, their mean and 95th percentile. device: tokens of"
    " the busiest of several devices over their mean, which others would wait for, with experts in"
    " turn; even: placed by their use of validation text; counted, not timed, and empty where"
    " devices do not divide the experts."
)

# (the model's runs, dense's, those of the model that was pruned) -> a cell
Column = Callable[[Runs, Runs, Runs], str]


def _mean(form: str, *path: str) -> Column:
    """The mean of a field over seeds; empty if it is not there."""

    def cell(own: Runs, dense: Runs, whole: Runs) -> str:
        del dense, whole
        values = _values(own, *path)
        return f"{np.mean(values):{form}}" if values else ""

    return cell


def _values(own, *path):
    found = [_at(one, path) for one in own.values()]
    return [value for value in found if value is not None]


def _at(one, path):
    value: Any = one
    for name in path:
        value = value.get(name)
    return value


def _less_dense(key: str) -> Column:
    """The paired difference from dense."""

    def cell(own: Runs, dense: Runs, whole: Runs) -> str:
        del whole
        if own is dense:
            return ""
        return f"{paired.interval([own[s][key] - dense[s][key] for s in own])}"

    return cell


def _over(own: Runs, other: Runs) -> str:
    """The paired ratio of tokens a second; empty of itself."""
    if own is other:
        return ""
    key = "tokens_per_second"
    ratio = paired.interval([own[s][key] / other[s][key] for s in own])
    return f"{ratio.mean:.0%}" + (f" ± {ratio.half:.0%}" if ratio.half == ratio.half else "")


def _placed(own: Runs, dense: Runs, whole: Runs) -> str:
    """What an even placement changes."""
    del dense, whole
    where = [one["busiest_device"] for one in own.values()]
    if not all(where):
        return ""
    return f"{paired.interval([one['even'] - one['in_turn'] for one in where])}"


MODELS: dict[str, Column] = {
    "model": lambda own, dense, whole: _first(own)["model"],
    "experts": _mean(".0f", "experts"),
    "parameters": _mean(",.0f", "total"),
    "of a token": _mean(",.0f", "active"),
    "test nats": _mean(".4f", "nll"),
    "Δ from dense (95%)": _less_dense("nll"),
}
PLACE: dict[str, Column] = {
    "texts": lambda own, dense, whole: f"{_first(own)['batch']}",
    "model": MODELS["model"],
}
SPEED: dict[str, Column] = PLACE | {
    "tokens/s": _mean(",.0f", "tokens_per_second"),
    "of dense": lambda own, dense, whole: _over(own, dense),
    "of whole": lambda own, dense, whole: _over(own, whole),
    "p95": _mean(".3f", "p95"),
    "Δ p95 from dense (95%)": _less_dense("p95"),
    "p99": _mean(".3f", "p99"),
    "repeated p95": _mean(".3f", "repeated_p95"),
    "its Δ from dense (95%)": _less_dense("repeated_p95"),
    "turns r": _mean("+.2f", "follows"),
}
LOADS: dict[str, Column] = PLACE | {
    "tokens an expert": _mean(".2f", "mean"),
    "largest": _mean(".2f", "largest"),
    "over steps": _mean(".2f", "varies"),
    "chosen": _mean(".0%", "read"),
    "unused": _mean(".0%", "unused"),
    "turns": _mean(".1f", "turns"),
    "turns, p95": _mean(".1f", "turns_p95"),
    "device": _mean(".2f", "busiest_device", "in_turn"),
    "device, even": _mean(".2f", "busiest_device", "even"),
    "Δ (95%)": _placed,
}


def _table(columns, models):
    rows = ([cell(*runs) for cell in columns.values()] for runs in models)
    return markdown.table(columns, rows)


def _with_others(runs, key):
    """The runs of a model, of dense, and of the model that was pruned, all of this batch."""
    batch, name = key
    return runs[key], runs[batch, DENSE], runs[batch, _first(runs[key])["of"]]


def _first(own):
    return next(iter(own.values()))


def drawn(found: list[dict]) -> figure.Figure:
    """Tokens a second, the spread of steps, and the busiest expert, over texts written at once."""
    runs = by_model(found)
    panels = {
        "tokens a second": "tokens_per_second",
        "step time: p95 over median": "p95",
        "tokens of the busiest expert over the mean": "largest",
    }
    made = plots.blank(figsize=(15, 4.6))
    for axis, (label, key) in zip(made.subplots(1, 3), panels.items(), strict=True):
        _lines(axis, runs, key)
        plots.doubling(axis)
        axis.set(xlabel="texts at once", ylabel=label)
        axis.grid(alpha=0.3)
    made.axes[0].set_yscale("log")
    made.axes[0].legend(fontsize=8)
    return made


def _lines(axis, runs, key):
    """A colour for each model that was trained, a line for each size of it; bars over seeds."""
    sizes: dict[str, list[str]] = {}
    for (_, name), own in runs.items():
        known = sizes.setdefault(_first(own)["of"], [])
        known += [name] * (name not in known)
    for i, names in enumerate(sizes.values()):
        for j, name in enumerate(names):
            own = {batch: one for (batch, model), one in runs.items() if model == name}
            style = plots.style(3 * i + j) | {"color": f"C{i}"}
            _line(axis, own, key, ms=4, capsize=2, label=name, **style)


def _line(axis, own, key, **style):
    """The mean over seeds of each batch that has the number, with its interval."""
    points = {batch: _values(one, key) for batch, one in own.items()}
    means = {batch: paired.interval(values) for batch, values in points.items() if values}
    halves = np.nan_to_num([mean.half for mean in means.values()])
    axis.errorbar(list(means), [mean.mean for mean in means.values()], halves, **style)
