"""Networks, mixtures and hierarchies on tables of numbers; EM against gradients."""

from collections.abc import Sequence

import numpy as np

from moe.analysis import markdown, paired
from moe.analysis.mixture_1991 import ratio_text

NETWORK = "network, gradient"
SAME = 1e-3  # nats by which two ends may differ and be one


def held_out(records: Sequence[dict]) -> str:
    """A row for each table and model: test loss, and its paired difference from the network's."""
    found = {(one["table"], one["model"]): one for one in records}
    head = ("table", "model", "weights", "test loss", "Δ from the network (95%)", "wrong")
    rows = [_held_out(one, found[one["table"], NETWORK]) for one in records]
    return f"{markdown.table(head, rows)}\n\n{HELD_OUT}"


HELD_OUT = (
    "test loss: of numbers the mean squared error over the variance of training rows, of classes"
    " nats; means over splits of the rows. wrong: the share of test rows. Validation rows chose the"
    " step and the learning rate."
)


def _held_out(one, network):
    change = paired.interval(np.subtract(one["loss"], network["loss"]))
    told = one["loss"] != one["wrong"]  # a class
    return (
        one["table"],
        one["model"],
        f"{one['weights']}",
        f"{np.mean(one['loss']):.4f}",
        "" if one is network else f"{change}",
        f"{np.mean(one['wrong']):.1%}" if told else "",
    )


def starts(records: Sequence[dict]) -> str:
    """A row for each table, method and tolerance: passes to the same objective from one start."""
    head = (
        "table", "starts", "method", "rate", "end, less EM's (95%)", "same end", "to within",
        "EM's steps (median)", "EM's passes (median)", "its passes (median)",
        "passes over EM's (95%)", "the same, of same ends (95%)", "its steps over EM's (95%)",
    )  # fmt: skip
    rows = [
        _started(one, method, found, tolerance)
        for one in records
        for method, found in one["methods"].items()
        for tolerance in found["to"]
    ]
    return f"{markdown.table(head, rows)}\n\n{STARTS}"


STARTS = (
    "The hierarchy on all rows of a table, by EM and by a gradient method from the same starts:"
    " random ones, and ones near an end of EM, so that most end there. end: of the log likelihood"
    " less the ridge, nats of all rows together; same end: the share of starts from which both end"
    " within 0.001 nats. to within: of the lower end, which both reach. passes: sweeps over"
    " the rows, of which a step of EM has several; geometric means of ratios over paired starts."
)


def _started(one, method, found, tolerance):
    change = np.subtract(found["end"], found["em_end"])
    same = np.abs(change) < SAME
    passes = found["to"][tolerance]
    em = _passes_of_em(one, passes)
    more = over_em(one, method, tolerance)
    return (
        one["table"],
        one["starts"],
        method,
        f"{one['rate']:g}" if method == "Adam" else "",
        f"{paired.interval(change)}",
        f"{same.mean():.0%}",
        tolerance,
        f"{np.median(em / one['passes']):,.0f}",
        f"{np.median(em):,.0f}",
        f"{np.median(passes['other']):,.0f}",
        ratio_text(more),
        ratio_text(more[same]) if same.any() else "",
        ratio_text(more + np.log(one["passes"])),
    )


def over_em(one: dict, method: str, tolerance: str) -> np.ndarray:
    """The logarithm of a method's passes over EM's, from each start.

    Args:
      one: the record of a table and a kind of starts.
      method: of its methods.
      tolerance: of the end that both reach.
    """
    passes = one["methods"][method]["to"][tolerance]
    return np.log(passes["other"]) - np.log(_passes_of_em(one, passes))


def _passes_of_em(one, passes):
    """Whole steps, one at least."""
    return np.maximum(np.divide(passes["em"], one["passes"]), 1) * one["passes"]
