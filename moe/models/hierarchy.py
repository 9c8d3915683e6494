"""The hierarchical mixture of experts, and how EM fits it (Jordan and Jacobs 1994).

A full tree: every node has a gate, a softmax over its branches, and every leaf an expert, linear
with Gaussian noise or a softmax over classes. A depth of 1 is the flat mixture. What is made larger
is the log likelihood less a ridge, `objective`.

The E step takes the posterior of every leaf. The M step fits experts by weighted least squares, and
gates and experts of classes by Newton's method for weighted softmax regression (IRLS), damped: of
several lengths of a step it takes the best, and one of them is zero. So the objective never falls
(generalised EM).

Letters: R cases, I inputs (the last is always 1), O outputs, E leaves, N nodes of a level, B
branches of a node.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from moe import ranges, schema

KINDS = ("gaussian", "classes")
STEPS = (1.0, 0.5, 0.25, 0.0625, 0.0)  # shares of a step that are tried
FIELDS = {
    "inputs": ranges.above_zero(ranges.SIZE),
    "outputs": ranges.above_zero(ranges.SIZE),
    "depth": ranges.above_zero(16),
    "branches": ranges.above_zero(ranges.SIZE),
    "ridge": ranges.from_zero(ranges.WEIGHT),
    "floor": ranges.above_zero(ranges.WEIGHT),
    "newton": ranges.above_zero(100),
}


@dataclass(frozen=True, kw_only=True)
class HierarchyConfig:
    """A tree and how it is fitted."""

    inputs: int  # with the one that is always 1
    outputs: int  # or classes
    kind: str = "gaussian"
    depth: int = 2
    branches: int = 2
    ridge: float = 1e-3  # half of it times the squares of all weights is taken off the likelihood
    floor: float = 1e-3  # variance of an expert, at least: a leaf of one case has none
    newton: int = 1  # steps of Newton's method in an M step

    def __post_init__(self) -> None:
        ranges.check(self, "hierarchy", FIELDS)
        schema.one_of("hierarchy.kind", self.kind, KINDS)
        schema.require(
            self.branches > 1, f"hierarchy.branches={self.branches} is no choice: 2 or more"
        )

    @property
    def leaves(self) -> int:
        """How many experts there are."""
        return self.branches**self.depth

    @property
    def passes(self) -> int:
        """Sweeps over all cases in a step of EM: as many as a gradient step's one would be.

        The posterior; of each step of Newton's method the derivatives and every length but zero,
        which is known; least squares and what they leave; the objective at the end.
        """
        squares = 2 if self.kind == "gaussian" else 0
        return 1 + self.newton * len(STEPS) + squares + 1


class Tree(NamedTuple):
    """The weights. The last branch of a gate, and the last class, have scores of zero."""

    gates: tuple[jax.Array, ...]  # by level, [N, I, B - 1]
    experts: jax.Array  # [E, I, O], of classes [E, I, O - 1]
    variance: jax.Array  # [E]; of classes it is not used


def init(config: HierarchyConfig, key: jax.Array, scale: float = 0.5) -> Tree:
    """Gates of zeros, normal experts, variances of 1."""
    c = config
    free = c.outputs - (c.kind == "classes")
    gates = tuple(
        jnp.zeros((c.branches**level, c.inputs, c.branches - 1)) for level in range(c.depth)
    )
    experts = scale * jax.random.normal(key, (c.leaves, c.inputs, free))
    return Tree(gates, experts, jnp.ones(c.leaves))


def parameters(config: HierarchyConfig) -> int:
    """How many weights are fitted."""
    tree = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    if config.kind == "classes":
        tree = tree._replace(variance=())
    return sum(w.size for w in jax.tree.leaves(tree))


def log_softmax(weights: jax.Array, x_RI: jax.Array) -> jax.Array:
    """Log probabilities of N softmaxes of linear scores, [N, R, B], from weights [N, I, B - 1]."""
    score = x_RI[None] @ weights
    return jax.nn.log_softmax(jnp.concatenate([score, jnp.zeros_like(score[..., :1])], -1))


def log_gates(tree: Tree, x_RI: jax.Array) -> jax.Array:
    """The logarithm of the share of each leaf in each case, [R, E]."""
    log_RN = jnp.zeros((len(x_RI), 1))
    for weights in tree.gates:
        log_NRB = log_softmax(weights, x_RI)
        log_RN = (log_RN[..., None] + log_NRB.swapaxes(0, 1)).reshape(len(x_RI), -1)
    return log_RN


def log_experts(config: HierarchyConfig, tree: Tree, x_RI: jax.Array, y_RO: jax.Array) -> jax.Array:
    """The log likelihood of each case by each expert, [R, E]; classes are one-hot."""
    if config.kind == "classes":
        return jnp.einsum("ERO,RO->RE", log_softmax(tree.experts, x_RI), y_RO)
    squares_ER = jnp.square(y_RO[None] - x_RI[None] @ tree.experts).sum(-1)
    logs_E = config.outputs * jnp.log(2 * math.pi * tree.variance)
    return -(squares_ER / tree.variance[:, None] + logs_E[:, None]).T / 2


def log_joint(config: HierarchyConfig, tree: Tree, x_RI: jax.Array, y_RO: jax.Array) -> jax.Array:
    """The log of p(leaf, y | x), [R, E]."""
    return log_gates(tree, x_RI) + log_experts(config, tree, x_RI, y_RO)


def log_likelihood(
    config: HierarchyConfig, tree: Tree, x_RI: jax.Array, y_RO: jax.Array
) -> jax.Array:
    """The log likelihood of each case, [R]."""
    return jax.nn.logsumexp(log_joint(config, tree, x_RI, y_RO), -1)


def penalty(config: HierarchyConfig, weights: jax.Array) -> jax.Array:
    """What the ridge takes off for some weights."""
    return config.ridge / 2 * jnp.square(weights).sum()


def objective(config: HierarchyConfig, tree: Tree, x_RI: jax.Array, y_RO: jax.Array) -> jax.Array:
    """The log likelihood of all cases less the ridge."""
    weights = (*tree.gates, tree.experts)
    return log_likelihood(config, tree, x_RI, y_RO).sum() - sum(penalty(config, w) for w in weights)


def posterior(config: HierarchyConfig, tree: Tree, x_RI: jax.Array, y_RO: jax.Array) -> jax.Array:
    """The E step: how probable each leaf is after y is seen, [R, E]."""
    return jax.nn.softmax(log_joint(config, tree, x_RI, y_RO), -1)


def predict(config: HierarchyConfig, tree: Tree, x_RI: jax.Array) -> jax.Array:
    """The mean of y, or the probabilities of classes, [R, O]."""
    out_ERO = x_RI[None] @ tree.experts
    if config.kind == "classes":
        out_ERO = jnp.exp(log_softmax(tree.experts, x_RI))
    return jnp.einsum("RE,ERO->RO", jnp.exp(log_gates(tree, x_RI)), out_ERO)


def em_step(config: HierarchyConfig, tree: Tree, x_RI: jax.Array, y_RO: jax.Array) -> Tree:
    """One E step and one M step, after which the objective is no lower."""
    post_RE = posterior(config, tree, x_RI, y_RO)
    gates = _fitted_gates(config, tree, x_RI, post_RE)
    if config.kind == "classes":
        targets_ERO = post_RE.T[..., None] * y_RO[None]
        new = Tree(gates, _softmax_fitted(config, tree.experts, x_RI, targets_ERO), tree.variance)
    else:
        new = Tree(gates, *_gaussian_fitted(config, tree, x_RI, y_RO, post_RE))
    values = [objective(config, one, x_RI, y_RO) for one in (new, tree)]
    keep = _best(jnp.stack(values)) == 1  # where rounding has lowered the objective
    return jax.tree.map(lambda old, new: jnp.where(keep, old, new), tree, new)


def _fitted_gates(config, tree, x_RI, post_RE):
    """Each gate by the posterior of its branches."""
    fitted = []
    for weights in tree.gates:
        nodes = len(weights)
        post_RNB = post_RE.reshape(len(x_RI), nodes, config.branches, -1).sum(-1)
        fitted.append(_softmax_fitted(config, weights, x_RI, post_RNB.swapaxes(0, 1)))
    return tuple(fitted)


def _gaussian_fitted(config, tree, x_RI, y_RO, post_RE):
    """Weighted least squares, and the mean square of what they leave."""

    def one(post_R: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array]:
        weighted_RI = post_R[:, None] * x_RI
        ridge_II = config.ridge * variance * jnp.eye(config.inputs)
        w_IO = jnp.linalg.solve(weighted_RI.T @ x_RI + ridge_II, weighted_RI.T @ y_RO)
        squares = (post_R * jnp.square(y_RO - x_RI @ w_IO).sum(-1)).sum()
        share = jnp.maximum(post_R.sum() * config.outputs, jnp.finfo(post_R.dtype).tiny)
        return w_IO, jnp.maximum(squares / share, config.floor)

    return jax.vmap(one)(post_RE.T, tree.variance)


def _softmax_fitted(config, weights, x_RI, targets):
    """Weighted softmax regressions, [N, I, B - 1], each by Newton steps of the best length.

    Targets are [N, R, B]: the weight of each case times the probability of each branch.
    """

    def one(w: jax.Array, target_RB: jax.Array) -> jax.Array:
        def fit(w: jax.Array) -> jax.Array:
            return (target_RB * log_softmax(w[None], x_RI)[0]).sum() - penalty(config, w)

        for _ in range(config.newton):
            step = _newton(config, w, x_RI, target_RB)
            tried = w[None] + jnp.array(STEPS, w.dtype)[:, None, None] * step[None]
            w = tried[_best(jax.vmap(fit)(tried))]
        return w

    return jax.vmap(one)(weights, targets)


def _newton(config, w, x_RI, target_RB):
    """The step to the top of the parabola that touches the weighted log likelihood at w."""
    weight_R = target_RB.sum(-1)
    p_RB = jnp.exp(log_softmax(w[None], x_RI)[0])[:, :-1]
    slope_IB = x_RI.T @ (target_RB[:, :-1] - weight_R[:, None] * p_RB) - config.ridge * w
    spread_RBC = jax.vmap(lambda p_B: jnp.diag(p_B) - jnp.outer(p_B, p_B))(p_RB)
    curve = jnp.einsum("R,RI,RJ,RBC->IBJC", weight_R, x_RI, x_RI, spread_RBC)
    least = config.ridge + jnp.finfo(w.dtype).eps  # for a gate that no case reaches
    curve = curve.reshape(w.size, w.size) + least * jnp.eye(w.size)
    step = jnp.linalg.solve(curve, slope_IB.reshape(-1)).reshape(w.shape)
    return jnp.where(jnp.isfinite(step), step, 0)


def _best(values):
    """The place of the largest value; NaN is the smallest."""
    return jnp.nan_to_num(values, nan=-jnp.inf).argmax()
