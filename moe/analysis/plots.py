"""Figures of the studies and of the benchmarks."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure
    from matplotlib.axes import Axes

from moe.analysis import dispatching, routers, scaling


def scaling_figure(records: list[dict]) -> figure.Figure:
    """Validation loss against steps, FLOPs and seconds, and test loss against experts.

    Lines are means over seeds, bands run from the lowest seed to the highest.
    """
    runs = scaling.by_variant(records)
    drawn = blank(figsize=(14, 8.5))
    axes = drawn.subplots(2, 2)
    for i, (name, seeds) in enumerate(runs.items()):
        one = scaling.first(seeds)
        steps = np.array(one["curve_steps"])
        per_step = {
            "steps": 1.0,
            "training FLOPs (executed)": one["executed_flops"] * one["tokens_per_step"],
            "seconds (step times side by side)": one.get("step_seconds", np.nan),
        }
        curves = np.array([r["curve_nll"] for r in seeds.values()])
        for axis, (label, scale) in zip(axes.flat, per_step.items(), strict=False):
            _curve(axis, steps * scale, curves, i, name)
            axis.set(xlabel=label, ylabel="validation loss, nats per token")
    for axis in axes.flat[:3]:
        _baseline(axis, runs)
        _zoom(axis, runs)
    legend_above(drawn, 5)
    _against_experts(axes.flat[3], runs)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    return drawn


def weak_scaling_figure(rows: list[dict]) -> figure.Figure:
    """Bytes that leave a device for a token, and its memory, over devices along `expert`."""
    drawn = blank(figsize=(11, 4.2))
    sent, memory = drawn.subplots(1, 2)
    for i, way in enumerate(dict.fromkeys(r["by"] for r in rows)):
        some = [r for r in rows if r["by"] == way]
        devices = [r["devices"] for r in some]
        for j, key in enumerate(("all_to_all_bytes_per_token", "other_bytes_per_token")):
            label = f"{key.split('_bytes')[0].replace('_', '-')}, {way}"
            sent.plot(devices, [r[key] / 1e3 for r in some], **style(2 * i + j), label=label)
        for j, key in enumerate(("parameters", "temporary")):
            size = [r[key] / 2**20 for r in some]
            memory.plot(devices, size, **style(2 * i + j), label=f"{key}, {way}")
    sent.set(ylabel="kB that leave a device, per token and step")
    memory.set(ylabel="MiB on a device")
    for axis in (sent, memory):
        doubling(axis)
        axis.set(xlabel="devices along the expert axis", ylim=(0, 1.1 * axis.dataLim.ymax))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8)
    return drawn


def routers_figure(records: list[dict], baseline: str) -> figure.Figure:
    """Test loss of every router with its interval against the baseline, and what it cost."""
    runs = scaling.by_variant(records)
    runs = scaling.common(runs, runs[baseline])
    order = sorted(runs, key=lambda name: _test(runs[name]))
    drawn = blank(figsize=(13, 0.32 * len(order) + 1.6))
    losses, loads, times = drawn.subplots(1, 3, sharey=True)
    place = np.arange(len(order))
    for i, name in enumerate(order):
        documents, seeds, _ = routers.difference(runs, name, baseline)
        half = 0 if name == baseline else np.hypot(documents.half, np.nan_to_num(seeds))
        colour, marker, hatch = _look(name, baseline)
        losses.errorbar(_test(runs[name]), i, xerr=half, fmt=marker, capsize=3, color=colour)
        bar = {"color": colour, "alpha": 0.5, "hatch": hatch, "edgecolor": "0.2"}
        if routed := _routing(runs[name]):
            loads.barh(i, routed["max_load"], **bar)
            said = f" {routed['dropped']:.1%} dropped"
            loads.annotate(said, (routed["max_load"], i), va="center", fontsize=8)
        seconds = scaling.first(runs[name]).get("step_seconds", np.nan)
        times.barh(i, 1e3 * seconds, **bar)
    least = _test(runs[order[0]])
    most = _test(runs[order[-1]])
    room = 0.15 * (most - least) or 0.1
    losses.set(xlabel=f"test loss, nats\n(95% from {baseline}, cut at the frame)", yticks=place)
    losses.set(xlim=(least - room, most + room), ylim=(-0.7, i + 0.7))
    losses.set_yticklabels(order, fontsize=8)
    losses.invert_yaxis()
    loads.set(xlabel="largest load over mean")
    loads.margins(x=0.6)
    times.set(xlabel="ms a step, side by side")
    for axis in (losses, loads, times):
        axis.grid(alpha=0.3)
    return drawn


def capacity_figure(records: list[dict]) -> figure.Figure:
    """Test loss and drops over the realised capacity, slots a choice, and over time a step."""
    runs = scaling.by_variant(records)
    drawn = blank(figsize=(13, 4.8))
    axes = drawn.subplots(1, 3)
    for i, (name, seeds) in enumerate(runs.items()):
        if not (routed := _routing(seeds)):
            continue
        x = routed["realised_capacity"]
        seconds = scaling.first(seeds).get("step_seconds", np.nan)
        points = ((x, _test(seeds)), (x, 100 * routed["dropped"]), (1e3 * seconds, _test(seeds)))
        for axis, (a, b) in zip(axes, points, strict=True):
            axis.plot(a, b, **style(i) | {"ls": "none", "ms": 9}, label=name)
    labels = (
        ("slots a choice", "test loss, nats per token"),
        ("slots a choice", "choices dropped, %"),
        ("ms a step, side by side", "test loss, nats per token"),
    )
    for axis, (x, y) in zip(axes, labels, strict=True):
        axis.set(xlabel=x, ylabel=y)
        axis.margins(0.1)
        axis.grid(alpha=0.3)
    legend_above(drawn, 4)
    return drawn


def balance_figure(logs: dict[str, list[dict]]) -> figure.Figure:
    """The loads of experts over time, seed 0: a column a variant, a row an MoE layer."""
    layers = max(len(records[0]["load_LE"]) for records in logs.values())
    size = (2.2 * len(logs) + 1, 2.4 * layers + 0.6)
    drawn = blank(figsize=size)
    grid = drawn.subplots(layers, len(logs), sharex=True, sharey=True, squeeze=False)
    for column, (name, records) in zip(grid.T, logs.items(), strict=True):
        column[0].set_title(name)
        for layer, axis in enumerate(column):
            loads = np.array([r["load_LE"][layer] for r in records])
            axis.plot([r["step"] for r in records], loads, lw=0.8)
            axis.axhline(1 / loads.shape[1], color="black", ls=":", lw=1)
            axis.grid(alpha=0.3)
    for layer, axis in enumerate(grid[:, 0]):
        axis.set_ylabel(f"MoE layer {layer}")
    drawn.supxlabel("steps")
    drawn.supylabel("share of the choices, each expert")
    return drawn


def dispatch_figure(rows: list[dict]) -> figure.Figure:
    """Time over the dense feed-forward's and over the floor, of training at every cell."""
    cells = [c for c in dispatching.by_cell(rows).values() if c["dense"]["way"] == "training"]
    names = list(dict.fromkeys(name for cell in cells for name in cell if name != "dense"))
    drawn = blank(figsize=(14, 0.42 * len(cells) + 1.8))
    axes = drawn.subplots(1, 2, sharey=True)
    labels = {
        "ratio_to_dense": "time over dense of equal FLOPs",
        "ratio_to_floor": "time over the floor: products and memory traffic alone",
    }
    for axis, (key, label) in zip(axes, labels.items(), strict=True):
        for i, name in enumerate(names):
            points = [(c[name][key], y) for y, c in enumerate(cells) if key in c.get(name, {})]
            if points:
                axis.plot(*zip(*points, strict=True), **style(i) | {"ls": "none"}, label=name)
        axis.axvline(1, color="black", ls=":", lw=1)
        axis.set(xlabel=label)
        axis.grid(alpha=0.3)
    doubling(axes[0])
    words = "E={experts} K={k} {activation} {loads} {tokens} tokens {dtype} x{factor:g}"
    axes[0].set_yticks(range(len(cells)), [words.format(**c["dense"]) for c in cells], fontsize=8)
    axes[0].invert_yaxis()
    legend_above(drawn, 8)
    return drawn


