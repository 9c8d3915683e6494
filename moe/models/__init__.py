"""Whole networks built from the layers. `MODELS` is the whole list.

A model is a config and `build(config, execution) -> contract.Model`; a new one is one file and one
line here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from moe.config import ModelConfig
from moe.errors import UserError
from moe.execution import Execution
from moe.models import classifier, contract, decoder, encoder_decoder, pair_ranker, vision


class Architecture(NamedTuple):
    """One line of `MODELS`."""

    config: type  # its sizes, a frozen dataclass
    build: Callable[[Any, Execution], contract.Model]
    reads: str = "text"  # or "images"


MODELS = {
    "decoder": Architecture(ModelConfig, decoder.build),
    "classifier": Architecture(classifier.ClassifierConfig, classifier.build),
    "encoder_decoder": Architecture(encoder_decoder.EncoderDecoderConfig, encoder_decoder.build),
    "pair_ranker": Architecture(pair_ranker.PairRankerConfig, pair_ranker.build),
    "vision": Architecture(vision.VisionConfig, vision.build, reads="images"),
}


def build(config: Any, execution: Execution = Execution()) -> contract.Model:  # noqa: B008, immutable
    """The model of a config, whose type says which architecture it is.

    Args:
      config: of one of `MODELS`.
      execution: how the machine executes it.

    Raises:
      UserError: if no architecture has such a config.
    """
    for architecture in MODELS.values():
        if architecture.config is type(config):
            return architecture.build(config, execution)
    known = ", ".join(f"{name} ({a.config.__name__})" for name, a in MODELS.items())
    raise UserError(f"no model is made from a {type(config).__name__}; there are {known}")


def init(config: Any, key: jax.Array) -> dict:
    """Initial float32 parameters, born sharded on the current mesh and equal on every mesh."""
    return build(config).init(key)


def parameter_shapes(config: Any) -> dict:
    """The parameters as ShapeDtypeStructs: no memory is taken, whatever the size."""
    return contract.parameter_shapes(build(config))
