"""The mixture of 1991: experts that compete for cases, and a gate (Jacobs et al. 1991).

Experts and the gate read the same input. A single network is a mixture of one expert with hidden
units: its gate is 1, and the competitive loss is half the squared error. Pure functions of arrays,
to be vmapped over seeds and learning rates; they stand apart from `MODELS`, whose models read
tokens and train in steps of `moe.training`.

Letters: R cases, I inputs, O outputs, E experts, H hidden units of an expert.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from moe import ranges, schema

SQUASHED = {"linear": lambda x: x, "logistic": jax.nn.sigmoid}  # what an output unit does last
FIELDS = {
    "inputs": ranges.above_zero(ranges.SIZE),
    "outputs": ranges.above_zero(ranges.SIZE),
    "experts": ranges.above_zero(ranges.SIZE),
    "hidden": ranges.from_zero(ranges.SIZE),
}


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """The sizes of a mixture."""

    inputs: int
    outputs: int
    experts: int = 4
    hidden: int = 0  # logistic units of each expert; 0: one layer of weights
    squash: str = "logistic"

    def __post_init__(self) -> None:
        ranges.check(self, "mixture", FIELDS)
        schema.one_of("mixture.squash", self.squash, SQUASHED)


def init(config: MixtureConfig, key: jax.Array) -> dict[str, jax.Array]:
    """Experts uniform within 1/sqrt(fan-in); a gate of zeros, so that none is preferred.

    The last row of every matrix is its bias.
    """
    c = config
    gate = jnp.zeros((c.inputs + 1, c.experts))
    if not c.hidden:
        return {"gate": gate, "out": _uniform(key, (c.experts, c.inputs + 1, c.outputs))}
    first, second = jax.random.split(key)
    hidden = _uniform(first, (c.experts, c.inputs + 1, c.hidden))
    return {
        "gate": gate,
        "hidden": hidden,
        "out": _uniform(second, (c.experts, c.hidden + 1, c.outputs)),
    }


def _uniform(key, shape):
    bound = (shape[1] - 1) ** -0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def parameters(config: MixtureConfig) -> int:
    """How many weights learn; the gate of one expert has none."""
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    of_experts = sum(w.size for name, w in shapes.items() if name != "gate")
    return of_experts + (shapes["gate"].size if config.experts > 1 else 0)


def with_bias(x: jax.Array) -> jax.Array:
    """Inputs with a last one that is always 1."""
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)


def log_gates(params: dict[str, jax.Array], x_RI: jax.Array) -> jax.Array:
    """The logarithm of each expert's share p of a case, [R, E]."""
    return jax.nn.log_softmax(with_bias(x_RI) @ params["gate"])


def outputs(config: MixtureConfig, params: dict[str, jax.Array], x_RI: jax.Array) -> jax.Array:
    """What each expert says of each case, [R, E, O]."""
    x_ERI = jnp.broadcast_to(with_bias(x_RI), (config.experts, *with_bias(x_RI).shape))
    if config.hidden:
        x_ERI = with_bias(jax.nn.sigmoid(x_ERI @ params["hidden"]))
    out_ERO = SQUASHED[config.squash](x_ERI @ params["out"])
    return out_ERO.swapaxes(0, 1)


def blend(log_gate_RE: jax.Array, out_REO: jax.Array) -> jax.Array:
    """The answer of the whole, [R, O]: experts' outputs in the shares of the gate."""
    return jnp.einsum("RE,REO->RO", jnp.exp(log_gate_RE), out_REO)


def _squares(out_REO, target_RO):
    return jnp.square(target_RO[:, None] - out_REO).sum(-1)


def cooperative(log_gate_RE: jax.Array, out_REO: jax.Array, target_RO: jax.Array) -> jax.Array:
    """Equation 1.1: the squared error of the blend, [R]; experts mend what others leave."""
    return jnp.square(target_RO - blend(log_gate_RE, out_REO)).sum(-1)


def expected(log_gate_RE: jax.Array, out_REO: jax.Array, target_RO: jax.Array) -> jax.Array:
    """Equation 1.2: the squared error of an expert that the gate draws, [R]."""
    return (jnp.exp(log_gate_RE) * _squares(out_REO, target_RO)).sum(-1)


def competitive(log_gate_RE: jax.Array, out_REO: jax.Array, target_RO: jax.Array) -> jax.Array:
    """Equation 1.3: minus the log likelihood of a mixture of unit Gaussians, [R]."""
    return -jax.nn.logsumexp(log_gate_RE - _squares(out_REO, target_RO) / 2, -1)


LOSSES = {"competitive": competitive, "expected": expected, "cooperative": cooperative}