def _look(name, baseline):
    """Colour, marker and hatch: the baseline stands out, and so does the dense model."""
    if name == baseline:
        return "C1", "D", "//"
    return ("grey", "s", "..") if name == scaling.BASELINE else ("C0", "o", "")


def _test(runs):
    return scaling.mean(runs, "test_nll")


def _routing(runs):
    """Statistics of the last quarter of training, means over the seeds; {} of a dense model."""
    all_of_them = [r["train_routing"] for r in runs.values()]
    return {key: np.mean([r[key] for r in all_of_them]) for key in all_of_them[0]}


MARKERS = "os^Dv*PX<>dh"
LINES = ("-", "--", "-.", ":")


def style(number: int) -> dict[str, Any]:
    """Of a line and its points: what is told apart by colour is told apart in grey, too."""
    line = LINES[number % len(LINES)]
    return {"color": f"C{number % 10}", "marker": MARKERS[number % len(MARKERS)], "ls": line}


def doubling(axes: Axes, ticks: Sequence[float] = ()) -> None:
    """Makes x logarithmic, with ticks at these places or powers of two, which are written out."""
    axes.set_xscale("log", base=2)
    if ticks:
        axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter("{x:g}")


def legend_above(drawn: figure.Figure, columns: int) -> None:
    """One legend for all panels, above them, of what the first one has."""
    handles, names = drawn.axes[0].get_legend_handles_labels()
    drawn.legend(handles, names, fontsize=9, loc="outside upper center", ncols=columns)


