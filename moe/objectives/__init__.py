"""What is learned. `OBJECTIVES` is the whole list: a new objective is one file and one line here.

See `contract` for what an objective is, and `next_token` for the smallest.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from moe import models, paths, schema
from moe.batch import Batch
from moe.execution import Execution
from moe.models import lora
from moe.objectives import (
    classification,
    contract,
    distillation,
    fusing,
    instruction,
    masked_token,
    next_token,
    pair_ranking,
    span_corruption,
)

OBJECTIVES = {
    "next_token": next_token.OBJECTIVE,
    "masked_token": masked_token.OBJECTIVE,
    "classification": classification.OBJECTIVE,
    "span_corruption": span_corruption.OBJECTIVE,
    "distillation": distillation.OBJECTIVE,
    "instruction": instruction.OBJECTIVE,
    "pair_ranking": pair_ranking.OBJECTIVE,
    "fusing": fusing.OBJECTIVE,
}


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which objective, and its own options."""

    name: str = "next_token"
    options: contract.Options | None = None  # None: the objective's defaults

    @classmethod
    def types(cls, given: Mapping) -> dict[str, Any]:
        """The options are those of the objective that is named."""
        name = given.get("name", cls.name)
        schema.one_of("objective.name", name, OBJECTIVES)
        return {"options": OBJECTIVES[name].options | None}

    def __post_init__(self) -> None:
        schema.one_of("objective.name", self.name, OBJECTIVES)
        if self.options is None:
            object.__setattr__(self, "options", self.objective.options())
        schema.require(
            type(self.options) is self.objective.options,
            f"objective.options={self.options} are not those of {self.name!r}",
        )

    @property
    def objective(self) -> contract.Objective:
        """The objective."""
        return OBJECTIVES[self.name]

    def check(self, model_config: Any) -> None:
        """Refuses a model that cannot learn this."""
        if self.objective.check:
            self.objective.check(model_config, self.options)


def usual(model_config: Any) -> str:
    """The objective that a model is made for."""
    if hasattr(model_config, "OBJECTIVE"):
        return model_config.OBJECTIVE
    if hasattr(model_config, "num_classes"):
        return "classification"
    return "next_token" if len(model_config.stacks) == 1 else "span_corruption"


@functools.cache
def task(
    model_config: Any,
    objective: ObjectiveConfig | None = None,
    frozen: tuple[str, ...] = (),
    execution: Execution = Execution(),  # noqa: B008, immutable
    low_rank: lora.LoraConfig = lora.LoraConfig(),  # noqa: B008, immutable
) -> contract.Task:
    """The model of a config with what it learns.

    Args:
      model_config: of any model of `models.MODELS`.
      objective: by default the usual one.
      frozen: patterns of the paths of parameters that get no gradient, see `moe.paths`.
      execution: how the machine executes the model.
      low_rank: changes of weights beside which all else is frozen.
    """
    if objective is None:
        objective = ObjectiveConfig(name=usual(model_config))
    how = objective.objective
    model = lora.around(models.build(model_config, execution), low_rank)
    model = how.around(model, objective.options)
    forward = functools.partial(how.forward, model, objective.options)
    lengths = functools.partial(how.lengths, objective.options)
    still = (*frozen, *how.frozen)
    return contract.Task(model, functools.partial(_forward, forward, still), lengths)


def _forward(
    forward: Callable[..., contract.ForwardOutput],
    frozen: tuple[str, ...],
    params: dict,
    router_state: dict,
    batch: Batch,
    key: jax.Array,
    train: bool,
) -> contract.ForwardOutput:
    """One forward pass, in which frozen parameters are constants."""
    return forward(paths.frozen(params, frozen), router_state, batch, key, train)
