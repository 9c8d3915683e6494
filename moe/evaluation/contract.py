"""What an evaluator is: a look at a training state, as numbers to log."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # moe.training builds on this package
    from moe.training.step import State


def nothing(state: State) -> None:
    """Most evaluators do not look at the state before a step."""
    del state


class Evaluator(NamedTuple):
    """Made by a line of `EVALUATORS`, (run, data, split) -> Evaluator, once a run.

    Of a state it reads `params` and the routers' `router_state`, no more.
    """

    evaluate: Callable[[State], dict]  # what to log, numbers and arrays by name
    before_step: Callable[[State], None] = nothing  # is shown the state one step earlier
