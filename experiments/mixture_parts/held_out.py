"""Test scores of networks, mixtures and hierarchies on tables of numbers.

Every seed has its own split of the rows and its own start. Validation chooses where each stops, and
the learning rate where there is one.
"""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import looks
from experiments.mixture_parts import fitting
from experiments.mixture_parts.fitting import Model
from moe.data import tables
from moe.models.hierarchy import HierarchyConfig

ENDS = (0.6, 0.8)  # of training and validation, as shares of all rows; the rest is for tests
Part = tuple[jax.Array, jax.Array]  # x_RI, y_RO


def models(t: ConfigDict, name: str, inputs: int, outputs: int) -> dict[str, Model]:
    """All that is fitted to a table; `inputs` counts the one that is always 1."""
    kind = tables.TABLES[name].kind
    common = {"inputs": inputs, "outputs": outputs, "kind": kind, "ridge": t.ridge}
    deep = HierarchyConfig(**common, **t.leaves)
    flat = HierarchyConfig(**common, depth=1, branches=deep.leaves)
    one = functools.partial(fitting.network, kind, inputs, outputs, ridge=t.ridge)
    return {
        "linear, gradient": one(hidden=0),
        "network, gradient": one(hidden=t.hidden[name]),
        "mixture, gradient": fitting.by_gradient(flat),
        "mixture, EM": fitting.by_em(flat),
        "hierarchy, gradient": fitting.by_gradient(deep),
        "hierarchy, EM": fitting.by_em(deep),
    }


def split(name: str, seed: int) -> tuple[Part, Part, Part]:
    """Rows for training, validation and tests, in standard deviations of the first."""
    x_RI, y_RO = tables.read(name)
    order_R = np.random.default_rng(seed).permutation(len(x_RI))
    train, validation, test = np.split(order_R, [int(end * len(order_R)) for end in ENDS])

    def part(rows: np.ndarray) -> Part:
        x = fitting.with_one(fitting.standardised(x_RI[train], x_RI[rows]))
        y = y_RO[rows]
        if tables.TABLES[name].kind == "gaussian":
            y = fitting.standardised(y_RO[train], y)
        return jnp.asarray(x), jnp.asarray(y)

    return part(train), part(validation), part(test)


def measured(config: ConfigDict, root: pathlib.Path) -> list[dict]:
    """Test scores of every table and model, by seed."""
    with jax.enable_x64(True):
        return looks.measured(root / "held_out.jsonl", _looks(config))


def _looks(config) -> Iterator[looks.Look]:
    t = config.tables
    fields = ("ridge", "gradient_steps", "em_steps")
    asked = {"seeds": config.seeds} | {field: t[field] for field in fields}
    for name in t.hidden:
        x_RI, y_RO = tables.read(name)
        made = models(t, name, x_RI.shape[1] + 1, y_RO.shape[1])
        for label, model in made.items():
            look = functools.partial(_scored, t, name, model, config.seeds)
            yield {"table": name, "model": label} | asked, look


def _scored(t, name, model, seeds) -> dict:
    """Of each seed, the test scores where the validation loss of any rate and step is least."""
    splits = [split(name, seed) for seed in range(seeds)]
    parts = jax.tree.map(lambda *some: jnp.stack(some), *splits)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    steps = t.em_steps if model.em_step else t.gradient_steps
    best_of = functools.partial(best_step, model, tables.TABLES[name].kind, steps)
    over_seeds = jax.jit(jax.vmap(best_of, (0, 0, None)))
    tried = [over_seeds(keys, parts, rate) for rate in ((0.0,) if model.em_step else t.rates)]
    chosen_S = np.stack([loss_S for loss_S, _ in tried]).argmin(0)
    test_SM = np.stack([test_SM for _, test_SM in tried])[chosen_S, np.arange(seeds)]
    return {
        "weights": model.weights,
        "loss": test_SM[:, 0].tolist(),
        "wrong": test_SM[:, 1].tolist(),
    }


def best_step(
    model: Model, kind: str, steps: int, key: jax.Array, parts: tuple[Part, Part, Part], rate: float
) -> tuple[jax.Array, jax.Array]:
    """The least validation loss of any step, and the test scores after that step.

    Args:
      model: what is fitted.
      kind: of the table.
      steps: of EM or of Adam.
      key: of the start.
      parts: training, validation and test rows.
      rate: Adam's; EM has none.
    """
    train, validation, test = parts

    def step(state: Any, nothing: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        del nothing
        state, _ = fitting.stepped(model, state, *train, rate)
        loss_M, test_M = (
            scores(kind, model.predict(state[0], x_RI), y_RO) for x_RI, y_RO in (validation, test)
        )
        return state, (loss_M[0], test_M)

    _, (loss_T, test_TM) = jax.lax.scan(step, fitting.started(model, model.init(key)), length=steps)
    best = jnp.nan_to_num(loss_T, nan=jnp.inf).argmin()
    return loss_T[best], test_TM[best]


def scores(kind: str, said_RO: jax.Array, y_RO: jax.Array) -> jax.Array:
    """Of numbers their mean squared error, twice; of classes nats, and the share that is wrong."""
    if kind == "gaussian":
        return jnp.full(2, jnp.square(said_RO - y_RO).mean())
    least = jnp.finfo(said_RO.dtype).tiny
    nats = -(y_RO * jnp.log(jnp.maximum(said_RO, least))).sum(-1).mean()
    return jnp.stack([nats, (said_RO.argmax(-1) != y_RO.argmax(-1)).mean()])
