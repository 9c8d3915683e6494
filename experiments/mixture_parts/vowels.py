"""Epochs to the criterion of Jacobs et al. (1991), over learning rates.

All seeds of a learning rate are one program.
"""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import looks
from moe.data import vowels
from moe.models import mixture
from moe.models.mixture import MixtureConfig

PILOT = 100  # the first seed of pilots, which no result has
Positive = Sequence[Sequence[str]]  # of each output, the vowels for which it should be 1


class Cases(NamedTuple):
    """What models read, and what they should say."""

    x_RI: jax.Array
    target_RO: jax.Array


class Learned(NamedTuple):
    """A model when it has reached the criterion, or has had the most epochs."""

    params: dict[str, jax.Array]
    epochs: jax.Array
    error: jax.Array  # mean squared


def splits(found: vowels.Vowels, positive: Positive) -> tuple[Cases, Cases]:
    """The cases of the first speakers, to train with, and of the last ones."""
    sign_R = np.array(list(vowels.VOWELS))[found.vowel_R]
    target_RO = np.stack([np.isin(sign_R, signs) for signs in positive], -1)
    first_R = found.speaker_R <= vowels.TRAINING

    def cases(rows: np.ndarray) -> Cases:
        arrays = (found.formant_RI[rows], target_RO[rows])
        return Cases(*(jnp.asarray(a, jnp.float32) for a in arrays))

    return cases(first_R), cases(~first_R)


def answers(model: MixtureConfig, params: dict[str, jax.Array], x_RI: jax.Array) -> jax.Array:
    """What the whole says, [R, O]."""
    return mixture.blend(mixture.log_gates(params, x_RI), mixture.outputs(model, params, x_RI))


@functools.partial(jax.jit, static_argnames="model")
def right(model: MixtureConfig, params: dict[str, jax.Array], cases: Cases) -> jax.Array:
    """The share of cases with the right answer: on the right side of 1/2, or the largest output."""
    answer_RO = answers(model, params, cases.x_RI)
    if model.outputs == 1:
        return ((answer_RO > 0.5) == (cases.target_RO > 0.5)).mean()
    return (answer_RO.argmax(-1) == cases.target_RO.argmax(-1)).mean()


@functools.partial(jax.jit, static_argnames=("model", "loss", "most"))
def learned(
    model: MixtureConfig, loss: str, cases: Cases, seed_S: jax.Array, rate: float,
    criterion: float, most: int,
) -> Learned:  # fmt: skip
    """Gradient descent on all cases at once, of many seeds side by side.

    Args:
      model: its sizes.
      loss: of `mixture.LOSSES`, its mean over cases.
      cases: to train with.
      seed_S: one for each run.
      rate: the learning rate.
      criterion: the mean squared error at which a run ends.
      most: epochs at which it ends, too.
    """

    def losses(params: dict[str, jax.Array]) -> jax.Array:
        out_REO = mixture.outputs(model, params, cases.x_RI)
        log_gate_RE = mixture.log_gates(params, cases.x_RI)
        return mixture.LOSSES[loss](log_gate_RE, out_REO, cases.target_RO).mean()

    def error(params: dict[str, jax.Array]) -> jax.Array:
        return jnp.square(answers(model, params, cases.x_RI) - cases.target_RO).mean()

    def epoch(at: Learned) -> Learned:
        params = jax.tree.map(lambda w, g: w - rate * g, at.params, jax.grad(losses)(at.params))
        return Learned(params, at.epochs + 1, error(params))

    def goes_on(at: Learned) -> jax.Array:
        return ~(at.error <= criterion) & (at.epochs < most)  # NaN goes on

    def run(seed: jax.Array) -> Learned:
        params = mixture.init(model, jax.random.key(seed))
        return jax.lax.while_loop(goes_on, epoch, Learned(params, jnp.array(0), error(params)))

    return jax.vmap(run)(seed_S)


def trained(config: ConfigDict) -> list[tuple[str, str, str]]:
    """(reading, model, loss) of all that is trained, the published reading first."""
    v = config.vowels
    readings = sorted(v.readings, key=lambda reading: reading != v.published)
    found = [(reading, name, "competitive") for reading in readings for name in v.models]
    return found + [(v.published, "mixture_4", loss) for loss in v.other_losses]


def sizes(v: ConfigDict, reading: str, name: str) -> MixtureConfig:
    """Those of a model."""
    return MixtureConfig(inputs=2, outputs=len(v.readings[reading]), **v.models[name])


def seeds(config: ConfigDict) -> jax.Array:
    """Those of the results, then those of the pilots."""
    return jnp.array([*range(config.seeds), *range(PILOT, PILOT + config.pilots)])


def measured(config: ConfigDict, root: pathlib.Path, found: vowels.Vowels) -> list[dict]:
    """A record of every reading, model, loss and learning rate, with the numbers of every seed.

    The last `config.pilots` numbers are of the pilots.
    """
    return looks.measured(root / "vowels.jsonl", _looks(config, found))


def _looks(config, found) -> Iterator[looks.Look]:
    v = config.vowels
    asked = {"seeds": config.seeds, "pilots": config.pilots}
    asked |= {field: v[field] for field in ("criterion", "most_epochs")}
    for reading, name, loss in trained(config):
        cases = splits(found, v.readings[reading])
        model = sizes(v, reading, name)
        for rate in v.rates:
            look = functools.partial(_swept, v, model, loss, cases, seeds(config), rate)
            yield {"reading": reading, "model": name, "loss": loss, "rate": rate} | asked, look


def _swept(v, model, loss, cases, seed_S, rate) -> dict:
    done = learned(model, loss, cases[0], seed_S, rate, v.criterion, v.most_epochs)
    scores = {
        name: jax.vmap(functools.partial(right, model, cases=some))(done.params).tolist()
        for name, some in zip(("train", "test"), cases, strict=True)
    }
    reached = (done.error <= v.criterion).tolist()
    known = {"weights": mixture.parameters(model), "reached": reached}
    return known | {"epochs": done.epochs.tolist()} | scores
