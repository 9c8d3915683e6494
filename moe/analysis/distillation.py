"""How much of a teacher's gain its students keep, as Switch counts it (Fedus et al. 2021, 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moe.analysis import markdown, paired, plots, scaling
from moe.analysis.paired import Interval

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure


def table(records: Sequence[dict], dense: str) -> str:
    """A row for each model: its loss, its size, and what it keeps of its teacher's gain.

    Args:
      records: the lines of results.jsonl; a student is called <teacher>_<kind>.
      dense: the variant of equal FLOPs that gains are over.
    """
    runs = scaling.by_variant(list(records))
    head = ("model", "parameters", "less than teacher", "test nats", "Δ dense (95%)", "gain kept")
    rows = [_row(name, runs, dense) for name in runs]
    return f"{markdown.table((*head, f'Δ {control_of(dense)}'), rows)}\n\n{LEGEND}"


LEGEND = (
    "Δ dense: the paired difference from the dense model that learned from text alone, with the 95%"
    " interval over seeds. gain kept: the share of the teacher's gain over it. Switch reports 0.29"
    " for a student that is 99% smaller, 0.37 at 82%. The last column is of students beside their"
    " control, a student that starts from the dense model: what starts from trained weights had"
    " more training than dense, so that only what lies below 0 there is of experts."
)


def control_of(dense: str) -> str:
    """The student that starts from what the dense model learned, and not from experts."""
    return f"{dense}_copied"


def less(own: Mapping[int, dict], other: Mapping[int, dict]) -> Interval:
    """The test loss of one model less another's, over the seeds of both."""
    return paired.interval([own[s]["test_nll"] - other[s]["test_nll"] for s in own if s in other])


def teacher_of(name: str, runs: dict) -> str | None:
    """The model that a student is called after, None of others."""
    found = [other for other in runs if name.startswith(f"{other}_")]
    return max(found, key=len) if found else None


def _row(name, runs, dense):
    own, base, control = runs[name], runs[dense], control_of(dense)
    size = next(iter(own.values()))["total_parameters"]
    teacher = teacher_of(name, runs)
    smaller = kept = beside = ""
    if teacher is not None and name != dense:
        taught = runs[teacher]
        smaller = f"{1 - size / next(iter(taught.values()))['total_parameters']:.0%}"
        kept = paired.kept_text(own, taught, base, "test_nll", ".2f")
        beside = f"{less(own, runs[control])}" if control in runs.keys() - {name} else ""
    mean = sum(r["test_nll"] for r in own.values()) / len(own)
    change = "" if name == dense else f"{less(own, base)}"
    return name, f"{size:,}", smaller, f"{mean:.4f}", change, kept, beside


def drawn(records: Sequence[dict], dense: str) -> figure.Figure:
    """How far students are from dense, a panel for each teacher; lines: the teacher, the control.

    Args:
      records, dense: as of `table`.
    """
    runs = scaling.by_variant(list(records))
    taught = dict.fromkeys(teacher_of(name, runs) for name in runs)
    teachers = [name for name in taught if name not in (None, dense)]
    made = plots.blank(figsize=(5 * len(teachers) + 1, 4.5))
    axes = np.atleast_1d(made.subplots(1, len(teachers), sharey=True))
    axes[0].set(ylabel="test loss less dense's, nats (95%)")
    for axis, teacher in zip(axes, teachers, strict=True):
        students = [name for name in runs if teacher_of(name, runs) == teacher]
        _panel(axis, {name: less(runs[name], runs[dense]) for name in students})
        for number, name in enumerate((teacher, control_of(dense))):
            if name in runs:
                _line(axis, less(runs[name], runs[dense]), number, name)
        kinds = [name.removeprefix(f"{teacher}_") for name in students]
        axis.set(xlabel=f"students of {teacher}", xticks=range(len(kinds)), xticklabels=kinds)
        axis.set(xlim=(-0.5, len(kinds) - 0.5))
        axis.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        axis.grid(alpha=0.3)
    return made


def _panel(axis, students):
    means, halves = zip(*students.values(), strict=True)
    halves = np.nan_to_num(halves)
    axis.errorbar(range(len(means)), means, yerr=halves, fmt="o", ms=7, capsize=4, color="black")
    axis.axhline(0.0, color="black", lw=0.8)


def _line(axis, change, number, name):
    look = plots.style(number) | {"marker": None}
    axis.axhline(change.mean, **look, label=name)
    half = np.nan_to_num(change.half)
    axis.axhspan(change.mean - half, change.mean + half, color=look["color"], alpha=0.15, lw=0)
