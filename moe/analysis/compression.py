"""What is left of a model with experts, over how large it is and how fast it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

import numpy as np

from moe.analysis import markdown, paired, plots

WHOLE = "whole"  # the model as it was trained
DENSE = "dense"  # its baseline


def by_method(found: Sequence[dict]) -> dict[str, dict[int, dict]]:
    """method -> seed -> its measurement."""
    table: dict[str, dict[int, dict]] = {}
    for one in found:
        table.setdefault(one["method"], {})[one["seed"]] = one
    return table


def table(found: Sequence[dict]) -> str:
    """A row for each method, the largest first.

    Args:
      found: measurements with method, seed, nll, bytes and, where it was timed, tokens_per_second.
    """
    methods = by_method(found)
    order = sorted(methods, key=lambda name: -_mean(methods[name], "bytes"))
    rows = [_row(name, methods) for name in order]
    head = ("method", "bytes", "of whole", "test nats", "Δ (95%)", "gain kept", "tokens/s")
    return f"{markdown.table(head, rows)}\n\n{LEGEND}"


LEGEND = (
    "bytes: of all parameters, in bfloat16 unless the method says otherwise. Δ: the paired"
    " difference from the model as it was trained, with the 95% interval over seeds. gain kept: the"
    " share of its gain over the dense model of equal FLOPs that is left. tokens/s: of writing 32"
    " texts at once, all methods in turn, the median of five rounds; numbers of 8 bits and less are"
    " computed with as what they stand for, so that they change bytes alone."
)


def _row(name, methods):
    runs, whole, dense = methods[name], methods[WHOLE], methods[DENSE]
    change = paired.interval([runs[s]["nll"] - whole[s]["nll"] for s in runs])
    timed = all("tokens_per_second" in one for one in runs.values())
    speed = _mean(runs, "tokens_per_second") if timed else None
    size = _mean(runs, "bytes")
    return (
        name,
        f"{size / 2**20:.2f} MiB",
        f"{size / _mean(whole, 'bytes'):.1%}",
        f"{_mean(runs, 'nll'):.4f}",
        "" if name == WHOLE else f"{change}",
        paired.kept_text(runs, whole, dense, "nll", ".0%"),
        "" if speed is None else f"{speed:,.0f}",
    )


def _mean(runs, key):
    return sum(one[key] for one in runs.values()) / len(runs)


def drawn(found: Sequence[dict]) -> figure.Figure:
    """Loss against bytes, and against tokens a second; a line for each method over its sizes."""
    families = _families(by_method(found))
    drawn = plots.blank(figsize=(12, 5))
    axes = drawn.subplots(1, 2, sharey=True)
    _lines(axes[0], families, lambda one: one["bytes"] / 2**20)
    _lines(axes[1], families, lambda one: one.get("tokens_per_second"))
    _sizes(axes[0], families)
    plots.doubling(axes[0])
    axes[0].set(xlabel="MiB (above: experts that are left)")
    axes[0].set(ylabel="test loss, nats per token")
    axes[1].set(xlabel="tokens a second, writing")
    axes[1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    return drawn


def _families(methods):
    """The kind of method -> how many experts it leaves -> its runs by seed."""
    found: dict[str, dict[str, dict[int, dict]]] = {}
    for name, runs in methods.items():
        kind, _, left = name.rpartition("_")
        numbered = left.isdigit() or (kind and left == DENSE)
        found.setdefault(kind if numbered else name, {})[left if numbered else ""] = runs
    return found


def _lines(axis, families, of: Callable[[dict], float | None]):
    """One for each kind whose runs all have the value; marks and colours are the same in all."""
    for index, (kind, sizes) in enumerate(families.items()):
        in_order = sorted(sizes.values(), key=lambda runs: _mean(runs, "bytes"))
        runs = [list(by_seed.values()) for by_seed in in_order]
        if any(of(one) is None for some in runs for one in some):
            continue
        x = [np.mean([of(one) for one in some]) for some in runs]
        bars = [plots.spread([one["nll"] for one in some]) for some in runs]
        mean, spread = zip(*bars, strict=True)
        look = plots.style(index) | {"ms": 8, "mfc": "none", "lw": 1.2}
        axis.errorbar(x, mean, yerr=np.hstack(spread), label=kind, **look)


def _sizes(axis, families):
    """The numbers of experts, above the axis."""
    places: dict[str, list[float]] = {}
    for sizes in families.values():
        for left, runs in sizes.items():
            places.setdefault(left, []).append(_mean(runs, "bytes") / 2**20)
    for left in places.keys() - {""}:
        at = (float(np.mean(places[left])), 1.01)
        above = ("data", "axes fraction")
        axis.annotate(left, at, xycoords=above, ha="center", fontsize=8)
