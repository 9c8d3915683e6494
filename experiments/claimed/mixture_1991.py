"""The mixture of 1991, and hierarchical mixtures by EM."""

import numpy as np
from scipy import stats

from experiments.claimed import recorded
from moe.analysis import claims, mixture_1991, mixture_fits, paired
from moe.analysis.claims import Finding, Region, Row
from moe.analysis.mixture_1991 import COMPETITIVE, NETWORKS
from moe.errors import UserError

COMMAND = recorded.command_of("mixture_1991")
JACOBS = "Jacobs et al. 1991"
JORDAN = "Jordan and Jacobs 1994"
READING = "one output"  # the one that has the paper's numbers of weights
NAMES = {"mixture_4": "4 experts", "mixture_8": "8 experts"}
FASTER, SLOWER = Region(high=1.0), Region(low=1.0)
TABLES = {"autompg": "cars", "wine": "wines"}
UNITS = {"autompg": "of the variance", "wine": "nats"}
ALIKE = Region(-0.02, 0.02)  # of shares
THEIRS = 0.01  # of the variance by which a hierarchy was behind a network on the robot arm


def rows() -> list[Row]:
    """What the two papers claim."""
    sweeps = mixture_1991.sweeps(recorded.looked("mixture_1991_cpu/vowels.jsonl"))
    return [*_half(sweeps), *_among(sweeps), *_quality(sweeps), _em(), *_hierarchy()]


def at_best(sweeps: dict, model: str, loss: str = COMPETITIVE) -> dict:
    """The record of a model at its best rate."""
    sweep = sweeps[READING, model, loss]
    rate = mixture_1991.best_rate(sweep)
    if rate is None:
        raise UserError(f"{model} ({loss}) reaches the criterion at no rate: there is no best one")
    return sweep[rate]


def epochs(own: dict, other: dict) -> Finding:
    """Epochs over those of another model, over paired seeds."""
    return claims.times(_logs(own) - _logs(other), "times the epochs")


def _logs(one):
    return np.log(one["epochs"][: one["seeds"]])


def _half(sweeps):
    about = Region(high=0.6)
    yield Row(
        "mixtures need about half the epochs of networks with as many weights (0.51, 0.44)", JACOBS,
        about,
        {
            NAMES[m]: epochs(at_best(sweeps, m), at_best(sweeps, network))
            for m, network in NETWORKS.items()
        },
        "faster, but not twice, where both sides have the best of a sweep of rates", COMMAND,
    )  # fmt: skip
    for model, network in NETWORKS.items():
        own, other = (sweeps[READING, m, COMPETITIVE] for m in (model, network))
        yield Row(
            f"the same, with one rate for both sides: {NAMES[model]}", JACOBS, about,
            {f"rate {rate:g}": epochs(own[rate], other[rate]) for rate in (8.0, 16.0, 32.0)},
            "the rate decides: 32 is too large for the networks; how the paper chose its"
            " rates it does not show", COMMAND,
        )  # fmt: skip


def _among(sweeps):
    four, eight, six, twelve = (at_best(sweeps, m) for m in (*NETWORKS, *NETWORKS.values()))
    yield Row(
        "8 experts need fewer epochs than 4", JACOBS, FASTER, epochs(eight, four), "as there",
        COMMAND,
    )  # fmt: skip
    yield Row(
        "12 hidden units need more epochs than 6", JACOBS, SLOWER, epochs(twelve, six),
        "the networks' epochs scatter too much to tell", COMMAND,
    )  # fmt: skip
    yield Row(
        "the epochs of mixtures scatter less (sd 23 and 12 against 83 and 124)", JACOBS, FASTER,
        {"4 experts": _scatter(four, six), "8 experts": _scatter(eight, twelve)},
        "as there, but less so", COMMAND,
    )  # fmt: skip
    yield Row(
        "experts that compete learn faster than with the older losses", JACOBS, FASTER,
        {
            loss: epochs(four, at_best(sweeps, "mixture_4", loss))
            for loss in ("expected", "cooperative")
        },
        "the cooperative loss is itself the squared error by which the criterion is measured; the"
        " paper speaks of how the task is divided, too", COMMAND,
    )  # fmt: skip


def _scatter(own, other):
    """The ratio of standard deviations with the interval of an F test, as if normal, unpaired."""
    spreads = [np.std(one["epochs"][: one["seeds"]], ddof=1) for one in (own, other)]
    freedom = own["seeds"] - 1
    wide = np.sqrt(stats.f.ppf(0.975, freedom, freedom))
    ratio = spreads[0] / spreads[1]
    low, high = ratio / wide, ratio * wide
    return Finding(f"{ratio:.2f} ({low:.2f} to {high:.2f}) times the sd", low, high)


def _quality(sweeps):
    found = {}
    for model, network in NETWORKS.items():
        own, other = (at_best(sweeps, m) for m in (model, network))
        change = np.subtract(own["test"], other["test"])[: own["seeds"]]
        found[NAMES[model]] = claims.points(paired.interval(change))
    yield Row(
        "mixtures are right as often as networks (in 90% of tests; here: by 2 points)", JACOBS,
        ALIKE, found,
        "4 experts are; 8, at the rate at which they learn fastest, are behind by about as much",
        COMMAND,
    )  # fmt: skip


def _em():
    found = {
        f"{TABLES[one['table']]}, {method}": claims.times(
            mixture_fits.over_em(kind, method, "1e-06"), "times the passes"
        )
        for one, kind in _kinds()
        for method in kind["methods"]
    }
    return Row(
        "gradients need far more passes than EM (157 times; here: 10)", JORDAN, Region(low=10.0),
        found,
        "a step of EM is several passes; on wines a line separates the classes, and EM crawls",
        COMMAND,
    )  # fmt: skip


def _kinds():
    """Each table with what came of its random starts."""
    for one in recorded.looked("mixture_1991_cpu/starts.jsonl"):
        (kind,) = (kind for kind in one["kinds"] if kind["starts"] == "random")
        yield one, kind | {"passes": one["passes"]}


def _hierarchy():
    """Hierarchies by EM beside one model, of splits that overlap."""
    narrow = "splits of one table overlap, so that the intervals are too narrow"
    yield Row(
        "a hierarchy beats one linear model (theirs: on a robot arm)", JORDAN, claims.BELOW,
        {name: _less(table, "linear, gradient") for table, name in TABLES.items()},
        f"as there on cars; a line separates the classes of wines; {narrow}", COMMAND,
    )  # fmt: skip
    yield Row(
        f"a hierarchy is behind one network by {THEIRS} of the variance or less (a robot arm)",
        JORDAN, Region(high=THEIRS), {"cars": _less("autompg", mixture_fits.NETWORK)},
        f"as many weights in both; {narrow}", COMMAND,
    )  # fmt: skip


def _less(table, other):
    """The test loss of the hierarchy less another model's."""
    found = recorded.looked("mixture_1991_cpu/held_out.jsonl")
    losses = {one["model"]: one["loss"] for one in found if one["table"] == table}
    change = np.subtract(losses["hierarchy, EM"], losses[other])
    return claims.difference(paired.interval(change), UNITS[table])
