"""What papers claim beside what came out here: one rule of judging, and the text of a table."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from numpy.typing import ArrayLike

from moe.analysis import markdown, paired
from moe.analysis.mixture_1991 import ratio_text
from moe.analysis.paired import Interval


class Region(NamedTuple):
    """Where a number lies if a claim holds; neither end belongs to it."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self):
        if self.low == -math.inf:
            return f"< {self.high:g}"
        if self.high == math.inf:
            return f"> {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


BELOW = Region(high=0.0)  # of differences: less
ABOVE = Region(low=0.0)


def verdict(low: float, high: float, region: Region) -> str:
    """Does a claim hold?

    Args:
      low, high: the ends of an interval, the same for a number without one; NaN: nothing is known.
      region: what the claim says.

    Returns:
      "yes" if all of the interval lies in the region, "no" if all of it lies outside, else "open".
    """
    if region.low < low and high < region.high:
        return "yes"
    if high < region.low or region.high < low:
        return "no"
    return "open"


class Finding(NamedTuple):
    """What came out, as it is shown, and the ends of its interval as `verdict` takes them."""

    text: str
    low: float
    high: float


def difference(found: Interval, unit: str = "nats") -> Finding:
    """A number with a sign and a unit."""
    return Finding(f"{found.mean:+z.3f}{_half(found.half, '.3f')} {unit}", *found.ends)


def points(found: Interval) -> Finding:
    """A difference of shares, in points of a percent."""
    return Finding(f"{100 * found.mean:+z.1f}{_half(100 * found.half, '.1f')} points", *found.ends)


def share(found: Interval, of: str) -> Finding:
    """A part of something, in percent."""
    return Finding(f"{found.mean:.0%}{_half(found.half, '.0%')} of {of}", *found.ends)


def _half(half, form):
    return f" ± {half:{form}}" if half == half else " (one seed)"


def times(logs: ArrayLike, unit: str = "times") -> Finding:
    """A ratio of which these are the logarithms, by seed."""
    low, high = map(math.exp, paired.interval(logs).ends)
    return Finding(f"{ratio_text(logs)} {unit}", low, high)


def alone(text: str, value: float) -> Finding:
    """A number without an interval."""
    return Finding(f"{text}, no interval", value, value)


class Row(NamedTuple):
    """A claim, and what came out: one finding, or some, each by its name."""

    claim: str
    source: str
    holds: Region
    ours: Finding | Mapping[str, Finding]
    why: str
    command: str


def agrees(row: Row) -> str:
    """The verdict; if those of its findings differ, each with their names."""
    found: dict[str, list[str]] = {}
    for name, one in _named(row).items():
        found.setdefault(verdict(one.low, one.high, row.holds), []).append(name)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{said} ({', '.join(names)})" for said, names in found.items())


def table(rows: Sequence[Row]) -> str:
    """How many agree, all rows in Markdown, and a legend."""
    said = collections.Counter(map(agrees, rows))
    alike = {name: said.pop(name, 0) for name in ("yes", "no", "open")}
    counted = (
        f"{len(rows)} claims: {alike['yes']} agree, {alike['no']} do not, {alike['open']} are open,"
        f" and {said.total()} differ from case to case."
    )
    return f"{counted}\n\n{markdown.table(HEAD, map(_cells, rows))}\n\n{LEGEND}"


def _cells(row):
    ours = "; ".join(f"{name}: {one.text}".removeprefix(": ") for name, one in _named(row).items())
    return f"{row.claim} [{row.holds}]", row.source, ours, agrees(row), row.why, f"`{row.command}`"


def _named(row):
    return {"": row.ours} if isinstance(row.ours, Finding) else row.ours


HEAD = ("claim", "source", "ours, with its 95% interval", "agrees", "why", "command")
LEGEND = (
    "In brackets: where ours has to lie for the claim to hold. agrees: yes, all of the interval"
    " lies there; no, all of it lies outside; open, neither. Where a paper has a number, ours is"
    " judged by it, though its models are many times larger. as there: as in the source.\n\n"
    "Intervals are of 95%, over paired seeds, as many as the study's entry in"
    " [RESULTS.md](RESULTS.md) says. ±: half of Student's t interval, of differences in nats per"
    " token of test text, bits a byte of the right answers, points of a percent, and of shares;"
    " those of routers, balance, capacity and precision are over documents and seeds together (the"
    " two half-widths in quadrature, which is not exact). times: geometric means, with the interval"
    " of the logarithms; those of standard deviations (sd) are of an F test; ≥: the shortest run is"
    " better already. Of laws: of a bootstrap over cells and seeds; place: where in it a loss came,"
    " 0 at its low end and 1 at its high one. No interval: arithmetic, or medians of one run on one"
    " machine, which another"
    " run may move by a tenth. No interval is widened for the number of claims: where nothing"
    " differs, one of twenty is judged all the same."
)
