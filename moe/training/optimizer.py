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

SCHEDULES = ("cosine", "inverse_sqrt", "wsd")
NOT_DECAYED = ("scale", "bias", "relative")  # norms and biases, by the last part of their name


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: str = "adamw"
    learning_rate: float = 1e-3  # at the end of the warm-up
    schedule: str = "cosine"  # of `SCHEDULES`, see `schedule`
    warmup_steps: int = 100
    decay_fraction: float = 0.2  # of all steps, at the end of "wsd"; 0 never decays
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    b1: float = 0.9  # of adamw
    b2: float = 0.99  # of adamw
    frozen: tuple[str, ...] = ()  # patterns of parameters that stay as they are, see `moe.paths`

    def __post_init__(self):
        schema.one_of("optimizer.name", self.name, ("adamw", "adafactor"))
        schema.one_of("optimizer.schedule", self.schedule, SCHEDULES)
        ranges.check(self, "optimizer", ranges.OPTIMIZER)
        for pattern in self.frozen:
            paths.check(pattern, "optimizer.frozen")
        for name in ("b1", "b2"):
            value = getattr(self, name)
            schema.require(
                self.name == "adamw" or value == getattr(OptimizerConfig, name),
                f"optimizer.{name}={value} does nothing with {self.name}: leave it out",
            )
        default = OptimizerConfig.decay_fraction
        schema.require(
            self.schedule == "wsd" or self.decay_fraction == default,
            f"optimizer.decay_fraction={self.decay_fraction} does nothing with schedule="
            f"{self.schedule!r}: leave it at {default}",
        )

    def stable_steps(self, steps: int) -> int:
        """Of `steps`, those before "wsd" decays: a longer run begins with the same ones."""
        return steps - round(self.decay_fraction * steps)


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate of every step: linear warm-up, then one of three.

    "cosine" falls to a tenth, "inverse_sqrt" with the inverse square root of the step. "wsd"
    (warm-up, stable, decay: Hu et al. 2024, section 4) stays, and falls in a line to zero over the
    last steps, so that runs of several lengths share all but their ends (Haegele et al. 2024).
    """
    peak = config.learning_rate
    warmup = config.warmup_steps
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup, max(steps, warmup + 1), peak / 10
        )

    if config.schedule == "wsd":
        stable = config.stable_steps(steps)
        parts = [
            optax.linear_schedule(0.0, peak, warmup),
            optax.constant_schedule(peak),
            optax.linear_schedule(peak, 0.0, steps - stable),
        ]
        return optax.join_schedules(parts, [warmup, max(stable, warmup)])

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
