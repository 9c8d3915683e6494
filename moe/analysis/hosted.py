"""What a device holds where experts rest in the host's memory, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import markdown, paired, plots

MIXED, HERE, HOSTED = "mixed", "here", "hosted"
SAID = {
    MIXED: "all domains at once",
    HERE: "rounds of one domain, all experts on the device",
    HOSTED: "rounds of one domain, its experts alone on the device",
}
LEGEND = (
    "device, host: MiB of parameters and moments during a step, by the kind of memory of their"
    " arrays; temporary: what the compiled step holds beside them. ms: the median step, in which"
    " experts that come and go have their share. Δ: the paired difference from all domains at once,"
    " with the 95% interval over seeds."
)


def table(found: Sequence[dict]) -> str:
    """A row for each way.

    Args:
      found: measurements with way, seed, nll, absolute_sum, ms, and bytes on the device, with the
        host, and temporary.
    """
    runs = {way: {one["seed"]: one for one in found if one["way"] == way} for way in SAID}
    head = ("way", "device", "host", "temporary", "ms", "test nats", "Δ (95%)")
    rows = [_row(way, runs) for way in SAID]
    return f"{markdown.table(head, rows)}\n\n{LEGEND}\n\n{_agreement(runs)}"


def _row(way, runs):
    own = runs[way].values()
    first = next(iter(own))
    change = paired.interval([one["nll"] - runs[MIXED][s]["nll"] for s, one in runs[way].items()])
    return (
        SAID[way],
        *(f"{first[where] / 2**20:.2f}" for where in ("device", "host", "temporary")),
        f"{_mean(own, 'ms'):.1f}",
        f"{_mean(own, 'nll'):.4f}",
        "" if way == MIXED else f"{change}",
    )


def _agreement(runs):
    """Do both ways of rounds end with the same model?"""
    same = [
        all(runs[HERE][seed][what] == one[what] for what in ("nll", "absolute_sum"))
        for seed, one in runs[HOSTED].items()
    ]
    return (
        f"Where experts rest makes no difference in {sum(same)} of {len(same)} seeds: the test"
        " loss, and the sum of all parameters' absolute values, are the same number."
    )


def _mean(runs, key):
    return sum(one[key] for one in runs) / len(runs)


def drawn(found: Sequence[dict]) -> figure.Figure:
    """Bars of what lies where, for each way."""
    drawn = plots.blank(figsize=(8, 3))
    axis = drawn.subplots()
    for place, way in enumerate(SAID):
        one = next(one for one in found if one["way"] == way)
        device, host = one["device"] / 2**20, one["host"] / 2**20
        look: dict[str, Any] = {"color": "C1", "hatch": "//", "edgecolor": "0.2"}
        axis.barh(place, device, color="C0", label="" if place else "on the device")
        axis.barh(place, host, left=device, label="" if place else "with the host", **look)
    axis.set(xlabel="MiB of parameters and moments", yticks=range(len(SAID)))
    axis.set_yticklabels(SAID.values())
    axis.invert_yaxis()
    axis.legend()
    return drawn
