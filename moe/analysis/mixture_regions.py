"""What a model of 1991 says of every pair of formants, and where its gate changes experts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import plots
from moe.data import vowels
from moe.models import mixture
from moe.models.mixture import MixtureConfig

POINTS = 200  # along each axis
ROOM = 0.1  # kHz beyond the cases


class Region(NamedTuple):
    """A trained model with one output."""

    name: str
    model: MixtureConfig
    params: dict[str, jax.Array]


def drawn(found: vowels.Vowels, models: Sequence[Region]) -> figure.Figure:
    """A panel for each model, with the training cases.

    Shaded where the answer is above 1/2. Black lines: where the gate's first expert changes.
    Coloured lines: where an expert says 1/2, drawn where it is the gate's first.
    """
    made = plots.blank(figsize=(5.2 * len(models), 4.8))
    axes = made.subplots(1, len(models), sharey=True, squeeze=False)[0]
    first_R = found.speaker_R <= vowels.TRAINING
    for axis, one in zip(axes, models, strict=True):
        _panel(axis, one, found.formant_RI)
        for place, sign in enumerate(vowels.VOWELS):
            look = plots.style(place) | {"ls": "none", "mfc": "none", "ms": 5}
            own_RI = found.formant_RI[first_R & (found.vowel_R == place)]
            axis.plot(*own_RI.T, **look, label=sign)
        axis.set(title=one.name, xlabel="first formant, kHz")
    axes[0].set_ylabel("second formant, kHz")
    plots.legend_above(made, len(vowels.VOWELS))
    return made


def _panel(axis, one, formant_RI):
    lines = [
        np.linspace(low - ROOM, high + ROOM, POINTS)
        for low, high in zip(formant_RI.min(0), formant_RI.max(0), strict=True)
    ]
    across, up = np.meshgrid(*lines)
    x_RI = jnp.asarray(np.stack([across.ravel(), up.ravel()], -1), jnp.float32)
    log_gate_RE, out_REO, answer_RO = map(np.asarray, _said(one.model, one.params, x_RI))
    answer = answer_RO.reshape(across.shape)
    axis.contourf(across, up, answer, levels=[-1, 0.5, 2], colors=["white", "0.85"])
    axis.contour(across, up, answer, levels=[0.5], colors="0.5", linewidths=0.8)
    first = log_gate_RE.argmax(-1).reshape(across.shape)
    for i in np.unique(first) if one.model.experts > 1 else ():
        own = np.where(first == i, out_REO[:, i, 0].reshape(across.shape), np.nan)
        axis.contour(across, up, first == i, levels=[0.5], colors="black", linewidths=1)
        if np.nanmin(own) < 0.5 < np.nanmax(own):
            look = {"colors": f"C{i}", "linestyles": plots.LINES[i % len(plots.LINES)]}
            axis.contour(across, up, own, levels=[0.5], linewidths=2, **look)


@functools.partial(jax.jit, static_argnames="model")
def _said(model, params, x_RI):
    """Log gates, what experts say, and what the whole says."""
    log_gate_RE, out_REO = mixture.log_gates(params, x_RI), mixture.outputs(model, params, x_RI)
    return log_gate_RE, out_REO, mixture.blend(log_gate_RE, out_REO)
