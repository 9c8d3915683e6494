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


OPTIMUM = ("budget of", "how much", "parameters", "best E, 95%", "N", "tokens", "loss", "limit")


class Answer(NamedTuple):
    """A law fitted to a grid."""

    name: str
    fitted: Fit
    rows: list[dict]  # that it was fitted to
    held_out: float  # RMSE on the largest size and the longest runs, fitted to the others, nats
    draws: list[Coefficients]


def rows_for(name: str, rows: list[dict]) -> list[dict]:
    """The rows that a law is about: Clark's of one length, Krajewski's of one expansion."""
    once = cells.once(cells.centred(rows))
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
    beyond = _beyond(mine)
    known = fitting.fit(law, cells.of(mine).take(~beyond))
    held_out = fitting.rmse(law, known.coefficients, cells.of(mine).take(beyond))
    fitted = fitting.fit(law, cells.of(mine))
    draw = fitting.of_cells([row["cell"] for row in mine], [row["seed"] for row in mine])
    drawn = fitting.bootstrap(fitted, cells.of(mine), draw, draws)
    return Answer(name, fitted, mine, held_out, drawn)


def _beyond(rows):
    """Which rows are of the largest size, or of the longest runs of several lengths?"""
    steps = np.array([row["steps"] for row in rows])
    widths = np.array([row["d_model"] for row in rows])
    longest = (steps == steps.max()) & (steps.min() < steps.max())
    return longest | (widths == widths.max())


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
            bound = " (at a bound of the search)" if _at_bound(one, name, low, high) else ""
            rows.append((one.name, name, f"{value:.4g}", f"{low:.4g} to {high:.4g}{bound}"))
    return markdown.table(("law", "coefficient", "fitted", "95%"), rows)


def foretold_table(answers: Iterable[Answer], rows: list[dict], noise: float) -> str:
    """What laws of size, experts and tokens say of runs, beside what came out, if it is known.

    Args:
      answers: laws fitted to other runs.
      rows: the runs; a loss that is not known is NaN.
      noise: the standard deviation of a loss between seeds, nats.
    """
    head = (
        "law",
        "cell",
        "tokens",
        "foretold",
        "95% of the law",
        "and of a seed",
        "came",
        "off by",
    )
    shown = []
    for one in answers:
        for row in rows:
            at = cells.of([row])
            (said,) = fitting.predict(one.fitted.law, one.fitted.coefficients, at)
            drawn = [fitting.predict(one.fitted.law, draw, at)[0] for draw in one.draws]
            low, high = np.quantile(drawn, (0.025, 0.975))
            own = 1.96 * noise
            wide = said - np.hypot(said - low, own), said + np.hypot(high - said, own)
            came = row["test_nll"]
            shown.append((
                one.name, row["cell"], f"{row['tokens']:.3g}", f"{said:.4f}",
                f"{low:.4f} to {high:.4f}", f"{wide[0]:.4f} to {wide[1]:.4f}",
                "" if np.isnan(came) else f"{came:.4f}",
                "" if np.isnan(came) else f"{came - said:+.4f}",
            ))  # fmt: skip
    return markdown.table(head, shown)


def _at_bound(one, name, low, high):
    """Does the interval end where the search does? An amplitude of a term is not below zero."""
    if name not in one.fitted.law.exponents:
        return not one.fitted.law.either_sign and low <= 0
    search = one.fitted.law.exponents[name]
    width = 1e-3 * (search.high - search.low)
    return low < search.low + width or high > search.high - width


def priced(rows: list[dict]) -> list[dict]:
    """The rows with the seconds of a token beside its FLOPs."""
    return [
        {**row, "token_seconds": row["step_seconds"] * row["steps"] / row["tokens"]} for row in rows
    ]


def chooser(
    one: Answer, axis: str, amount: float, memory: float = np.inf, text: float = np.inf
) -> Callable[[Coefficients], list[optima.Best]]:
    """The best models of a budget on one axis, as a function of the law's coefficients.

    Args:
      one: the law.
      axis: of `AXES`.
      amount: of FLOPs or seconds.
      memory: the most parameters.
      text: the tokens that there are.
    """
    rows = priced(one.rows)
    price, total = (optima.lines(rows, field) for field in (AXES[axis], "total"))
    longest = max(row["tokens"] for row in rows)
    budget = optima.Budget(amount, price, total, memory, longest, text)
    return lambda coefficients: optima.over_experts(one.fitted.law, coefficients, budget)


def budgets(one: Answer, axis: str, number: int = 4) -> np.ndarray:
    """Budgets between the shortest run of the smallest size and the longest of the largest."""
    rows = [row for row in priced(one.rows) if row["experts"] == 1]
    costs = [row[AXES[axis]] * row["tokens"] for row in rows]
    return np.geomspace(min(costs) * 2, max(costs), number)


