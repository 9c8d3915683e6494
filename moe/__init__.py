"""Mixture-of-Experts research in JAX: what do experts buy at equal FLOPs?

The map
-------
routing/     who goes where: logits (or ids) -> an assignment, statistics of what happened
dispatch/    how tokens travel to the experts and back, on one device and across the mesh
layers/      Linen modules that own parameters: attention, feed-forward, experts, MoE
models/      whole networks built from the layers; MODELS is the list
objectives/  what is learned: next token, masked tokens, spans, classes; OBJECTIVES is the list
ffn.py       what a feed-forward, or a bank of experts, computes
execution.py which kernels compute a model, and how tokens cross the mesh
matmul.py    products of tokens with weights
batch.py     what a step reads
decoding.py  a trained model read token by token, with a cache
generation.py  text after prompts; beams.py searches for the most probable
sampling.py  which token comes next
legacy.py    the names that earlier versions wrote into files
presets/     the published models by name
compat.py    what differs between versions of JAX
paths.py     parameters by their paths
config.py    the sizes of a model and of its experts
schema.py    frozen dataclasses out of config files, and checks with clear errors
ranges.py    the numbers that a run survives
sharding.py  the device mesh and the one table of PartitionSpecs
zero.py      how a weight that devices share comes together where it is used
counting.py  FLOPs of a jaxpr, by part of the model
hlo.py       what a compiled program sends between devices
chips.py     accelerators by their makers' figures
plan.py      a training step planned for a pod that is not here
flops.py     ideal and executed FLOPs, parameters, energy, the equal-FLOPs matcher
data/        packaged corpora and images, tokenizer, packing, batches
interop/     published checkpoints in and out; FAMILIES is the list
initialisation/  where the parameters of step 0 come from; RULES is the list
training/    state, step, loop and what watches it, optimizer, checkpoints, metrics, estimates
evaluation/  loss, text and routers on held-out batches; EVALUATORS is the list
adapt/       a trained model made into another: pruned, merged, upcycled
analysis/    paired statistics, tables, figures

The letters
-----------
Array names end in their shape, einsum strings use the same letters, and no letter
ever means two things:

    B  sequences in the batch           G  groups of tokens routed together
    T  positions in a sequence          S  tokens per group
    D  model width                      E  experts
    N  attention heads                  K  experts chosen per token
    H  width of one head                C  slots per expert (capacity)
    F  hidden width of a feed-forward   V  vocabulary
    L  layers                           M  slots of a group, E * C
    U  positions attended to            P  choices of a group, S * K
    R  rows of a held-out split         X  documents of a held-out split
    I  numbers in a patch of an image

A lower-case letter is the part of that axis that one device holds.

MOE_SIMULATED_DEVICES=8 in the environment makes the CPU pose as so many devices.
"""

__version__ = "0.1.0"

import importlib
import os
from typing import Any

from moe.errors import UserError


def _simulate(number: str) -> None:
    """Lets JAX start on so many simulated CPU devices.

    Raises:
      UserError: if the number is none.
      RuntimeError: if JAX has started.
    """
    if not number.isdigit() or int(number) < 1:
        raise UserError(f"MOE_SIMULATED_DEVICES={number!r}: expected a number of devices, as 8")
    import jax  # not before: data is read without it

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(number))


if os.environ.get("MOE_SIMULATED_DEVICES"):
    _simulate(os.environ["MOE_SIMULATED_DEVICES"])


# The public names, and where they live. They are imported when they are first asked for, so that
# `import moe` starts no backend and reads no data.
PUBLIC = {
    "MoELayer": "moe.layers.moe_layer",
    "MoEConfig": "moe.config",
    "collect": "moe.layers.records",
    "ModelConfig": "moe.config",
    "Decoder": "moe.models.decoder",
    "RunConfig": "moe.training.config",
    "ROUTERS": "moe.routing",
    "DISPATCHERS": "moe.dispatch",
    "MODELS": "moe.models",
    "OBJECTIVES": "moe.objectives",
    "EVALUATORS": "moe.evaluation",
    "train": "moe.training.loop",
    "load_run": "moe.training.runs",
    "generate": "moe.generation",
    "count": "moe.counting",
    "match": "moe.flops",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'moe' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
