"""What a ranker and a fuser are worth beside the best single model, as in Jiang et al. 2023.

A measurement is a dictionary with seed, validation (chrF by model), inputs (how many, by document)
and sums (chrF of these, by way and document).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import instruction_tuning, markdown, paired, plots

ORACLE, RANDOM = "oracle", "random"
OWN, ALL = "likelihood", "likelihood of all"
RANKER, WINS, BUBBLE = "ranker", "ranker, wins", "ranker, bubble"
FUSERS = FUSED, FUSED_RANDOM = "fuser", "fuser_random"
BEST = "best single"
CLAIMS = (  # (what the paper says, what is better, than what)
    ("the ranker's choice is better than the best single model", RANKER, BEST),
    ("the ranker's choice is better than the most probable candidate", RANKER, OWN),
    ("all comparisons choose better than a bubble pass", RANKER, BUBBLE),
    ("the fuser writes better than the ranker chooses", FUSED, RANKER),
    ("the fuser writes better of the ranker's best than of random candidates", FUSED, FUSED_RANDOM),
    ("the fuser is better than the best single model", FUSED, BEST),
)


class Difference(NamedTuple):
    """Of the mean quality of two ways, with half of its 95% interval over documents, and seeds."""

    mean: float
    documents: float
    seeds: float

    @property
    def half(self) -> float:
        """Of the interval over both."""
        return math.hypot(self.documents, self.seeds)


def best_single(found: Sequence[dict]) -> str:
    """The model whose candidates are the best of validation inputs, over all seeds."""
    models = found[0]["validation"]
    return max(models, key=lambda name: sum(one["validation"][name] for one in found))


def difference(found: Sequence[dict], way: str, other: str) -> Difference:
    """Of two ways, or `BEST`, paired by seed and test input.

    A document is one observation, since its inputs are alike. All seeds have the same inputs.
    """
    names = [best_single(found) if name == BEST else name for name in (way, other)]
    own_SX, base_SX = (np.array([one["sums"][name] for one in found]) for name in names)
    inputs_X = np.array(found[0]["inputs"])
    documents = paired.difference_over_documents(own_SX.mean(0), base_SX.mean(0), inputs_X)
    seeds = paired.interval((own_SX - base_SX).sum(1) / inputs_X.sum())
    return Difference(documents.mean, documents.half, seeds.half)


def text(found: Sequence[dict], records: Sequence[dict]) -> str:
    """The ways, the claims, and the rates.

    Args:
      found: the measurements.
      records: the lines of results.jsonl.
    """
    rates = instruction_tuning.rates([one for one in records if "_lr_" in one["variant"]])
    rows = [(run, f"{loss:.4f}") for runs in rates.values() for run, loss in runs.items()]
    tried = markdown.table(("run", "validation nats"), rows)
    return "\n\n".join((ways_table(found), LEGEND, claims_table(found), JUDGED, tried))


LEGEND = (
    "chrF, 0 to 100, of 16 tokens beside those that follow in the test document. Δ: the paired"
    " difference from the best single model, which validation inputs chose, with its 95% intervals"
    " over documents and over seeds. best: the share of inputs on which no other model is better."
    " oracle: the best candidate by the reference itself; random: what a random one gives."
    " likelihood: the candidate with the highest mean log p of a token by the model that made it,"
    " or by all models. ranker: PairRanker by the sums of all comparisons in both orders, by the"
    " number of wins, and by one bubble pass. fuser: GenFuser of the ranker's best three;"
    " fuser_random: one that learned from three random ones, and reads such."
)
JUDGED = (
    "Ours is a difference of chrF, ± half of its 95% interval over documents and seeds together."
    " agrees, does not agree: the interval lies on one side of 0; open: it does not; with one seed"
    " nothing is judged. No interval is widened for the number of claims."
)


def ways_table(found: Sequence[dict]) -> str:
    """A row for each way, the best first."""
    head = ("way", "chrF", "Δ best single", "± documents", "± seeds", "best")
    return markdown.table(head, [_row(found, way) for way in _order(found)])


def _order(found):
    return sorted(found[0]["sums"], key=lambda way: -_mean(found, way))


def _mean(found, way):
    inputs = sum(found[0]["inputs"])
    return statistics.fmean(sum(one["sums"][way]) / inputs for one in found)


def _row(found, way):
    best = best_single(found)
    share = ""
    if way in found[0]["best"]:
        share = f"{statistics.fmean(one['best'][way] for one in found):.0%}"
    if way == best:
        return f"{way} ({BEST})", f"{_mean(found, way):.2f}", "", "", "", share
    apart = difference(found, way, best)
    halves = ("" if math.isnan(x) else f"{x:.2f}" for x in (apart.documents, apart.seeds))
    return way, f"{_mean(found, way):.2f}", f"{apart.mean:+.2f}", *halves, share


def claims_table(found: Sequence[dict]) -> str:
    """What the paper says, what came out here, and whether they agree."""
    rows = []
    for says, better, than in CLAIMS:
        apart = difference(found, better, than)
        half = apart.documents if math.isnan(apart.half) else apart.half
        rows.append((says, f"{better} less {than}: {apart.mean:+.2f} ± {half:.2f}", verdict(apart)))
    return markdown.table(("claim", "ours", "verdict"), rows)


def verdict(apart: Difference) -> str:
    """Whether a claim that one way is better agrees with what was measured."""
    if math.isnan(apart.half):
        return "one seed"
    if abs(apart.mean) <= apart.half:
        return "open"
    return "agrees" if apart.mean > 0 else "does not agree"


def drawn(found: Sequence[dict]) -> figure.Figure:
    """The difference of every way from the best single model, with its whole interval."""
    ways = _order(found)[::-1]
    made = plots.blank(figsize=(8, 0.32 * len(ways) + 1.2))
    axis = made.subplots()
    for place, way in enumerate(ways):
        apart = difference(found, way, BEST)
        half = apart.documents if math.isnan(apart.half) else apart.half
        look = plots.style(0 if way in found[0]["validation"] else 1) | {"ls": "none"}
        axis.errorbar(apart.mean, place, xerr=half, **look, ms=5, capsize=3)
    axis.axvline(0, color="0.5", lw=1, ls="--")
    axis.set_yticks(range(len(ways)), ways)
    axis.set(xlabel=f"chrF less that of the best single model, {best_single(found)}")
    axis.grid(alpha=0.3)
    return made
