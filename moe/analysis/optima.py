"""The best number of experts, as a law says, for a budget of FLOPs or seconds, and of memory.

What a token costs, and how many parameters a model has, is read off the cells of the grid: of each
number of experts a line in logarithms between the sizes there are.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from moe.analysis import fitting
from moe.analysis.fitting import Coefficients
from moe.analysis.laws import Cells, Law

SIZES = 200  # tried between the smallest and the largest of the grid


class Best(NamedTuple):
    """The best model with so many experts that a budget trains."""

    experts: int
    loss: float  # nats
    size: float  # N
    tokens: float  # D
    limit: str  # what keeps it from being an optimum inside the grid; "" if nothing does


class Lines(NamedTuple):
    """Something of a cell that follows from its size and its experts."""

    of: dict[int, tuple[np.ndarray, np.ndarray]]  # E -> its sizes, rising, and the values

    def at(self, experts: int, size: np.ndarray) -> np.ndarray:
        """The values at these sizes."""
        sizes, values = self.of[experts]
        return np.exp(np.interp(np.log(size), np.log(sizes), np.log(values)))


def lines(rows: Iterable[dict], field: str) -> Lines:
    """Medians of a field over the rows of each size and number of experts."""
    found: dict[int, dict[float, list[float]]] = {}
    for row in rows:
        found.setdefault(row["experts"], {}).setdefault(row["size"], []).append(row[field])
    return Lines(
        {
            experts: (
                np.array(sorted(by_size)),
                np.array([np.median(by_size[size]) for size in sorted(by_size)]),
            )
            for experts, by_size in found.items()
        }
    )


class Budget(NamedTuple):
    """What a model may cost."""

    amount: float  # FLOPs or seconds of a whole run
    price: Lines  # of a token, in the same unit
    total: Lines  # parameters
    memory: float = np.inf  # the largest number of parameters
    longest: float = np.inf  # tokens of the longest run that the law was fitted to
    text: float = np.inf  # tokens that there are; each is read once


def best(law: Law, coefficients: Coefficients, experts: int, budget: Budget) -> Best | None:
    """The size with the least loss of those that the budget trains and the memory holds.

    Args:
      law, coefficients: of the loss.
      experts: E.
      budget: what it may cost.

    Returns:
      None if no size is small enough.
    """
    sizes, _ = budget.price.of[experts]
    size = np.geomspace(sizes[0], sizes[-1], SIZES)
    parameters = budget.total.at(experts, size)
    fits = parameters <= budget.memory
    if not fits.any():
        return None
    size = size[fits]
    tokens = np.minimum(budget.amount / budget.price.at(experts, size), budget.text)
    ones = np.ones_like(size)
    cells = Cells(ones, size, parameters[fits], tokens, experts * ones, ones, ones)
    loss = fitting.predict(law, coefficients, cells)
    i = int(loss.argmin())
    limit = _limit(i, len(size), float(tokens[i]), budget)
    return Best(int(experts), float(loss[i]), float(size[i]), float(tokens[i]), limit)


def _limit(i, fitting_sizes, tokens, budget):
    """Why this is a bound and no optimum."""
    if tokens > budget.longest:
        return "more tokens than any run"
    if tokens > 0.9 * budget.text:  # or a little less, since sizes are tried in steps
        return "text"
    if i == 0:
        return "smallest size"
    if i < fitting_sizes - 1:
        return ""
    return "largest size" if fitting_sizes == SIZES else "memory"


def over_experts(law: Law, coefficients: Coefficients, budget: Budget) -> list[Best]:
    """The best model for every number of experts that the grid has at several sizes."""
    several = sorted(number for number, (sizes, _) in budget.price.of.items() if len(sizes) > 1)
    found = [best(law, coefficients, experts, budget) for experts in several]
    return [one for one in found if one is not None]


def best_experts(draws: list[Coefficients], choose: Callable[[Coefficients], list[Best]]) -> tuple:
    """The middle and the central 95% of the best E over draws of the coefficients.

    Args:
      draws: of `fitting.bootstrap`.
      choose: `over_experts` for everything but the coefficients.
    """
    chosen = [min(choose(draw), key=lambda one: one.loss).experts for draw in draws]
    low, middle, high = np.quantile(chosen, [0.025, 0.5, 0.975], method="nearest")
    return int(middle), int(low), int(high)
