"""Networks, mixtures and hierarchies in one form, and a step of EM or of Adam.

The last input of a case is always 1.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from moe.models import hierarchy, mixture
from moe.models.hierarchy import HierarchyConfig, Tree
from moe.models.mixture import MixtureConfig

NEAREST = 1e-3  # how near a variance that gradients move starts to its floor, in floors


class Model(NamedTuple):
    """What is fitted to a table."""

    weights: int  # how many
    init: Callable[[jax.Array], Any]
    objective: Callable[[Any, jax.Array, jax.Array], jax.Array]  # the larger, the better
    predict: Callable[[Any, jax.Array], jax.Array]  # numbers, or probabilities of classes
    em_step: Callable[[Any, jax.Array, jax.Array], Any] | None = None  # None: by gradients


def network(kind: str, inputs: int, outputs: int, hidden: int, ridge: float) -> Model:
    """One network, which is a mixture of one expert; without hidden units it is linear.

    Args:
      kind: of `hierarchy.KINDS`.
      inputs: with the one that is always 1.
      outputs: or classes.
      hidden: logistic units.
      ridge: as of `HierarchyConfig`.
    """
    c = MixtureConfig(inputs=inputs - 1, outputs=outputs, experts=1, hidden=hidden, squash="linear")

    def scores(params: dict, x_RI: jax.Array) -> jax.Array:
        return mixture.outputs(c, params, x_RI[:, :-1])[:, 0]

    def objective(params: dict, x_RI: jax.Array, y_RO: jax.Array) -> jax.Array:
        score_RO = scores(params, x_RI)
        if kind == "classes":
            fit = (y_RO * jax.nn.log_softmax(score_RO)).sum()
        else:
            fit = -jnp.square(y_RO - score_RO).sum() / 2
        return fit - ridge / 2 * sum(jnp.square(w).sum() for w in jax.tree.leaves(params))

    def predict(params: dict, x_RI: jax.Array) -> jax.Array:
        score_RO = scores(params, x_RI)
        return jax.nn.softmax(score_RO) if kind == "classes" else score_RO

    init = functools.partial(mixture.init, c)
    return Model(mixture.parameters(c), init, objective, predict)


def by_em(config: HierarchyConfig) -> Model:
    """A tree that EM fits."""
    return Model(
        hierarchy.parameters(config),
        functools.partial(hierarchy.init, config),
        functools.partial(hierarchy.objective, config),
        functools.partial(hierarchy.predict, config),
        functools.partial(hierarchy.em_step, config),
    )


def by_gradient(config: HierarchyConfig) -> Model:
    """The same tree, whose weights are as `unbounded` has them."""

    def init(key: jax.Array) -> Tree:
        return unbounded(config, hierarchy.init(config, key))

    def objective(free: Tree, x_RI: jax.Array, y_RO: jax.Array) -> jax.Array:
        bounded = free._replace(variance=config.floor + jnp.exp(free.variance))
        return hierarchy.objective(config, bounded, x_RI, y_RO)

    predict = functools.partial(hierarchy.predict, config)
    return Model(hierarchy.parameters(config), init, objective, predict)


def unbounded(config: HierarchyConfig, tree: Tree) -> Tree:
    """The tree with logarithms of what variances have over their floor, so that steps are free."""
    above_E = jnp.maximum(tree.variance - config.floor, NEAREST * config.floor)
    return tree._replace(variance=jnp.log(above_E))


def started(model: Model, params: Any) -> tuple[Any, Any]:
    """The weights of a start, and Adam's moments if gradients fit them."""
    return params, None if model.em_step else _adam().init(params)


def stepped(
    model: Model, state: tuple[Any, Any], x_RI: jax.Array, y_RO: jax.Array, rate: float
) -> tuple[tuple[Any, Any], jax.Array]:
    """A step of EM, or of Adam at a learning rate, and the objective before it."""
    params, moments = state
    if model.em_step:
        return (model.em_step(params, x_RI, y_RO), None), model.objective(params, x_RI, y_RO)

    def loss(params: Any) -> jax.Array:
        return -model.objective(params, x_RI, y_RO)

    value, slope = jax.value_and_grad(loss)(params)
    updates, moments = _adam().update(slope, moments)
    scaled = jax.tree.map(lambda update: -rate * update, updates)
    return (optax.apply_updates(params, scaled), moments), -value


def _adam():
    return optax.scale_by_adam()


def with_one(x_RI: np.ndarray) -> np.ndarray:
    """Inputs with a last one that is always 1."""
    return np.c_[x_RI, np.ones(len(x_RI))]


def standardised(of: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x in standard deviations of `of` from its mean, column by column."""
    return (x - of.mean(0)) / of.std(0)
