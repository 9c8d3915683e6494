"""What is left of a model with experts, over how large it is and how fast it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

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
    """Loss against bytes, and against tokens a second; a colour for each kind of method."""
    methods = by_method(found)
    drawn = plots.blank(figsize=(12, 5))
    axes = drawn.subplots(1, 2, sharey=True)
    _scatter(axes[0], methods, lambda one: one["bytes"] / 2**20)
    _scatter(axes[1], methods, lambda one: one.get("tokens_per_second"))
    axes[0].set(xlabel="MiB", ylabel="test loss, nats per token", xscale="log")
    axes[1].set(xlabel="tokens a second, writing")
    for axis in axes:
        axis.grid(alpha=0.3)
    return drawn


def _scatter(axis, methods, of: Callable[[dict], float | None]):
    for name, runs in methods.items():
        values = [of(one) for one in runs.values()]
        if any(value is None for value in values):
            continue
        x = sum(v for v in values if v is not None) / len(values)
        mean, spread = plots.spread([one["nll"] for one in runs.values()])
        axis.errorbar(x, mean, yerr=spread, marker="o", ms=5, lw=1)
        axis.annotate(name, (x, mean), textcoords="offset points", xytext=(5, 4), fontsize=8)
