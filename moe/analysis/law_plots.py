"""Figures of a grid of cells (`experiments.grid`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from moe.analysis import cells, fitting, law_tables, optima, plots

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

BANDS = 200  # draws that a band is made of


def experts_figure(one: law_tables.Answer) -> figure.Figure:
    """The least loss over the number of experts at equal budgets, on three axes, with 95% bands."""
    drawn = plots.blank(figsize=(14, 4.6))
    axes = drawn.subplots(1, 3, sharey=True)
    for axis, name in zip(axes, law_tables.AXES, strict=True):
        for i, budget in enumerate(law_tables.budgets(one, name)):
            choose = law_tables.chooser(one, name, budget)
            best = choose(one.fitted.coefficients)
            numbers = [found.experts for found in best]
            losses = [found.loss for found in best]
            draws = np.array([[f.loss for f in choose(c)] for c in one.draws[:BANDS]])
            low, high = np.percentile(draws, [2.5, 97.5], axis=0)
            axis.fill_between(numbers, low, high, color=f"C{i}", alpha=0.2, lw=0)
            axis.plot(numbers, losses, **plots.style(i), ms=4, label=f"{budget:.1e}")
            least = int(np.argmin(losses))
            axis.plot(numbers[least], losses[least], "*", color=f"C{i}", ms=14)
        plots.doubling(axis)
        axis.set(xlabel="experts (1: dense; star: the best)", title=f"equal {name}")
        axis.margins(y=0.3)  # the legend's place
        axis.legend(title=name, fontsize=8, ncols=2, loc="upper center")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"least test loss by {one.name}'s law, nats")
    return drawn


def gains_figure(rows: list[dict]) -> figure.Figure:
    """What experts gain over dense of the same size: over the length, a panel for each size."""
    plain = cells.plain(cells.once(rows))
    widths = sorted({row["d_model"] for row in plain})
    drawn = plots.blank(figsize=(3.6 * len(widths), 4.2))
    panels = drawn.subplots(1, len(widths), sharey=True, squeeze=False)[0]
    for panel, width in zip(panels, widths, strict=True):
        here = [row for row in plain if row["d_model"] == width]
        dense = {(r["tokens"], r["seed"]): r["test_nll"] for r in here if r["experts"] == 1}
        for i, number in enumerate(sorted({row["experts"] for row in here} - {1})):
            mine = [r for r in here if r["experts"] == number and (r["tokens"], r["seed"]) in dense]
            tokens = [row["tokens"] / 1e6 for row in mine]
            gains = [dense[row["tokens"], row["seed"]] - row["test_nll"] for row in mine]
            panel.plot(tokens, gains, ".", color=f"C{i}", ms=4, alpha=0.5)
            lengths = sorted(set(tokens))
            means = [np.mean(np.array(gains)[np.array(tokens) == n]) for n in lengths]
            panel.plot(lengths, means, **plots.style(i), label=f"{number:g} experts")
        panel.axhline(0, color="black", ls=":", lw=1)
        plots.doubling(panel)
        panel.set(xlabel="tokens, millions", title=f"D = {width:g}")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    panels[0].set_ylabel("gain over dense, nats per token")
    return drawn


def fits_figure(answers: list[law_tables.Answer]) -> figure.Figure:
    """What each law says over what was measured."""
    columns = min(3, len(answers))
    lines = math.ceil(len(answers) / columns)
    drawn = plots.blank(figsize=(4.6 * columns, 3.8 * lines))
    panels = drawn.subplots(lines, columns, squeeze=False)
    for idle in panels.flat[len(answers) :]:
        idle.remove()
    most = max(np.log2(row["experts"]) for one in answers for row in one.rows)
    for panel, one in zip(panels.flat, answers, strict=False):
        found = cells.of(one.rows)
        said = fitting.predict(one.fitted.law, one.fitted.coefficients, found)
        experts = np.log2(found.experts)
        points = panel.scatter(found.loss, said - found.loss, c=experts, s=10, vmin=0, vmax=most)
        panel.axhline(0, color="black", ls=":", lw=1)
        panel.set(xlabel="test loss, nats", title=f"{one.name}: RMSE {one.fitted.rmse:.4f}")
        panel.grid(alpha=0.3)
    drawn.colorbar(points, ax=drawn.axes, label="log2 E")
    for panel in panels[:, 0]:
        panel.set_ylabel("law minus measured, nats")
    return drawn


def best_figure(one: law_tables.Answer, memories: tuple[float, ...]) -> figure.Figure:
    """The best number of experts over the budget, on three axes, a line for each memory."""
    drawn = plots.blank(figsize=(14, 4.2))
    axes = drawn.subplots(1, 3, sharey=True)
    for axis, name in zip(axes, law_tables.AXES, strict=True):
        places = law_tables.budgets(one, name, 12)
        for i, memory in enumerate(memories):
            found = []
            for budget in places:
                choose = law_tables.chooser(one, name, budget, memory)
                found.append(optima.best_experts(one.draws[:BANDS], choose))
            middle, low, high = np.array(found).T
            label = "any number of parameters" if np.isinf(memory) else f"{memory:.1e} parameters"
            axis.fill_between(places, low, high, color=f"C{i}", alpha=0.15, step="mid", lw=0)
            look = plots.style(i) | {"ms": 4}
            axis.step(places, middle, where="mid", **look, label=label)
        axis.set_xscale("log")
        axis.set_yscale("log", base=2)
        axis.set(xlabel=name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("best number of experts, 95% of draws")
    axes[0].legend(fontsize=8)
    return drawn
