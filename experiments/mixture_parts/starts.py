"""EM, Adam and L-BFGS from the same starts: passes over the data to the same objective.

The same for two methods is what the worse of them ends with, less a tolerance. A pass is a sweep
over all cases: a gradient is one, and a step of EM `HierarchyConfig.passes`.
"""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy import optimize

from experiments import looks
from experiments.mixture_parts import fitting
from experiments.mixture_parts.fitting import Model
from moe.data import tables
from moe.models import hierarchy
from moe.models.hierarchy import HierarchyConfig, Tree

PILOT = 100  # the first start of pilots, which no result has
SMALLEST = 1e-10  # gradient at which L-BFGS ends
Cases = tuple[jax.Array, jax.Array]  # x_RI, y_RO


def measured(config: ConfigDict, root: pathlib.Path) -> list[dict]:
    """Of every table and kind of starts, where each method ends, and after how many passes."""
    with jax.enable_x64(True):
        found = looks.measured(root / "starts.jsonl", _looks(config))
    return [of | one for of in found for one in of.pop("kinds")]


def _looks(config) -> Iterator[looks.Look]:
    s = config.starts
    fields = ("gradient_steps", "em_steps", "ridge", "nudge")
    asked = {"seeds": config.seeds, "pilots": config.pilots} | {f: s[f] for f in fields}
    for name in s.tables:
        yield {"table": name} | asked, functools.partial(_of_table, config, name)


def _of_table(config, name) -> dict:
    """From random starts, and from EM's ends with all weights moved a little."""
    s = config.starts
    cases = cases_of(name)
    tree = HierarchyConfig(
        inputs=cases[0].shape[1],
        outputs=cases[1].shape[1],
        kind=tables.TABLES[name].kind,
        ridge=s.ridge,
        **s.leaves,
    )
    random_S = random_starts(tree, range(config.seeds))
    ends_S, _ = fitted(fitting.by_em(tree), s.em_steps, cases, random_S, 0.0)
    pilots = random_starts(tree, range(PILOT, PILOT + config.pilots))
    pilot_ends, _ = fitted(fitting.by_em(tree), s.em_steps, cases, pilots, 0.0)
    near = (nudged(ends_S, s.nudge), nudged(pilot_ends, s.nudge))
    kinds = {"random": (random_S, pilots), "near": near}
    return {
        "passes": tree.passes,
        "kinds": [{"starts": kind} | compared(s, tree, cases, *of) for kind, of in kinds.items()],
    }


def cases_of(name: str) -> Cases:
    """All rows of a table, standardised."""
    x_RI, y_RO = tables.read(name)
    if tables.TABLES[name].kind == "gaussian":
        y_RO = fitting.standardised(y_RO, y_RO)
    return jnp.asarray(fitting.with_one(fitting.standardised(x_RI, x_RI))), jnp.asarray(y_RO)


def random_starts(config: HierarchyConfig, seeds: range) -> Tree:
    """A tree of each seed, stacked."""
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    return jax.vmap(functools.partial(hierarchy.init, config))(keys)


def nudged(trees: Tree, by: float) -> Tree:
    """Trees whose gates and experts are moved by normal numbers with this standard deviation."""
    flat, restored = jax.flatten_util.ravel_pytree((trees.gates, trees.experts))
    gates, experts = restored(flat + by * jax.random.normal(jax.random.key(0), flat.shape))
    return Tree(gates, experts, trees.variance)


def compared(
    s: ConfigDict, tree: HierarchyConfig, cases: Cases, starts: Tree, pilots: Tree
) -> dict:
    """Ends and passes of Adam and L-BFGS beside EM's, by start.

    Args:
      s: the section of the config.
      tree: what is fitted.
      cases: to all of these.
      starts: stacked.
      pilots: other starts, by which Adam's rate is chosen: the one that ends highest.
    """
    model = fitting.by_gradient(tree)
    free_S, free_pilots = (
        jax.vmap(functools.partial(fitting.unbounded, tree))(some) for some in (starts, pilots)
    )
    ends = {
        rate: np.nanmax(fitted(model, s.gradient_steps, cases, free_pilots, rate)[1], 1).mean()
        for rate in s.rates
    }
    rate = max(ends, key=lambda rate: ends[rate])
    _, em_ST = fitted(fitting.by_em(tree), s.em_steps, cases, starts, 0.0)
    _, adam_ST = fitted(model, s.gradient_steps, cases, free_S, rate)
    seeds = range(len(em_ST))
    quasi = [lbfgs(model, cases, nth(free_S, i), s.gradient_steps) for i in seeds]
    methods = {"Adam": list(adam_ST), "L-BFGS": quasi}
    found = {
        name: against(list(em_ST), tree.passes, curves, s.tolerances)
        for name, curves in methods.items()
    }
    return {"rate": rate, "methods": found}


def nth(trees: Tree, i: int) -> Tree:
    """One of stacked trees."""
    return jax.tree.map(lambda w: w[i], trees)


def fitted(
    model: Model, steps: int, cases: Cases, starts: Tree, rate: float
) -> tuple[Tree, np.ndarray]:
    """The weights after so many steps, and the objective before every one of them, [S, T]."""

    def run(start: Tree) -> tuple[Tree, jax.Array]:
        def step(state: Any, _: None) -> tuple[Any, jax.Array]:
            return fitting.stepped(model, state, *cases, rate)

        (params, _), curve_T = jax.lax.scan(step, fitting.started(model, start), length=steps)
        return params, curve_T

    params, curve_ST = jax.jit(jax.vmap(run))(starts)
    return params, np.asarray(curve_ST)


def lbfgs(model: Model, cases: Cases, start: Tree, most: int) -> np.ndarray:
    """The objective at every evaluation of SciPy's L-BFGS, at most about so many."""
    flat, restored = jax.flatten_util.ravel_pytree(start)

    @jax.jit
    def loss(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.value_and_grad(lambda flat: -model.objective(restored(flat), *cases))(flat)

    curve = []

    def evaluated(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = loss(jnp.asarray(flat))
        curve.append(-float(value))
        return float(value), np.asarray(slope)

    limits = {"maxfun": most, "maxiter": most, "ftol": 0.0, "gtol": SMALLEST}
    optimize.minimize(evaluated, np.asarray(flat), jac=True, method="L-BFGS-B", options=limits)
    return np.array(curve)


def against(
    em: list[np.ndarray], em_passes: int, other: list[np.ndarray], tolerances: tuple[float, ...]
) -> dict:
    """Where both end, and the passes of both to the lower end less each tolerance, by start.

    Args:
      em: the objective before every step of EM.
      em_passes: passes of such a step.
      other: the objective at every pass of another method.
      tolerances: of the objective.
    """
    em_end, end = (np.array([np.nanmax(curve) for curve in curves]) for curves in (em, other))
    found: dict = {"em_end": em_end.tolist(), "end": end.tolist(), "to": {}}
    for tolerance in tolerances:
        targets = np.minimum(em_end, end) - tolerance
        found["to"][str(tolerance)] = {
            "em": [em_passes * first(c, t) for c, t in zip(em, targets, strict=True)],
            "other": [1 + first(c, t) for c, t in zip(other, targets, strict=True)],
        }
    return found


def first(curve: np.ndarray, target: float) -> int:
    """The first place of a curve that is not below the target."""
    return int(np.argmax(curve >= target))
