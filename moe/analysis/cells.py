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


def noise(rows: Iterable[dict]) -> float:
    """The standard deviation of a loss between seeds of one cell, nats; seeds in common cancel.

    A seed's data order and shared weights move all cells alike, so what a seed does on average is
    taken off first: what is left is the noise that no law can predict.
    """
    found: dict[tuple, dict[float, float]] = {}
    for row in rows:
        found.setdefault((row["cell"], row["steps"]), {})[row["seed"]] = row["test_nll"]
    pairs = [by_seed for by_seed in found.values() if {0, 1} <= by_seed.keys()]
    differences = np.array([by_seed[1] - by_seed[0] for by_seed in pairs])
    return float(differences.std(ddof=1) / np.sqrt(2))
