"""Checkpoints as Hugging Face publishes them, in and out.

A family (`FAMILIES`, by `model_type` in config.json) says what its fields mean, as a `ModelConfig`,
and which tensor is which parameter, as a list of rules that are read in both directions
(`moe.interop.rules`). Reading is strict: every tensor of the files is used, every parameter is
filled, every field of config.json is understood, or an error names what is not.

    config, params = interop.load("path/to/olmoe")
    interop.save("elsewhere", config, params, "olmoe")
"""

from moe.interop.families import FAMILIES
from moe.interop.reading import load
from moe.interop.writing import save

__all__ = ["FAMILIES", "load", "save"]
