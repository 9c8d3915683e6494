"""What a preset is."""

from dataclasses import dataclass

from moe.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model and what is published of it."""

    model: ModelConfig
    total: float | None  # published parameters
    active: float | None = None  # of those, what one token meets
    length: int  # T of its training
    tokens: float | None = None  # of its training run
    twin: str = ""  # the dense model that its paper compares it with
    source: str
    note: str = ""
