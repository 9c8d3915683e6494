"""Fits laws (`analysis.laws`) to runs, with intervals.

Variable projection (Golub and Pereyra 1973): for given exponents the best amplitudes follow by
linear least squares, so only exponents are searched, from many starts. Nothing is read off
parabolas at equal FLOPs, which are biased even without noise.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tqdm
from scipy import optimize
from scipy.stats import qmc

from moe.analysis.laws import Cells, Law

Coefficients = dict[str, float]
STARTS = 32


class Fit(NamedTuple):
    """A law with its coefficients, and how far from the runs it is."""

    law: Law
    coefficients: Coefficients  # exponents and amplitudes by name
    rmse: float  # nats, over the runs it was fitted to


def predict(law: Law, coefficients: Coefficients, cells: Cells) -> np.ndarray:
    """The loss of each run as the law says, nats."""
    amplitudes = np.array([coefficients[name] for name in law.amplitudes])
    said = np.stack(law.columns(coefficients, cells), axis=1) @ amplitudes
    return law.link.back(said, coefficients)


def rmse(law: Law, coefficients: Coefficients, cells: Cells) -> float:
    """Root mean square of what the law misses, nats."""
    return float(np.sqrt(np.mean((predict(law, coefficients, cells) - cells.loss) ** 2)))


def fit(law: Law, cells: Cells, starts: Iterable[Coefficients] = (), seed: int = 0) -> Fit:
    """The least squares fit, in nats, or in log10 of the loss where the law is of that.

    Args:
      law: the form.
      cells: the runs.
      starts: exponents to begin with; none for `STARTS` spread over the ranges of the law.
      seed: of where those lie.
    """
    begin = [_pack(law, start) for start in starts] or _spread(law, seed)
    low, high = _bounds(law)

    def missed(x: np.ndarray) -> np.ndarray:
        return _project(law, _unpack(law, x), cells)[1]

    found = [
        optimize.least_squares(missed, np.clip(x, low, high), bounds=(low, high)) for x in begin
    ]
    best = min(found, key=lambda one: one.cost)
    exponents = _unpack(law, best.x)
    amplitudes = _project(law, exponents, cells)[0]
    coefficients = exponents | dict(zip(law.amplitudes, amplitudes.tolist(), strict=True))
    return Fit(law, coefficients, rmse(law, coefficients, cells))


def bootstrap(
    fitted: Fit,
    cells: Cells,
    draw: Callable[[np.random.Generator], np.ndarray],
    draws: int,
    seed: int = 0,
    quiet: bool = False,
) -> list[Coefficients]:
    """The coefficients of as many fits to runs drawn anew.

    Args:
      fitted: of all the runs; every fit begins at its exponents.
      cells: the runs.
      draw: the numbers of the runs of one draw, such as `of_cells(names)`.
      draws: how many.
      seed: of the draws.
      quiet: without a progress bar.
    """
    rng = np.random.default_rng(seed)
    bar = tqdm.trange(draws, desc="bootstrap", disable=quiet)
    return [fit(fitted.law, cells.take(draw(rng)), [fitted.coefficients]).coefficients for _ in bar]


def of_cells(names: Iterable, seeds: Iterable = ()) -> Callable[[np.random.Generator], np.ndarray]:
    """Draws cells with replacement, and in each of them its seeds with replacement.

    Args:
      names: the cell of every run. Lengths that share their first steps are one cell.
      seeds: of every run; all runs of a seed come together. None: a cell has one seed.
    """
    groups: dict = {}
    names = list(names)
    for number, (name, seed) in enumerate(zip(names, seeds or [0] * len(names), strict=True)):
        groups.setdefault(name, {}).setdefault(seed, []).append(number)
    members = [list(by_seed.values()) for by_seed in groups.values()]

    def draw(rng: np.random.Generator) -> np.ndarray:
        drawn = []
        for cell in rng.integers(0, len(members), len(members)):
            of_seeds = members[cell]
            drawn += [of_seeds[i] for i in rng.integers(0, len(of_seeds), len(of_seeds))]
        return np.concatenate(drawn)

    return draw


def interval(draws: list[Coefficients], name: str) -> tuple[float, float]:
    """The central 95% of a coefficient's draws."""
    low, high = np.percentile([draw[name] for draw in draws], [2.5, 97.5])
    return float(low), float(high)


def _project(law, exponents, cells):
    """The best amplitudes for these exponents, and what is missed then."""
    slope = law.link.slope(cells.loss, exponents)
    columns = slope[:, None] * np.stack(law.columns(exponents, cells), axis=1)
    wanted = slope * law.link.of(cells.loss, exponents)
    scale = np.linalg.norm(columns, axis=0)
    solve = np.linalg.lstsq if law.either_sign else optimize.nnls
    amplitudes = solve(columns / scale, wanted)[0]
    return amplitudes / scale, columns / scale @ amplitudes - wanted


def _bounds(law):
    ranges = law.exponents.values()
    packed = [np.log((r.low, r.high)) if r.in_log else (r.low, r.high) for r in ranges]
    return np.array(packed).T


def _spread(law, seed):
    """Starts that fill the ranges evenly."""
    sample = qmc.LatinHypercube(len(law.exponents), rng=seed).random(STARTS)
    return list(qmc.scale(sample, *_bounds(law)))


def _pack(law, exponents):
    return np.array(
        [np.log(exponents[n]) if r.in_log else exponents[n] for n, r in law.exponents.items()]
    )


def _unpack(law, x):
    values = zip(law.exponents.items(), x.tolist(), strict=True)
    return {n: float(np.exp(v)) if r.in_log else v for (n, r), v in values}
