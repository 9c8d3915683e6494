"""Other people's layers beside ours: Hugging Face's blocks, in PyTorch.

They are no requirement: `pip install torch transformers`, and on a machine without a GPU PyTorch's
own build for CPUs. They get the same choices, and no capacity: nothing is dropped.
"""

import importlib.util
from collections.abc import Callable

import numpy as np

from experiments.bench_layers import Cell
from moe import schema
from moe.routing.assignment import TopKAssignment

ACTIVATIONS = {"mixtral": "swiglu", "switch": "relu"}  # what their experts compute


def require(flag: str = "--baselines") -> None:
    """Refuses to compare with what is not installed.

    Raises:
      UserError: with what to install.
    """
    missing = [n for n in ("torch", "transformers") if importlib.util.find_spec(n) is None]
    schema.require(
        not missing, f"{flag} needs {' and '.join(missing)}: pip install {' '.join(missing)}"
    )


def calls(cell: Cell, choice: TopKAssignment, training: bool) -> dict[str, Callable[[], None]]:
    """name -> call of the peers whose experts compute what the cell's do."""
    found = {}
    if cell.activation == ACTIVATIONS["mixtral"]:
        for way in ("eager", "grouped_mm"):
            found[f"mixtral_{way}"] = _call(cell, choice, training, _mixtral(cell, way))
    if cell.activation == ACTIVATIONS["switch"] and cell.k == 1:
        found["switch_eager"] = _call(cell, choice, training, _switch(cell))
    return found


def _mixtral(cell, way):
    from transformers.models.mixtral import modeling_mixtral as mixtral

    config = mixtral.MixtralConfig(
        hidden_size=cell.d_model,
        intermediate_size=cell.d_ff,
        num_local_experts=cell.experts,
        num_experts_per_tok=cell.k,
    )
    config._experts_implementation = way
    return mixtral.MixtralExperts(config), _as_it_is


def _as_it_is(expert_SK):
    """Mixtral's experts take the numbers of those that are chosen."""
    return expert_SK


def _switch(cell):
    import torch
    from transformers.models.switch_transformers import modeling_switch_transformers as switch

    config = switch.SwitchTransformersConfig(
        d_model=cell.d_model, d_ff=cell.d_ff, num_experts=cell.experts, dropout_rate=0.0
    )

    def one_hot(expert_SK: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(expert_SK, cell.experts)

    return switch.SwitchTransformersExperts(config), one_hot


def _call(cell, choice, training, made):
    """One forward pass, or it and all gradients; returns nothing that JAX would wait for.

    `made` are the experts, and what turns the choices into what they read.
    """
    import torch

    experts, chosen = made
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = {"device": device, "dtype": getattr(torch, cell.dtype)}
    experts = experts.to(**place)
    for weight in experts.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    expert_SK, gate_SK = (torch.tensor(np.asarray(x[0])).to(device) for x in choice)
    gate_SK = gate_SK.to(place["dtype"]).requires_grad_(training)
    x_SD = torch.randn(cell.tokens, cell.d_model, **place, requires_grad=training)
    ones_SD = torch.ones_like(x_SD)
    read = (x_SD, gate_SK, *experts.parameters())

    def call() -> None:
        with torch.set_grad_enabled(training):
            y_SD = experts(x_SD, chosen(expert_SK.long()), gate_SK)
            if training:
                torch.autograd.grad(y_SD, read, ones_SD, allow_unused=True)
        if device == "cuda":
            torch.cuda.synchronize()

    return call
