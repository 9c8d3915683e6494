"""The experts of a trained model, wherever its layers keep them.

A bank is what one stack's MoE layers own, as a dictionary: "experts" with w_in [L, E, D, F] and so
on, "router" [L, D, E], and what else the router learns. A decoder has one bank, an encoder-decoder
two.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from moe import schema
from moe.config import ModelConfig, MoEConfig


class Trained(NamedTuple):
    """A model with its parameters."""

    model: ModelConfig
    params: dict
    router_state: dict  # arrays [L, ...] of all MoE layers


def experts(model: ModelConfig) -> MoEConfig:
    """The experts of a model.

    Raises:
      UserError: if it has none.
    """
    schema.require(model.experts is not None, "this model is dense: it has no experts to change")
    assert model.experts is not None
    return model.experts


def paths(model: ModelConfig) -> list[tuple[str, ...]]:
    """Where each bank lies in the parameters."""
    inside = "block", f"layer_{model.moe_every - 1}", "moe"
    return [(name, *inside) if name else inside for name in model.stacks]


def of(trained: Trained) -> list[dict]:
    """All banks, in the order in which layers are counted.

    Raises:
      UserError: if the model has no experts.
    """
    experts(trained.model)
    return [at(trained.params, path) for path in paths(trained.model)]


def places(model: ModelConfig) -> list[tuple[int, int]]:
    """(number of its bank, number in it) of every MoE layer, in the order in which they run."""
    stacks = enumerate(model.stacks.values())
    return [(number, layer) for number, stack in stacks for layer in range(stack.moe_layers)]


def by_layer(trained: Trained) -> list[dict[str, Any]]:
    """The experts' matrices [E, ...] of every MoE layer, in the order of `places`."""
    found = of(trained)
    return [
        {name: w[layer] for name, w in found[number]["experts"].items()}
        for number, layer in places(trained.model)
    ]


def at(tree: dict, path: Sequence[str]) -> dict:
    """What lies under a path."""
    for name in path:
        tree = tree[name]
    return tree


def with_banks(params: dict, model: ModelConfig, banks: Sequence[dict]) -> dict:
    """The parameters with other banks, given in the order of `of`."""
    for path, bank in zip(paths(model), banks, strict=True):
        params = replaced(params, path, bank)
    return params


def replaced(tree: dict, path: Sequence[str], value: dict) -> dict:
    """The tree with something else under a path."""
    if not path:
        return value
    return tree | {path[0]: replaced(tree[path[0]], path[1:], value)}


def moved(params: dict, path: tuple[str, ...], name: str, value: dict) -> dict:
    """The parameters in which something, perhaps of another name, stands where a path led."""
    *above, last = path
    parent = {key: x for key, x in at(params, above).items() if key != last}
    return replaced(params, above, parent | {name: value})


def by_stack(model: ModelConfig, x_L: np.ndarray) -> list[np.ndarray]:
    """An array of all MoE layers, cut into those of each stack."""
    ends = np.cumsum([stack.moe_layers for stack in model.stacks.values()])[:-1]
    return np.split(x_L, ends)


def with_experts(model: ModelConfig, **changes: Any) -> ModelConfig:
    """The same model with some fields of its experts changed.

    Raises:
      UserError: if there can be no such model.
    """
    return dataclasses.replace(model, experts=dataclasses.replace(experts(model), **changes))
