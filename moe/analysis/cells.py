"""The table of a grid (`experiments.grid`), read for fitting."""

import csv
import pathlib
from collections.abc import Iterable

import numpy as np

from moe.analysis.laws import Cells

WORDS = ("part", "cell")  # columns that are no numbers


def read(path: pathlib.Path | str) -> list[dict]:
    """The rows of cells.csv; what was not measured is NaN."""
    with open(path, newline="") as file:
        return [
            {key: value if key in WORDS else float(value or "nan") for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def once(rows: Iterable[dict]) -> list[dict]:
    """The rows whose text was read once."""
    return [row for row in rows if row["unique_tokens"] == row["tokens"]]


def plain(rows: Iterable[dict]) -> list[dict]:
    """The rows whose experts are as wide as the dense feed-forward."""
    return [row for row in rows if row["granularity"] == 1]


def of(rows: list[dict]) -> Cells:
    """What laws read of the rows."""
    fields = {"loss": "test_nll"}
    return Cells(*(np.array([row[fields.get(f, f)] for row in rows]) for f in Cells._fields))


def centred(rows: list[dict]) -> list[dict]:
    """The rows without what a seed does to all cells: no law has a term for that.

    The text's order and the shared initial weights follow the seed and move all cells alike. What a
    seed does is its mean difference from the first seed over the cells that both have; what all
    seeds do on average stays. So what is fitted is about these seeds.
    """
    found = _by_cell(rows)
    first = min(row["seed"] for row in rows)
    effects = {first: 0.0}
    for seed in {row["seed"] for row in rows} - {first}:
        both = [losses for losses in found.values() if {first, seed} <= losses.keys()]
        pairs = [losses[seed] - losses[first] for losses in both]
        effects[seed] = float(np.mean(pairs)) if pairs else 0.0
    mean = np.mean(list(effects.values()))
    return [{**row, "test_nll": row["test_nll"] - effects[row["seed"]] + mean} for row in rows]


def noise(rows: list[dict]) -> float:
    """The standard deviation of a centred loss between seeds of one cell, nats; NaN of one seed."""
    found = [list(losses.values()) for losses in _by_cell(centred(rows)).values()]
    several = [np.array(losses) for losses in found if len(losses) > 1]
    freedom = sum(len(losses) - 1 for losses in several) - len({row["seed"] for row in rows}) + 1
    squares = sum(float(((losses - losses.mean()) ** 2).sum()) for losses in several)
    return float(np.sqrt(squares / freedom)) if freedom > 0 else float("nan")


def _by_cell(rows):
    """(cell, steps) -> seed -> loss."""
    found: dict[tuple, dict[float, float]] = {}
    for row in rows:
        found.setdefault((row["cell"], row["steps"]), {})[row["seed"]] = row["test_nll"]
    return found
