"""Reliability diagrams: how often predictions are right, over how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import plots
from moe.evaluation.calibration import Bins


def diagram(panels: Mapping[str, Sequence[Bins]]) -> figure.Figure:
    """A panel for each title, with a curve for each of its bins (Guo et al. 2017, figure 1).

    The area of a point is its share of the predictions; on the dashed line they are calibrated.
    """
    drawn = plots.blank(figsize=(4.2 * len(panels), 4.2))
    axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="grey", lw=1, ls="--")
        for bins in curves:
            share_B = np.array(bins.number) / np.sum(bins.number)
            axis.scatter(bins.confidence, bins.accuracy, 400 * share_B, alpha=0.4)
            axis.plot(bins.confidence, bins.accuracy, lw=1)
        axis.set(title=title, xlabel="confidence", xlim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="share that is right", ylim=(0, 1))
    return drawn
