"""What a grid of cells (`experiments.grid`) answers, as tables in Markdown."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from moe.analysis import cells, fitting, markdown, optima, paired
from moe.analysis.fitting import Coefficients, Fit
from moe.analysis.laws import LAWS

EXPANSION = 16  # E / G of the runs that Krajewski's law, which knows no E, is fitted to
AXES = {
    "executed FLOPs": "executed_flops",
    "ideal FLOPs": "ideal_flops",
    "seconds": "token_seconds",
}  # what may be limited -> its price of a token, a column


class Answer(NamedTuple):
    """A law fitted to a grid."""

    name: str
    fitted: Fit
    rows: list[dict]  # that it was fitted to
    held_out: float  # RMSE on the largest size and the longest runs, fitted to the others, nats
    draws: list[Coefficients]


def rows_for(name: str, rows: list[dict]) -> list[dict]:
    """The rows that a law is about: Clark's of one length, Krajewski's of one expansion."""
    once = cells.once(rows)
    if name == "krajewski":
        return [row for row in once if row["experts"] == EXPANSION * row["granularity"]]
    plain = cells.plain(once)
    if name == "clark":
        longest = min(max(r["steps"] for r in plain if r["d_model"] == d) for d in _widths(plain))
        return [row for row in plain if row["steps"] == longest]
    return plain


def _widths(rows):
    return {row["d_model"] for row in rows}


def answer(name: str, rows: list[dict], draws: int) -> Answer:
    """Fits one law, to all of its rows and without those that it is to foretell."""
    law = LAWS[name]
    mine = rows_for(name, rows)
    beyond = np.array([_is_beyond(row, mine) for row in mine])
    known = fitting.fit(law, cells.of(mine).take(~beyond))
    held_out = fitting.rmse(law, known.coefficients, cells.of(mine).take(beyond))
    fitted = fitting.fit(law, cells.of(mine))
    draw = fitting.of_cells([row["cell"] for row in mine], [row["seed"] for row in mine])
    drawn = fitting.bootstrap(fitted, cells.of(mine), draw, draws)
    return Answer(name, fitted, mine, held_out, drawn)


def _is_beyond(row, rows):
    """Is it of the largest size, or of the longest runs of several lengths?"""
    lengths = {r["steps"] for r in rows}
    longest = len(lengths) > 1 and row["steps"] == max(lengths)
    return longest or row["d_model"] == max(_widths(rows))


def forms_table(answers: Iterable[Answer], noise: float) -> str:
    """How well each law fits and foretells, beside the noise between seeds."""
    rows = [
        (
            one.name,
            str(len(one.rows)),
            str(len(one.fitted.coefficients)),
            f"{one.fitted.rmse:.4f}",
            f"{one.held_out:.4f}",
            f"{noise:.4f}",
        )
        for one in answers
    ]
    head = ("law", "runs", "coefficients", "RMSE", "RMSE held out", "noise of a seed")
    return markdown.table(head, rows)


def coefficients_table(answers: Iterable[Answer]) -> str:
    """Every coefficient with its interval."""
    rows = []
    for one in answers:
        for name, value in one.fitted.coefficients.items():
            low, high = fitting.interval(one.draws, name)
            rows.append((one.name, name, f"{value:.4g}", f"{low:.4g} to {high:.4g}"))
    return markdown.table(("law", "coefficient", "fitted", "95%"), rows)


def priced(rows: list[dict]) -> list[dict]:
    """The rows with the seconds of a token beside its FLOPs."""
    return [
        {**row, "token_seconds": row["step_seconds"] * row["steps"] / row["tokens"]} for row in rows
    ]


def chooser(
    one: Answer, axis: str, budget: float, memory: float = np.inf
) -> Callable[[Coefficients], list[optima.Best]]:
    """The best models of a budget on one axis, as a function of the law's coefficients."""
    rows = priced(one.rows)
    price, total = (optima.lines(rows, field) for field in (AXES[axis], "total"))

    def choose(coefficients: Coefficients) -> list[optima.Best]:
        return optima.over_experts(one.fitted.law, coefficients, budget, price, total, memory)

    return choose


