"""Laws of the loss in size, experts and tokens, one small function for each published form.

Once its exponents are known, a law is linear in its amplitudes and its floor: the loss is, or its
logarithm, or a root of it (`Link`). So a law here is the columns of a matrix, [runs, amplitudes],
given the exponents; `analysis.fitting` finds both.
Logarithms are natural where nothing else is said.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Exponents = Mapping[str, float]


class Cells(NamedTuple):
    """Runs, one entry each: what was trained, and what came out."""

    loss: np.ndarray  # nats per token
    size: np.ndarray  # N, parameters that a token meets
    total: np.ndarray  # all parameters
    tokens: np.ndarray  # D, trained on
    experts: np.ndarray  # E; 1 is dense
    k: np.ndarray  # experts that a token meets
    granularity: np.ndarray  # G, how often narrower an expert is than the dense feed-forward

    def take(self, which: np.ndarray) -> "Cells":
        """Some of them, by number or mask."""
        return Cells(*(field[which] for field in self))


class Search(NamedTuple):
    """Where an exponent is looked for."""

    low: float
    high: float
    in_log: bool = False  # for what may be anywhere between 1 and thousands


class Link(NamedTuple):
    """What of the loss the columns add up to, y -> z, given the exponents."""

    of: Callable[[np.ndarray, Exponents], np.ndarray]  # the losses
    back: Callable[[np.ndarray, Exponents], np.ndarray]
    slope: Callable[[np.ndarray, Exponents], np.ndarray]  # how far z misses -> as it is judged


LOSS = Link(lambda y, x: y, lambda z, x: z, lambda y, x: np.ones_like(y))  # judged in nats
LOG10 = Link(lambda y, x: np.log10(y), lambda z, x: 10**z, lambda y, x: np.ones_like(y))  # decades
ROOT = Link(
    lambda y, x: y ** (1 / x["power"]),
    lambda z, x: z ** x["power"],
    lambda y, x: x["power"] * y ** (1 - 1 / x["power"]),  # dy/dz: judged in nats
)


class Law(NamedTuple):
    """A form with its source."""

    source: str
    exponents: dict[str, Search]
    amplitudes: tuple[str, ...]  # of the columns, in their order
    columns: Callable[[Exponents, Cells], list[np.ndarray]]
    link: Link = LOSS
    either_sign: bool = False  # of amplitudes; else no term makes a model worse


def saturated(experts: np.ndarray, start: float, most: float) -> np.ndarray:
    """Experts as they count, from `start` for one to `most` for ever more (Clark, equation 7)."""
    return 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most)


def _clark(x, cells):
    n = np.log10(cells.size)
    e = np.log10(saturated(cells.experts, x["start"], x["most"]))
    return [n, e, n * e, np.ones_like(n)]


def _chinchilla(x, cells):
    N_term = cells.size ** -x["alpha"]
    return [N_term, cells.tokens ** -x["beta"], np.ones_like(N_term)]


def _krajewski(x, cells):
    N_term = cells.total ** -x["alpha"]
    finer = cells.granularity ** -x["gamma"] * N_term
    return [N_term, finer, cells.tokens ** -x["beta"], np.ones_like(N_term)]


def _ludziejewski(x, cells):
    e = np.log(saturated(cells.experts, x["start"], x["most"]))
    n = np.log(cells.size)
    d = np.log(cells.tokens)
    by_size = np.exp(x["delta"] * e + (x["alpha"] + x["gamma"] * e) * n)
    by_tokens = np.exp(x["omega"] * e + (x["beta"] + x["zeta"] * e) * d)
    return [by_size, by_tokens, np.ones_like(n)]


def _kaplan(x, cells):
    return _ludziejewski(x, cells)[:2]


def _abnar(x, cells):
    met = cells.k / cells.experts  # 1 - S
    N_term = cells.total ** -x["alpha"]
    return [
        N_term,
        cells.tokens ** -x["beta"],
        met ** -x["lambda"],
        met ** -x["delta"] * cells.total ** -x["gamma"],
        np.ones_like(N_term),
    ]


SATURATION = {"start": Search(1.0001, 20.0, True), "most": Search(21.0, 5000.0, True)}
JOINT = {  # exponents of size and tokens that experts change
    "alpha": Search(-1.5, -0.02),
    "gamma": Search(-0.3, 0.3),
    "delta": Search(-2.0, 2.0),
    "beta": Search(-1.5, -0.02),
    "zeta": Search(-0.3, 0.3),
    "omega": Search(-2.0, 2.0),
    **SATURATION,
}
LAWS = {
    "clark": Law(
        "Clark et al. 2022, equation 8: log10 L = a log10 N + b log10 E' + c log10 N log10 E' + d",
        SATURATION,
        ("a", "b", "c", "d"),
        _clark,
        LOG10,
        either_sign=True,
    ),
    "chinchilla": Law(
        "Hoffmann et al. 2022, equation 2: L = a N^-alpha + b D^-beta + c, experts ignored",
        {"alpha": Search(0.02, 1.5), "beta": Search(0.02, 1.5)},
        ("a", "b", "c"),
        _chinchilla,
    ),
    "krajewski": Law(
        "Krajewski et al. 2024, equation 9: L = (a + g G^-gamma) N^-alpha + b D^-beta + c, one E"
        " and N all parameters",
        {"alpha": Search(0.02, 1.5), "beta": Search(0.02, 1.5), "gamma": Search(0.02, 3.0)},
        ("a", "g", "b", "c"),
        _krajewski,
    ),
    "ludziejewski": Law(
        "Ludziejewski et al. 2025, equation 6: L = a E'^delta N^(alpha + gamma ln E')"
        " + b E'^omega D^(beta + zeta ln E') + c",
        JOINT,
        ("a", "b", "c"),
        _ludziejewski,
    ),
    "kaplan": Law(
        "Kaplan et al. 2020, equation 1.5, with the experts of Ludziejewski et al. 2025 (ours):"
        " L = (a E'^delta N^(alpha + gamma ln E') + b E'^omega D^(beta + zeta ln E'))^power",
        JOINT | {"power": Search(0.05, 1.0)},
        ("a", "b"),
        _kaplan,
        ROOT,
    ),
    "abnar": Law(
        "Abnar et al. 2025, equation 5: L = a N^-alpha + b D^-beta + c (1-S)^-lambda"
        " + d (1-S)^-delta N^-gamma + e, S = (E - K) / E and N all parameters",
        {
            "alpha": Search(0.02, 1.5),
            "beta": Search(0.02, 1.5),
            "lambda": Search(-1.0, 1.0),
            "delta": Search(-1.0, 1.0),
            "gamma": Search(0.02, 1.5),
        },
        ("a", "b", "c", "d", "e"),
        _abnar,
    ),
}