def optima_table(one: Answer, memories: Iterable[float] = (np.inf,)) -> str:
    """The best number of experts by axis, budget and memory, with the interval of its draws."""
    rows = [
        _optimum(one, axis, budget, memory)
        for axis in AXES
        for budget in budgets(one, axis)
        for memory in memories
    ]
    return markdown.table(OPTIMUM, rows)


def choice_table(one: Answer, share: float, memory: float = np.inf, text: float = np.inf) -> str:
    """The best number of experts on each axis at one budget.

    Args:
      one: the law.
      share: of what the longest dense run of the largest size costs, on each axis.
      memory, text: see `chooser`.
    """
    rows = [_optimum(one, axis, share * budgets(one, axis)[-1], memory, text) for axis in AXES]
    return markdown.table(OPTIMUM, rows)


def _optimum(one, axis, budget, memory, text=np.inf):
    """A row: the best model of a budget."""
    choose = chooser(one, axis, budget, memory, text)
    tried = choose(one.fitted.coefficients)
    best = min(tried, key=lambda found: found.loss)
    most = "most experts tried" if best.experts == max(found.experts for found in tried) else ""
    _, low, high = optima.best_experts(one.draws, choose)
    return (
        axis,
        f"{budget:.3g}",
        "any" if np.isinf(memory) else f"{memory:.3g}",
        f"{best.experts}, {low} to {high}",
        f"{best.size:.3g}",
        f"{best.tokens:.3g}",
        f"{best.loss:.3f}",
        ", ".join(filter(None, (best.limit, most))),
    )


def gains_table(rows: list[dict]) -> str:
    """What experts gain over dense of the same size and length, nats; see `gains`."""
    plain = cells.plain(cells.once(rows))
    found = gains(plain)
    lengths = sorted({row["steps"] for row in plain})
    shown = [
        (f"{width:g}", f"{experts:g}", *(str(found.get((width, experts, n), "")) for n in lengths))
        for width, experts in sorted({key[:2] for key in found})
    ]
    return markdown.table(("width", "E", *(f"{steps:g} steps" for steps in lengths)), shown)


def gains(rows: list[dict]) -> dict[tuple[float, float, float], paired.Interval]:
    """(width, experts, steps) -> the loss of dense less theirs, nats.

    Paired by seed, of the seeds that all cells have; the spread over seeds is that of all cells of
    this length together (`paired.seeds_half`).

    Args:
      rows: of which a width, a number of experts and a length name one cell.
    """
    losses = _losses(rows)
    found = {}
    for width, steps, experts in losses:
        dense = (width, steps, 1)
        if experts > 1 and dense in losses:
            found[width, experts, steps] = _gain(losses, dense, (width, steps, experts))
    return found


def _losses(rows):
    """(width, steps, experts) -> the losses of the seeds that all of them have."""
    found: dict[tuple, dict[float, float]] = {}
    for r in rows:
        found.setdefault(_key(r), {})[r["seed"]] = r["test_nll"]
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in found.values())))
    return {key: [by_seed[seed] for seed in seeds] for key, by_seed in found.items()}


def _gain(losses, dense, experts):
    mean = float(np.mean(losses[dense]) - np.mean(losses[experts]))
    named = {str(key): values for key, values in losses.items() if key[1] == dense[1]}
    return paired.Interval(mean, paired.seeds_half(named, str(dense), str(experts)))


def repeated_table(rows: list[dict]) -> str:
    """What experts gain when as many tokens are the same text, read once or several times."""
    compared = {_key(row) for row in rows if _times(row) > 1}
    numbers = sorted({experts for *_, experts in compared} - {1})
    plain = cells.plain(rows)
    shown = []
    for width, steps in sorted({key[:2] for key in compared}):
        for times in sorted({_times(r) for r in plain if _key(r)[:2] == (width, steps)}):
            read = [row for row in plain if _times(row) == times]
            found = gains(read)
            dense = [row["test_nll"] for row in read if _key(row) == (width, steps, 1)]
            loss = f"{np.mean(dense):.4f}" if dense else ""
            of_numbers = (str(found.get((width, number, steps), "")) for number in numbers)
            shown.append((f"{width:g}", f"{times}", loss, *of_numbers))
    head = ("width", "times read", "dense", *(f"{e:g} experts gain" for e in numbers))
    return markdown.table(head, shown)


def _key(row):
    return row["d_model"], row["steps"], row["experts"]


def _times(row):
    return round(row["tokens"] / row["unique_tokens"])
