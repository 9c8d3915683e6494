"""The optax chain: clip, adamw or adafactor, weight decay where it belongs, a schedule.

Adafactor is what Switch and GLaM trained with; its second moments of an expert bank are factored
over that array's two largest axes, as optax does it.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from moe import paths, ranges, schema

NOT_DECAYED = ("scale", "bias", "relative")  # norms and biases, by the last part of their name


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: str = "adamw"
    learning_rate: float = 1e-3  # at the end of the warm-up
    schedule: str = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    b1: float = 0.9  # of adamw
    b2: float = 0.99  # of adamw
    frozen: tuple[str, ...] = ()  # patterns of parameters that stay as they are, see `moe.paths`

    def __post_init__(self):
        schema.one_of("optimizer.name", self.name, ("adamw", "adafactor"))
        schema.one_of("optimizer.schedule", self.schedule, ("cosine", "inverse_sqrt"))
        ranges.check(self, "optimizer", ranges.OPTIMIZER)
        for pattern in self.frozen:
            paths.check(pattern, "optimizer.frozen")
        for name in ("b1", "b2"):
            value = getattr(self, name)
            schema.require(
                self.name == "adamw" or value == getattr(OptimizerConfig, name),
                f"optimizer.{name}={value} does nothing with {self.name}: leave it out",
            )


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up, then a cosine to a tenth or the inverse square root of the step."""
    peak = config.learning_rate
    warmup = config.warmup_steps
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup, max(steps, warmup + 1), peak / 10
        )

    def decay(step: jax.Array) -> jax.Array:
        return peak * (warmup / jnp.maximum(step + warmup, 1)) ** 0.5

    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def make(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The whole chain for a run of `steps` steps; weight decay is scaled by the rate in both.

    Frozen parameters have no state in it, and do not count in the norm that is clipped.
    """
    scaled = {
        "adamw": optax.scale_by_adam(b1=config.b1, b2=config.b2),
        "adafactor": optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)),
    }
    trained = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        scaled[config.name],
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )
    if not config.frozen:
        return trained
    rules = {"trained": trained, "frozen": optax.set_to_zero()}
    return optax.partition(rules, functools.partial(_labels, config.frozen))


def _labels(patterns, params):
    """For every parameter "frozen" or "trained"."""
    found = list(paths.named(params))
    paths.check_used(patterns, found, "optimizer.frozen")
    schema.require(
        not all(paths.matches(patterns, path) for path in found),
        f"optimizer.frozen={patterns} matches every parameter: nothing is left to train",
    )

    def label(path: tuple, _: Any) -> str:
        return "frozen" if paths.matches(patterns, paths.name(path)) else "trained"

    return jax.tree_util.tree_map_with_path(label, params)


def decayed(params: dict) -> dict:
    """True for the leaves that weight decay touches: matrices, not norms and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)
