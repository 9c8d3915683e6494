"""What others measured, to test our fits against: the public runs of Clark et al. 2022.

Their curves lie in `data/curves.csv.gz` of google-deepmind/scaling_laws_for_routing (CC BY 4.0,
DeepMind); this repository has no copy.
"""

import csv
import gzip
import pathlib

import numpy as np
import tqdm

from moe.analysis import fitting
from moe.analysis.fitting import Coefficients
from moe.analysis.laws import Cells, Law
from moe.errors import UserError

ROUTERS = {"S-BASE": "S-Base", "RL-R": "RL-R", "HASH": "Hash"}  # the paper's name -> the file's
_SELECTED = {"k": 1.0, "routing_frequency": 0.5, "seed": 42.0}  # those of the paper's table 3

_COLUMNS = {
    *_SELECTED,
    *("hyper_id", "step", "router_type", "num_experts", "loss_validation"),
    *("dense_parameter_count", "total_parameter_count"),
}

CLARK: dict[str, Coefficients] = {
    "S-BASE": {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104, "start": 1.847, "most": 314.478},
    "RL-R": {"a": -0.083, "b": -0.126, "c": 0.012, "d": 1.111, "start": 1.880, "most": 469.982},
    "HASH": {"a": -0.087, "b": -0.136, "c": 0.012, "d": 1.157, "start": 4.175, "most": 477.741},
}


def clark(path: pathlib.Path | str) -> dict[str, Cells]:
    """The last evaluations of the runs of each router, the dense ones with them.

    Raises:
      UserError: if the file is not theirs.
    """
    last: dict[str, dict[str, str]] = {}
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            if lacking := sorted(_COLUMNS - set(row)):
                raise UserError(
                    f"{path} lacks the columns {', '.join(lacking)} of Clark's curves.csv.gz: name"
                    " that file"
                )
            known = last.setdefault(row["hyper_id"], row)
            if float(row["step"]) >= float(known["step"]):
                last[row["hyper_id"]] = row
    rows = [r for r in last.values() if all(float(r[key]) == v for key, v in _SELECTED.items())]
    return {
        name: _cells([r for r in rows if r["router_type"] in (kind, "Dense")])
        for name, kind in ROUTERS.items()
    }


def _cells(rows):
    def field(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    ones = np.ones(len(rows))
    return Cells(
        loss=field("loss_validation"),
        size=field("dense_parameter_count"),
        total=field("total_parameter_count"),
        tokens=130e9 * ones,
        experts=field("num_experts"),
        k=ones,
        granularity=ones,
    )


TRUTHS: dict[str, Coefficients] = {  # published, or near it
    "clark": CLARK["S-BASE"],
    "chinchilla": {"a": 406.4, "b": 410.7, "c": 1.69, "alpha": 0.34, "beta": 0.28},
    "krajewski": {
        "a": 18.1, "g": 2.1, "b": 30.8, "c": 0.47, "alpha": 0.115, "beta": 0.147, "gamma": 0.58,
    },
    "ludziejewski": {
        "a": 35.91, "b": 35.98, "c": 1.3637, "alpha": -0.1889, "gamma": 0.0098, "delta": -0.2285,
        "beta": -0.1775, "zeta": -0.0259, "omega": 0.5529, "start": 2.0732, "most": 290.4521,
    },
    "kaplan": {  # theirs is dense: what experts do is made up
        "a": 8.8e13 ** (0.076 / 0.095), "b": 5.4e13, "alpha": -0.076 / 0.095, "beta": -1.0,
        "power": 0.095, "gamma": 0.005, "delta": -0.5, "zeta": -0.01, "omega": 0.3,
        "start": 2.0732, "most": 290.4521,
    },
    "abnar": {
        "a": 16612.5, "b": 5455.67, "c": 0.4598, "d": 17.26, "e": 0.94, "alpha": 0.5962,
        "beta": 0.3954, "lambda": -0.1666, "delta": 0.1603, "gamma": 0.1595,
    },
}  # fmt: skip


def synthetic(law: Law, truth: Coefficients, seed: int, runs: int = 160) -> Cells:
    """Runs of many sizes, experts and lengths, whose loss is the law's and 0.2% of noise."""
    rng = np.random.default_rng(seed)
    experts = 2.0 ** rng.integers(0, 7, runs)
    size = 10 ** rng.uniform(7, 9.5, runs)
    cells = Cells(
        loss=np.ones(runs),
        size=size,
        total=size * (1 + 0.6 * (experts - 1)),
        tokens=10 ** rng.uniform(8.5, 11, runs),
        experts=experts,
        k=np.ones(runs),
        granularity=2.0 ** rng.integers(0, 5, runs),
    )
    noise = 1 + 0.002 * rng.normal(size=runs)
    return cells._replace(loss=fitting.predict(law, truth, cells) * noise)


def coverage(law: Law, truth: Coefficients, number: int, draws: int) -> dict[str, int]:
    """In how many of so many synthetic studies each coefficient's interval holds the truth."""
    inside = dict.fromkeys(truth, 0)
    for seed in tqdm.trange(number, desc="studies"):
        cells = synthetic(law, truth, seed)
        fitted = fitting.fit(law, cells)
        draw = fitting.of_cells(range(len(cells.loss)))
        drawn = fitting.bootstrap(fitted, cells, draw, draws, quiet=True)
        for name, true in truth.items():
            low, high = fitting.interval(drawn, name)
            inside[name] += low <= true <= high
    return inside
