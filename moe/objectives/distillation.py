"""A student learns what a teacher would say, beside what comes (Hinton et al. 2015).

The loss in training is share x cross-entropy to the teacher's probabilities + (1 - share) x
cross-entropy to the targets; Switch's share is 0.25 (Fedus et al. 2021, section 4.1). In evaluation
it is that of `next_token`, so that it compares.

The teacher's parameters lie beside the student's, under "teacher", and are frozen. A run takes them
from the teacher's by `init_from`, and with them what the student starts from, see `START` and
`merged`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from moe import models, ranges
from moe.batch import Batch
from moe.config import ModelConfig
from moe.errors import UserError
from moe.layers import embedding
from moe.models.contract import TEACHER, Model
from moe.objectives import contract, next_token

BOTH = (f"{TEACHER}/(.*)", "take", r"\1")
# Rules of `init_from`: the student has what is not its feed-forwards' from the teacher (Switch).
START = (BOTH, (r".*/(ffn|moe)/.*", "fresh"), (r".*", "take"))
TAUGHT = (BOTH, (r".*", "fresh"))  # it has nothing of the teacher


def merged(moe_every: int) -> tuple[tuple[str, ...], ...]:
    """Rules by which a dense student also starts with the mean of the teacher's experts.

    Args:
      moe_every: of the teacher, whose dense feed-forwards the student has as they are.
    """
    last = rf"(.*/layer_{moe_every - 1})/ffn/(.*)"
    return BOTH, (last, "mean", r"\1/moe/experts/\2"), (r".*", "take")


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """Who teaches, and how much it counts."""

    teacher: ModelConfig | None = None
    share: float = 0.25  # of the loss that is the teacher's

    def __post_init__(self) -> None:
        ranges.check_value("objective.options.share", self.share, ranges.from_zero(1.0))


def around(model: Model, options: Options) -> Model:
    """The student's model with the teacher's parameters beside its own."""
    teacher = models.build(_teacher(options))

    def init(key: jax.Array) -> dict:
        return model.init(key) | {TEACHER: teacher.init(jax.random.fold_in(key, 1))}

    def apply(params: dict, *given: Any, **how: Any) -> Any:
        return model.apply(student(params), *given, **how)

    return model._replace(init=init, apply=apply)


def student(params: dict) -> dict:
    """The parameters without the teacher's."""
    return {name: part for name, part in params.items() if name != TEACHER}


def forward(
    model: Model,
    options: Options,
    params: dict,
    router_state: dict,
    batch: Batch,
    key: jax.Array,
    train: bool,
) -> contract.ForwardOutput:
    """Both losses in training, in evaluation that of the targets."""
    if not train:
        usual = contract.Options()
        return next_token.forward(model, usual, params, router_state, batch, key, train)
    output = model.apply(params, router_state, batch, key=key, train=True)
    said_BTV = _said(options, params[TEACHER], batch)
    log_p_BTV = jax.nn.log_softmax(output.logits)
    hard_BT = -embedding.pick(log_p_BTV, jnp.asarray(batch.targets_BT))
    soft_BT = -(said_BTV * log_p_BTV).sum(-1)
    counted_BT = jnp.asarray(batch.counted_BT)
    mixed_BT = options.share * soft_BT + (1 - options.share) * hard_BT
    extra = {
        name: jax.lax.stop_gradient((x_BT * counted_BT).sum())
        for name, x_BT in {"hard_loss": hard_BT, "soft_loss": soft_BT}.items()
    }
    sums = contract.sums_of(model, output, mixed_BT * counted_BT, counted_BT, extra)
    nll_BT = jax.lax.stop_gradient(hard_BT * counted_BT)
    return contract.ForwardOutput(sums, nll_BT, output.choices)


def _said(options, params, batch):
    """The teacher's probabilities, as in evaluation."""
    teacher = models.build(_teacher(options))
    output = teacher.apply(params, {}, batch, key=jax.random.key(0), train=False)
    return jax.lax.stop_gradient(jax.nn.softmax(output.logits))


def _teacher(options):
    if options.teacher is None:
        raise UserError(
            "objective.options.teacher is missing: give it the model section of the teacher's"
            " config.json"
        )
    return options.teacher


def check(config: ModelConfig, options: Options) -> None:
    """Refuses a student or a teacher that cannot be.

    Raises:
      UserError: with why.
    """
    next_token.check(config, options)
    teacher = _teacher(options)
    next_token.check(teacher, options)
    if teacher.vocab_size != config.vocab_size:
        raise UserError(
            f"the teacher's vocabulary has {teacher.vocab_size} ids, the student's"
            f" {config.vocab_size}: they must read the same tokens"
        )
    experts = teacher.experts
    if experts is not None and experts.routing.state is not None:
        raise UserError(
            f"a teacher with experts.router={experts.router!r} keeps a state beside its parameters,"
            " which a student does not carry: distil another"
        )


OBJECTIVE = contract.Objective(
    forward,
    next_token.source,
    options=Options,
    check=check,
    around=around,
    frozen=(f"{TEACHER}/.*",),
)
