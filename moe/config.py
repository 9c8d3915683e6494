"""Configurations: frozen dataclasses that validate themselves, made from a ConfigDict at the edge.

Modules and pure functions see these, never a ConfigDict. A wrong value is an error that says
what was expected, what came and what to change; an unknown key names the nearest known one.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass

import ml_collections

from moe import dispatch, routing
from moe.layers import feed_forward

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """The experts of every MoE layer and how tokens reach them."""

    num_experts: int
    d_ff: int  # hidden width of one expert
    k: int = 1
    router: str = "top_k"
    dispatcher: str = "gather"
    group_size: int = 0  # tokens that compete for the same slots; 0 is one sequence
    capacity_factor: float = 1.25
    eval_capacity_factor: float = 2.0
    jitter: float = 0.0  # the router's input is multiplied by U(1 - jitter, 1 + jitter)
    balance_weight: float = 0.01
    z_weight: float = 0.001
    router_scale: float = 0.1  # variance of a learned router's initial weights, over D

    def __post_init__(self):
        one_of("moe.router", self.router, routing.ROUTERS)
        one_of("moe.dispatcher", self.dispatcher, dispatch.DISPATCHERS)
        positive(self, "moe", ("num_experts", "d_ff", "k", "router_scale"))
        positive(self, "moe", ("capacity_factor", "eval_capacity_factor"))
        not_negative(self, "moe", ("group_size", "jitter", "balance_weight", "z_weight"))
        require(
            self.k <= self.num_experts, f"moe.k={self.k} exceeds num_experts={self.num_experts}"
        )
        require(self.jitter < 1, f"moe.jitter={self.jitter} must be below 1")
        learned = routing.ROUTERS[self.router].learned
        for name in ("jitter", "balance_weight", "z_weight"):
            require(
                learned or not getattr(self, name),
                f"moe.{name}={getattr(self, name)} does nothing with the {self.router!r} router,"
                " which has no weights: set it to 0",
            )

    def factor(self, train: bool) -> float:
        """The capacity factor in training or in evaluation."""
        return self.capacity_factor if train else self.eval_capacity_factor

    def tokens_per_group(self, length: int) -> int:
        """S for sequences of T tokens."""
        return self.group_size or length


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder; without `moe` it is the dense baseline."""

    vocab_size: int
    num_layers: int
    every: int = 2  # layers are scanned in blocks of this many; the last of each is MoE
    num_dense_layers: int = 0  # of num_layers, before the first block
    d_model: int
    num_heads: int
    num_kv_heads: int = 0  # grouped-query attention; 0 is num_heads
    d_head: int
    d_ff: int  # hidden width of a dense feed-forward, of the dense twin if all layers are MoE
    activation: str = "gelu"  # of experts, and of dense feed-forwards unless dense_activation
    dense_activation: str = ""  # GLaM: gated dense layers beside plain experts
    position: str = "rotary"
    tied: bool = True  # the head's weights are the embedding's
    init_scale: float = 1.0
    dtype: str = "bfloat16"  # of the arithmetic; parameters, router and loss are float32
    remat: bool = False  # recompute each block in the backward pass
    scan_unroll: int = 1  # blocks unrolled in the scan: more program, less overhead on a CPU
    moe: MoEConfig | None = None

    def __post_init__(self):
        positive(self, "model", ("vocab_size", "num_layers", "every", "d_model", "num_heads"))
        positive(self, "model", ("d_head", "d_ff", "init_scale", "scan_unroll"))
        one_of("model.activation", self.activation, feed_forward.ACTIVATIONS)
        one_of("model.dense_activation", self.dense_activation, ("", *feed_forward.ACTIVATIONS))
        one_of("model.position", self.position, ("rotary", "relative"))
        one_of("model.dtype", self.dtype, DTYPES)
        require(
            self.d_head % 2 == 0 or self.position != "rotary",
            f"model.d_head={self.d_head} must be even for rotary positions",
        )
        require(
            self.moe is None or routing.ROUTERS[self.moe.router].causal,
            f"moe.router={self.moe and self.moe.router!r} is not causal: it looks at later tokens,"
            " which a decoder does not have when it generates; choose a causal one",
        )
        require(
            not self.dense_activation or self.moe_layers < self.num_layers,
            f"model.dense_activation={self.dense_activation!r} does nothing when every layer is"
            " MoE: use every=2 or more, or leave it empty",
        )
        not_negative(self, "model", ("num_dense_layers", "num_kv_heads"))
        in_blocks = self.num_layers - self.num_dense_layers
        require(
            in_blocks > 0 and in_blocks % self.every == 0,
            f"model.num_layers={self.num_layers} less num_dense_layers={self.num_dense_layers} must"
            f" be a positive multiple of model.every={self.every}",
        )
        require(
            self.num_heads % self.kv_heads == 0,
            f"model.num_heads={self.num_heads} must be a multiple of num_kv_heads={self.kv_heads}",
        )

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return (self.num_layers - self.num_dense_layers) // self.every if self.moe else 0


def from_config_dict(kind: type, config: ml_collections.ConfigDict, path: str = ""):
    """A frozen dataclass of type `kind` from a ConfigDict with the same keys.

    Raises:
      ValueError: for an unknown key (naming the nearest known one), a missing one, or a bad value.
    """
    require(
        isinstance(config, Mapping | ml_collections.ConfigDict),
        f"{path.rstrip('.')}={config!r} must be a section with the fields of {kind.__name__}",
    )
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in config:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0)
            raise ValueError(f"unknown key {path}{key}: did you mean {path}{near[0]}?")
    needed = (f.name for f in fields.values() if f.default is f.default_factory)  # both MISSING
    missing = [path + name for name in needed if name not in config]
    require(not missing, f"missing {', '.join(missing)} for a {kind.__name__}")
    values = {k: _value(hints[k], config[k], path + k) for k in config}
    return kind(**values)


def complete(kind: type, given: dict) -> ml_collections.ConfigDict:
    """`given` with the defaults of every other field of `kind`, so that flags can override them."""
    return ml_collections.ConfigDict(to_dict(from_config_dict(kind, given)))


def to_dict(config) -> dict:
    """A dataclass as plain nested dictionaries, for JSON."""
    return dataclasses.asdict(config)


def _value(hint, value, path):
    """`value` as the field's type: nested dataclasses are built, numbers are not guessed."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in kinds:
        return None
    kind = next(k for k in kinds if k is not types.NoneType)
    if dataclasses.is_dataclass(kind):
        return from_config_dict(kind, value, path + ".")
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        fits = isinstance(value, list | tuple) and all(type(v) is element for v in value)
        require(fits, f"{path}={value!r} must be a tuple of {element.__name__}: {(value,)}")
        return tuple(value)
    if kind is float and type(value) is int:
        return float(value)
    require(type(value) is kind, f"{path}={value!r} must be a {kind.__name__}")
    return value


def require(holds: bool, message: str) -> None:
    """Raises ValueError(message) unless it holds."""
    if not holds:
        raise ValueError(message)


def one_of(name: str, value, options) -> None:
    """Refuses a value outside the options."""
    require(value in options, f"{name}={value!r} is not one of {', '.join(map(repr, options))}")


def positive(config, path: str, names) -> None:
    """Refuses fields that are not above 0."""
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{path}.{name}={value} must be above 0 and finite")


def not_negative(config, path: str, names) -> None:
    """Refuses fields below 0."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < math.inf, f"{path}.{name}={value} must not be negative, and finite")
