"""One rule for the learning rates of a grid, from pilots at several rates.

rate = a (width / 64)^b E^g: the best rates of the pilots, each the lowest point of a parabola over
the logarithm of the rate, fitted by least squares in logarithms. E is 1 for dense models.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moe.analysis import markdown
from moe.errors import UserError

WIDTH = 64


class Rule(NamedTuple):
    """Coefficients of the rule."""

    rate: float  # of a dense model of width 64
    by_width: float
    by_experts: float

    def of(self, width: float, experts: float) -> float:
        """The learning rate of a model."""
        return self.rate * (width / WIDTH) ** self.by_width * experts**self.by_experts


def best(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The lowest point of the parabola through the lowest loss and its neighbours.

    Raises:
      UserError: if the lowest loss is at an edge, so that nobody knows how low it would go.
    """
    order = np.argsort(rates)
    logs, loss = np.log(np.asarray(rates, float)[order]), np.asarray(losses, float)[order]
    least = int(loss.argmin())
    if least in (0, len(loss) - 1):
        raise UserError(f"the lowest loss is at {math.exp(logs[least]):g}, an edge of the pilots")
    a, b, _ = np.polyfit(logs[least - 1 : least + 2], loss[least - 1 : least + 2], 2)
    return math.exp(-b / (2 * a))


def minima(rows: Sequence[dict]) -> dict[tuple[float, float], float]:
    """The best rate by (width, E)."""
    models = sorted({(row["d_model"], row["experts"]) for row in rows})
    found = {}
    for model in models:
        own = [row for row in rows if (row["d_model"], row["experts"]) == model]
        found[model] = best(*zip(*((r["learning_rate"], r["test_nll"]) for r in own), strict=True))
    return found


def rule(rows: Sequence[dict]) -> Rule:
    """The rule that these pilots give, rows of the grid's cells.csv."""
    found = minima(rows)
    factors = [(1.0, math.log(width / WIDTH), math.log(experts)) for width, experts in found]
    logs = [math.log(rate) for rate in found.values()]
    (first, *powers), *_ = np.linalg.lstsq(np.array(factors), np.array(logs), rcond=None)
    return Rule(math.exp(first), *map(float, powers))


def table(rows: Sequence[dict]) -> str:
    """The best rates beside those of the rule."""
    ours = rule(rows)
    shown = [
        (f"{width:g}", f"{experts:g}", f"{rate:.4f}", f"{ours.of(width, experts):.4f}")
        for (width, experts), rate in minima(rows).items()
    ]
    head = ("width", "experts", "best rate", "rule's rate")
    said = f"rate = {ours.rate:.4f} (width / {WIDTH})^{ours.by_width:.2f} E^{ours.by_experts:.3f}"
    return f"{markdown.table(head, shown)}\n\n{said}"