def budgets(one: Answer, axis: str, number: int = 4) -> np.ndarray:
    """Budgets between the shortest run of the smallest size and the longest of the largest."""
    rows = [row for row in priced(one.rows) if row["experts"] == 1]
    costs = [row[AXES[axis]] * row["tokens"] for row in rows]
    return np.geomspace(min(costs) * 2, max(costs), number)


def optima_table(one: Answer, memories: Iterable[float] = (np.inf,)) -> str:
    """The best number of experts by axis, budget and memory, with the interval of its draws."""
    rows = []
    for axis in AXES:
        for budget in budgets(one, axis):
            for memory in memories:
                choose = chooser(one, axis, budget, memory)
                best = min(choose(one.fitted.coefficients), key=lambda found: found.loss)
                _, low, high = optima.best_experts(one.draws, choose)
                edge = " (size at the edge of the grid)" if best.at_edge else ""
                rows.append(
                    (
                        axis,
                        f"{budget:.3g}",
                        "any" if np.isinf(memory) else f"{memory:.3g}",
                        f"{best.experts}, {low} to {high}",
                        f"{best.size:.3g}{edge}",
                        f"{best.tokens:.3g}",
                        f"{best.loss:.3f}",
                    )
                )
    head = ("budget of", "how much", "parameters", "best E, 95%", "N", "D", "loss")
    return markdown.table(head, rows)


def gains_table(rows: list[dict]) -> str:
    """What experts gain over dense of the same size and length, paired by seed, nats."""
    plain = cells.plain(cells.once(rows))
    found = {(r["d_model"], r["experts"], r["steps"], r["seed"]): r["test_nll"] for r in plain}
    lengths = sorted({row["steps"] for row in plain})
    shown = []
    for width in sorted(_widths(plain)):
        for experts in sorted({r["experts"] for r in plain if r["d_model"] == width} - {1}):
            gains = [_gain(found, width, experts, steps) for steps in lengths]
            shown.append((f"{width:g}", f"{experts:g}", *gains))
    return markdown.table(("D", "E", *(f"{steps:g} steps" for steps in lengths)), shown)


def _gain(found, width, experts, steps):
    seeds = {s for (d, e, t, s) in found if (d, e, t) == (width, experts, steps)}
    pairs = [
        found[width, 1, steps, s] - found[width, experts, steps, s]
        for s in seeds
        if (width, 1, steps, s) in found
    ]
    return str(paired.interval(pairs)) if pairs else ""


def repeated_table(rows: list[dict]) -> str:
    """The loss of the same number of tokens when their text is read once or several times."""
    again = [row for row in rows if row["unique_tokens"] < row["tokens"]]
    steps = {row["steps"] for row in again}
    widths = _widths(again)
    like = [r for r in cells.plain(rows) if r["steps"] in steps and r["d_model"] in widths]
    numbers = sorted({row["experts"] for row in again})
    shown = []
    for times in sorted({round(row["tokens"] / row["unique_tokens"]) for row in like}):
        of_times = [r for r in like if round(r["tokens"] / r["unique_tokens"]) == times]
        losses: dict[float, dict] = {e: {} for e in numbers}
        for r in of_times:
            if r["experts"] in losses:
                losses[r["experts"]][r["seed"]] = r["test_nll"]
        dense = losses[1]
        cell = [f"{np.mean(list(dense.values())):.4f}"]
        for e in numbers[1:]:
            pairs = [dense[s] - losses[e][s] for s in losses[e] if s in dense]
            cell.append(str(paired.interval(pairs)))
        shown.append((f"{times}", *cell))
    head = ("times read", "dense", *(f"{e:g} experts gain" for e in numbers[1:]))
    return markdown.table(head, shown)
