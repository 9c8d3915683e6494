"""What an evaluator is: a look at a training state, as numbers to log."""

from collections.abc import Callable
from typing import NamedTuple, Protocol


class State(Protocol):
    """What an evaluator reads of a training state, `moe.training.step.State`."""

    @property
    def params(self) -> dict:
        """The model's parameters."""

    @property
    def router_state(self) -> dict:
        """What its routers hold beside weights."""


def nothing(state: State) -> None:
    """Most evaluators do not look at the state before a step."""
    del state


class Evaluator(NamedTuple):
    """Made by a line of `EVALUATORS`, (run, data, split) -> Evaluator, once a run."""

    evaluate: Callable[[State], dict]  # what to log, numbers and arrays by name
    before_step: Callable[[State], None] = nothing  # is shown the state one step earlier
