"""What an evaluator is: a look at a training state, as numbers to log."""

from collections.abc import Callable
from typing import Any, NamedTuple


def nothing(state: Any) -> None:
    """Most evaluators do not look at the state before a step."""
    del state


class Evaluator(NamedTuple):
    """Made by a line of `EVALUATORS`, (run, data, split) -> Evaluator, once a run.

    States have parameters `params` and the routers' `router_state`.
    """

    evaluate: Callable[[Any], dict]  # state -> what to log, numbers and arrays by name
    before_step: Callable[[Any], None] = nothing  # is shown the state one step earlier
