"""The numbers that a run survives, field by field: outside of them it overflows or cannot start.

They are wide: what lies inside is not thereby a good choice. Relations between fields (k and
num_experts, steps and a mesh) are checked by the configurations themselves.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from moe.errors import UserError


class Range(NamedTuple):
    """Numbers from `low` to `high`; an open end does not belong to it."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Does the value lie in it? NaN does not."""
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low}"
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high}"


def above_zero(high: float) -> Range:
    """(0, high]."""
    return Range(0, high, open_low=True)


def from_zero(high: float) -> Range:
    """[0, high]."""
    return Range(0, high)


def below(high: float) -> Range:
    """[0, high)."""
    return Range(0, high, open_high=True)


COUNT = 2_000_000_000  # steps, tokens, ids: their arithmetic on the device is int32
SIZE = 16_777_216  # of one axis of an array of weights
WEIGHT = 10_000.0  # of a loss: its gradient stays finite in float32
SEED = below(2**32)  # a key is made of 32 bits: larger seeds would repeat smaller ones
EXPERTS = {
    "num_experts": above_zero(65_536),
    "d_ff": above_zero(SIZE),
    "k": above_zero(65_536),
    "jitter": below(1),
    "balance_weight": from_zero(WEIGHT),
    "z_weight": from_zero(WEIGHT),
    "router_scale": from_zero(10_000.0),
    "group_size": from_zero(COUNT),
    "seats": from_zero(COUNT),
    "capacity_factor": from_zero(1_000_000.0),
    "eval_capacity_factor": from_zero(1_000_000.0),
    "expert_capacity": from_zero(COUNT),
    "shared_experts": from_zero(65_536),
    "expert_dropout": below(1),
}
OPTIONS = {  # of any router
    "columns": from_zero(65_536),
    "reroute_rounds": from_zero(65_536),
    "expert_groups": from_zero(65_536),
    "groups": from_zero(65_536),
    "groups_used": from_zero(65_536),
    "least": from_zero(65_536),
    "most": from_zero(65_536),
    "iterations": above_zero(1_000_000),
    "temperature": Range(1e-6, 1e6),
    "mass": above_zero(1),
    "target_k": from_zero(65_536),
    "rate": above_zero(1),
    "bias_rate": from_zero(1_000.0),
    "importance_weight": from_zero(WEIGHT),
    "load_weight": from_zero(WEIGHT),
    "policy_weight": from_zero(WEIGHT),
    "baseline_weight": from_zero(WEIGHT),
    "entropy_weight": from_zero(WEIGHT),
}
LORA = {
    "rank": from_zero(65_536),
    "alpha": above_zero(1_000_000.0),
}
ATTENTION = {
    "clip_qkv": from_zero(1e30),
    "rope_theta": Range(1.0, 1e30),
    "window": from_zero(COUNT),
}
MODEL = {
    "vocab_size": above_zero(COUNT),
    "num_layers": above_zero(100_000),
    "moe_every": above_zero(100_000),
    "num_dense_layers": from_zero(100_000),
    "d_model": above_zero(SIZE),
    "num_heads": above_zero(65_536),
    "num_kv_heads": from_zero(65_536),
    "d_head": above_zero(SIZE),
    "d_ff": above_zero(SIZE),
    "ngram_rows": from_zero(COUNT),
    "norm_epsilon": from_zero(1.0),
    "init_scale": above_zero(10_000.0),
    "scan_unroll": from_zero(100_000),
}
IMAGES = MODEL | {"vocab_size": from_zero(0)}  # of a model that reads them: there are no ids
TRAIN = {
    "steps": above_zero(COUNT),
    "batch_size": above_zero(COUNT),
    "seq_len": above_zero(COUNT),
    "seed": SEED,
    "first_batch": from_zero(COUNT),
    "unique_tokens": from_zero(10**15),
    "accumulate": above_zero(COUNT),
    "log_every": above_zero(COUNT),
    "eval_every": above_zero(COUNT),
    "eval_batches": above_zero(COUNT),
    "test_batches": from_zero(COUNT),
    "checkpoint_every": above_zero(COUNT),
    "collapse_steps": above_zero(COUNT),
    "largest_grad_norm": from_zero(1e12),
}
OPTIMIZER = {
    "learning_rate": above_zero(10_000.0),
    "warmup_steps": above_zero(COUNT),
    "decay_fraction": from_zero(1.0),
    "weight_decay": from_zero(10_000.0),
    "clip_norm": above_zero(1e12),
    "b1": from_zero(0.999999),  # float32 tells no number between this and 1 apart for long
    "b2": from_zero(0.999999),
}
MESH = {
    "data": Range(-1, 1_000_000),
    "expert": Range(-1, 1_000_000),
    "model": Range(-1, 1_000_000),
    "ep_capacity_factor": above_zero(1_000_000.0),
}
DATA = {
    "vocab_size": above_zero(COUNT),
    "max_documents": from_zero(COUNT),
    "held_out_tokens": from_zero(COUNT),
    "tokenizer_bytes": above_zero(10**12),
}


def check(config: Any, path: str, ranges: Mapping[str, Range]) -> None:
    """Refuses fields outside of their range; a field that `config` does not have is passed over.

    Raises:
      UserError: with the field, its value, its range and what to do.
    """
    for field in dataclasses.fields(config):
        if field.name in ranges:
            check_value(f"{path}.{field.name}", getattr(config, field.name), ranges[field.name])


def check_value(name: str, value: float, valid: Range) -> None:
    """Refuses a number outside of a range.

    Raises:
      UserError: with its name, its value, the range and what to do.
    """
    if not valid.holds(value):
        raise UserError(f"{name}={value} must be {valid}: {_change(value, valid)}")


def _change(value, valid):
    if value != value:
        return "give a number"
    return "raise it" if value < valid.high else "lower it"