def blank(figsize: tuple[float, float]) -> figure.Figure:
    """A figure without anything in it, inches wide and high of `SHRUNK` ones."""
    from matplotlib import figure

    width, height = figsize
    return figure.Figure((SHRUNK * width, SHRUNK * height), layout="constrained")


SHRUNK = 0.8  # so that text can be read when a figure is shown at half its size
DPI = 140


def save(drawn: figure.Figure, path: pathlib.Path) -> None:
    """Writes a PNG."""
    drawn.savefig(path, dpi=DPI)


def spread(values: Sequence[float]) -> tuple[float, list[list[float]]]:
    """Their mean, and how far below and above it they lie at most, as `errorbar` asks for it."""
    mean = float(np.mean(values))
    below, above = max(0.0, mean - min(values)), max(0.0, max(values) - mean)  # but for rounding
    return mean, [[below], [above]]


def _curve(axis, x, curves, number, name):
    look = style(number)
    every = max(1, len(x) // 8)
    axis.plot(x, curves.mean(0), **look, ms=5, markevery=every, label=name, lw=1.4)
    axis.fill_between(x, curves.min(0), curves.max(0), color=look["color"], alpha=0.2, lw=0)


def _baseline(axis, runs):
    if scaling.BASELINE in runs:
        last = np.mean([r["curve_nll"][-1] for r in runs[scaling.BASELINE].values()])
        axis.axhline(last, color="black", ls=":", lw=1, label=f"last loss of {scaling.BASELINE}")


def _zoom(axis, runs):
    """Shows where the best model has done a quarter of its steps, and where every model ends."""
    curves = [r["curve_nll"] for seeds in runs.values() for r in seeds.values()]
    best = min(curves, key=lambda c: c[-1])
    top = max(best[len(best) // 4], *(c[-1] for c in curves))
    bottom = min(best)
    axis.set_ylim(bottom - 0.05 * (top - bottom), top + 0.05 * (top - bottom))


def _against_experts(axis, runs):
    """Every variant as a point over its number of experts, dense at 1; neighbours stand apart."""
    for i, seeds in enumerate(runs.values()):
        mean, above_and_below = spread([r["test_nll"] for r in seeds.values()])
        experts = max(scaling.first(seeds)["experts"], 1)
        look = style(i) | {"ls": "none"}
        axis.errorbar(experts * 1.1 ** (i % 3 - 1), mean, above_and_below, **look, capsize=3)
    doubling(axis)
    axis.margins(x=0.2)
    axis.set(xlabel="experts (1: dense), points moved apart", ylabel="test loss, nats per token")
