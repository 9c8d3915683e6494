"""Figures of the studies and of the benchmarks."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import dispatching, routers, scaling


def scaling_figure(records: list[dict]) -> figure.Figure:
    """Validation loss against steps, FLOPs and seconds, and test loss against experts.

    Lines are means over seeds, bands run from the lowest seed to the highest.
    """
    runs = scaling.by_variant(records)
    drawn = blank(figsize=(14, 8.5))
    axes = drawn.subplots(2, 2)
    colours = _colours()
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
            _curve(axis, steps * scale, curves, colours(i), name)
            axis.set(xlabel=label, ylabel="validation loss, nats per token")
    for axis in axes.flat[:3]:
        _baseline(axis, runs)
        _zoom(axis, runs)
    axes.flat[0].legend(fontsize=8)
    _against_experts(axes.flat[3], runs)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    return drawn


def weak_scaling_figure(rows: list[dict]) -> figure.Figure:
    """Bytes that leave a device for a token, and its memory, over devices along `expert`."""
    drawn = blank(figsize=(11, 4.2))
    sent, memory = drawn.subplots(1, 2)
    for way in dict.fromkeys(r["by"] for r in rows):
        some = [r for r in rows if r["by"] == way]
        devices = [r["devices"] for r in some]
        line = "--" if way == "arithmetic" else "-"
        for key in ("all_to_all_bytes_per_token", "other_bytes_per_token"):
            label = f"{key.split('_bytes')[0].replace('_', '-')}, {way}"
            sent.plot(devices, [r[key] for r in some], line, marker="o", ms=4, label=label)
        for key in ("parameters", "temporary"):
            size = [r[key] / 2**20 for r in some]
            memory.plot(devices, size, line, marker="o", ms=4, label=f"{key}, {way}")
    sent.set(ylabel="bytes that leave a device, per token and step")
    memory.set(ylabel="MiB on a device")
    for axis in (sent, memory):
        axis.set_xscale("log", base=2)
        axis.set(xlabel="devices along the expert axis", ylim=(0, None))
        axis.grid(alpha=0.3)
    sent.legend(fontsize=8, loc="lower right")
    memory.legend(fontsize=8, loc="center right")
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
        colour = _colour(name, baseline)
        losses.errorbar(_test(runs[name]), i, xerr=half, fmt="o", ms=5, capsize=3, color=colour)
        if routed := _routing(runs[name]):
            loads.barh(i, routed["max_load"], color=colour, alpha=0.5)
            loads.annotate(f"{routed['dropped']:.1%} dropped", (0.05, i), va="center", fontsize=7)
        seconds = scaling.first(runs[name]).get("step_seconds", np.nan)
        times.barh(i, 1e3 * seconds, color=colour)
    least = _test(runs[order[0]])
    most = _test(runs[order[-1]])
    room = 0.15 * (most - least) or 0.1
    losses.set(xlabel=f"test loss, nats (95% from {baseline}, cut at the frame)", yticks=place)
    losses.set(xlim=(least - room, most + room), ylim=(-0.7, i + 0.7))
    losses.set_yticklabels(order, fontsize=8)
    losses.invert_yaxis()
    loads.set(xlabel="largest load over mean")
    times.set(xlabel="ms a step, side by side")
    for axis in (losses, loads, times):
        axis.grid(alpha=0.3)
    return drawn


def capacity_figure(records: list[dict]) -> figure.Figure:
    """Test loss and drops over the realised capacity, slots a choice, and over time a step."""
    runs = scaling.by_variant(records)
    drawn = blank(figsize=(13, 4.2))
    axes = drawn.subplots(1, 3)
    for name, seeds in runs.items():
        if not (routed := _routing(seeds)):
            continue
        x = routed["realised_capacity"]
        seconds = scaling.first(seeds).get("step_seconds", np.nan)
        points = ((x, _test(seeds)), (x, 100 * routed["dropped"]), (1e3 * seconds, _test(seeds)))
        for axis, (a, b) in zip(axes, points, strict=True):
            axis.plot(a, b, "o", ms=5, color="C0" if name.startswith("top_1") else "C1")
            axis.annotate(name, (a, b), fontsize=7, xytext=(4, 3), textcoords="offset points")
    labels = (
        ("slots a choice", "test loss, nats per token"),
        ("slots a choice", "choices dropped, %"),
        ("ms a step, side by side", "test loss, nats per token"),
    )
    for axis, (x, y) in zip(axes, labels, strict=True):
        axis.set(xlabel=x, ylabel=y)
        axis.margins(x=0.4)
        axis.grid(alpha=0.3)
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
    for axis, key in zip(axes, ("ratio_to_dense", "ratio_to_floor"), strict=True):
        for i, name in enumerate(names):
            points = [(c[name][key], y) for y, c in enumerate(cells) if key in c.get(name, {})]
            if points:
                axis.plot(*zip(*points, strict=True), "os^vD*Px"[i % 8], label=name, ms=6)
        axis.axvline(1, color="black", ls=":", lw=1)
        axis.set(xlabel=key.replace("_", " "), xscale="log")
        axis.grid(alpha=0.3)
    words = "E={experts} K={k} {activation} {loads} {tokens} tokens {dtype} x{factor:g}"
    axes[0].set_yticks(range(len(cells)), [words.format(**c["dense"]) for c in cells], fontsize=8)
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=8)
    return drawn


def _colour(name, baseline):
    """The baseline stands out, and so does the dense model."""
    if name == baseline:
        return "C1"
    return "grey" if name == scaling.BASELINE else "C0"


def _test(runs):
    return scaling.mean(runs, "test_nll")


def _routing(runs):
    """Statistics of the last quarter of training, means over the seeds; {} of a dense model."""
    all_of_them = [r["train_routing"] for r in runs.values()]
    return {key: np.mean([r[key] for r in all_of_them]) for key in all_of_them[0]}


def blank(**size: Any) -> figure.Figure:
    """A figure of this size without anything in it."""
    from matplotlib import figure

    return figure.Figure(**size, layout="constrained")


def _colours():
    """The function from 0, 1, 2... to colours."""
    import matplotlib

    return matplotlib.colormaps["tab10"]


def save(drawn: figure.Figure, path: pathlib.Path) -> None:
    """Writes a PNG."""
    drawn.savefig(path, dpi=110)


def spread(values: Sequence[float]) -> tuple[float, list[list[float]]]:
    """Their mean, and how far below and above it they lie at most, as `errorbar` asks for it."""
    mean = float(np.mean(values))
    return mean, [[mean - min(values)], [max(values) - mean]]


def _curve(axis, x, curves, colour, name):
    axis.plot(x, curves.mean(0), color=colour, label=name, lw=1.6)
    axis.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.2, lw=0)


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
    """Every variant as a labelled point over its number of experts, dense at 1."""
    most = max(r["experts"] for seeds in runs.values() for r in seeds.values())
    for name, seeds in runs.items():
        losses = [r["test_nll"] for r in seeds.values()]
        experts = next(iter(seeds.values()))["experts"]
        mean, above_and_below = spread(losses)
        place = (max(experts, 1), mean)
        colour = "black" if experts else "grey"
        axis.errorbar(*place, yerr=above_and_below, fmt="o", ms=5, capsize=3, color=colour)
        inward = ("right", -6) if experts == most > 0 else ("left", 6)
        beside = {"ha": inward[0], "xytext": (inward[1], 3), "textcoords": "offset points"}
        axis.annotate(name, place, fontsize=8, **beside)
    axis.set_xscale("log", base=2)
    axis.margins(x=0.2)
    axis.set(xlabel="experts (1: dense)", ylabel="test loss, nats per token")
