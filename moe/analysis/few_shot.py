"""The table of few-shot tasks in GLaM's layout, and how calibrated the choices are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported where a figure is drawn: no --help should wait for it
    from matplotlib import figure

from moe.analysis import markdown, reliability
from moe.data import questions
from moe.evaluation import calibration
from moe.evaluation.few_shot import Mean, Result

# Of all scores, by group of tasks.
SHOWN: dict[str, tuple[str, ...]] = {"NLG": ("exact_match", "f1"), "NLU": ("acc", "acc_norm")}


def table(results: Sequence[Result]) -> str:
    """A row for each task, grouped as in Du et al. 2022, table 11, with means of the groups.

    Scores are in percent, means with standard errors over questions; bits per byte are those of the
    gold answer.

    Args:
      results: of `few_shot.evaluate`.
    """
    shots = sorted({result.shots for result in results})
    found = {(result.task, result.shots): result for result in results}
    parts = []
    for group, shown in SHOWN.items():
        tasks = [name for name, task in questions.TASKS.items() if task.group == group]
        tasks = [name for name in tasks if any((name, k) in found for k in shots)]
        if not tasks:
            continue
        columns = [*shown, "gold bits per byte"]
        head = (group, "questions", *(f"{k}-shot {c}" for k in shots for c in columns))
        rows = [_row(name, shots, shown, found) for name in tasks]
        rows.append(_mean_row(tasks, shots, shown, found))
        parts.append(markdown.table(head, rows))
    return "\n\n".join(parts)


def _row(name, shots, shown, found):
    number = max(found[name, k].questions for k in shots if (name, k) in found)
    cells = []
    for k in shots:
        result = found.get((name, k))
        cells += [percent(result.scores[rule]) if result else "" for rule in shown]
        cells.append(plain(result.bits_per_byte) if result else "")
    return (name, f"{number}", *cells)


def _mean_row(tasks, shots, shown, found):
    """Over the tasks that have every number of examples."""
    whole = [name for name in tasks if all((name, k) in found for k in shots)]
    cells = []
    for k in shots:
        results = [found[name, k] for name in whole]
        for rule in shown:
            cells.append(percent(_average([r.scores[rule] for r in results])) if results else "")
        cells.append(plain(_average([r.bits_per_byte for r in results])) if results else "")
    return (f"mean of {len(whole)}", "", *cells)


def _average(means):
    """Of independent tasks."""
    errors = [one.error for one in means]
    return Mean(
        float(np.mean([one.mean for one in means])), float(np.hypot.reduce(errors)) / len(means)
    )


def percent(value: Mean) -> str:
    """A share with its standard error, in percent."""
    return f"{100 * value.mean:.1f} ± {100 * value.error:.1f}"


def plain(value: Mean) -> str:
    """A mean with its standard error."""
    return f"{value.mean:.3f} ± {value.error:.3f}"


def calibration_table(results: Sequence[Result]) -> str:
    """How calibrated the probabilities of the choices are, tasks of a number of examples together.

    ECE has ten bins, as in BIG-bench (Srivastava et al. 2022, section 3.2); beside it stands what
    perfectly calibrated predictions would show by chance.
    """
    rows = []
    for shots, pairs in _choices(results).items():
        found = calibration.summary(*_confidence(pairs))
        brier = float(np.mean([_brier(p_C, gold) for p_C, gold in pairs]))
        rows.append(
            (f"{shots}", f"{len(pairs)}", *(f"{found[key]:.3f}" for key in COLUMNS), f"{brier:.3f}")
        )
    head = ("examples", "questions", *COLUMNS.values(), "Brier of all choices")
    return markdown.table(head, rows)


def calibration_figure(results: Sequence[Result]) -> figure.Figure:
    """The same as a diagram, a panel for each number of examples."""
    panels = {}
    for shots, pairs in _choices(results).items():
        bins = calibration.equal_width(*_confidence(pairs))
        panels[f"{shots} examples: ECE {calibration.error(bins):.3f}"] = [bins]
    return reliability.diagram(panels)


def _choices(results):
    """(p of each choice, the gold one) of all questions with choices, by number of examples."""
    found = {}
    for k in sorted({r.shots for r in results}):
        found[k] = [pair for r in results if r.shots == k for pair in r.p_gold]
    return {k: pairs for k, pairs in found.items() if pairs}


def _confidence(pairs):
    """(confidence_N, right_N)."""
    confidence_N = np.array([max(p_C) for p_C, _ in pairs])
    return confidence_N, np.array([int(np.argmax(p_C)) == gold for p_C, gold in pairs])


def _brier(p_C, gold):
    return calibration.multiclass_brier(np.array([p_C]), np.array([gold]))


COLUMNS = {
    "accuracy": "accuracy",
    "confidence": "confidence",
    "ece": "ECE",
    "ece_by_chance": "by chance",
    "ece_equal_count": "ECE, equal counts",
    "ece_equal_count_by_chance": "by chance ",
}


def left_out(number: Mapping[str, int]) -> str:
    """Says how many questions of each task were not asked."""
    said = ", ".join(f"{count} of {task}" for task, count in number.items())
    return f"Left out, since an answer is longer than what the model reads at once: {said}."
