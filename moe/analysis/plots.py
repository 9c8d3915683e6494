"""Figures: the equal-FLOPs comparison, and how expert parallelism scales."""

import pathlib

import matplotlib
import numpy as np
from matplotlib import figure

from moe.analysis import scaling


def scaling_figure(records: list[dict]) -> figure.Figure:
    """Validation loss against steps, FLOPs and seconds, and test loss against experts.

    Lines are means over seeds, bands run from the lowest seed to the highest.
    """
    runs = scaling.by_variant(records)
    drawn = figure.Figure(figsize=(14, 8.5), layout="constrained")
    axes = drawn.subplots(2, 2)
    colours = matplotlib.colormaps["tab10"]
    for i, (name, seeds) in enumerate(runs.items()):
        one = next(iter(seeds.values()))
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
    drawn = figure.Figure(figsize=(11, 4.2), layout="constrained")
    sent, memory = drawn.subplots(1, 2)
    for way in dict.fromkeys(r["by"] for r in rows):
        some = [r for r in rows if r["by"] == way]
        devices, line = [r["devices"] for r in some], "--" if way == "arithmetic" else "-"
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


def save(drawn: figure.Figure, path: pathlib.Path) -> None:
    """Writes a PNG."""
    drawn.savefig(path, dpi=110)


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
    top, bottom = max(best[len(best) // 4], *(c[-1] for c in curves)), min(best)
    axis.set_ylim(bottom - 0.05 * (top - bottom), top + 0.05 * (top - bottom))


def _against_experts(axis, runs):
    """Every variant as a labelled point over its number of experts, dense at 1."""
    most = max(r["experts"] for seeds in runs.values() for r in seeds.values())
    for name, seeds in runs.items():
        losses = [r["test_nll"] for r in seeds.values()]
        experts = next(iter(seeds.values()))["experts"]
        axis.errorbar(
            max(experts, 1), np.mean(losses),
            yerr=[[np.mean(losses) - min(losses)], [max(losses) - np.mean(losses)]],
            fmt="o", ms=5, capsize=3, color="black" if experts else "grey",
        )  # fmt: skip
        inward = ("right", -6) if experts == most > 0 else ("left", 6)
        axis.annotate(name, (max(experts, 1), np.mean(losses)), fontsize=8, ha=inward[0],
                      xytext=(inward[1], 3), textcoords="offset points")  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.margins(x=0.2)
    axis.set(xlabel="experts (1: dense)", ylabel="test loss, nats per token")
