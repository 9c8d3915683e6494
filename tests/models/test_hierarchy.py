"""The hierarchical mixture: EM never lowers its objective, and the tree is what it says it is."""

import dataclasses

import jax
import numpy as np
import pytest

from moe.models import hierarchy
from moe.models.hierarchy import HierarchyConfig

PROBLEMS = 200
STEPS = 15
R = 12


def config(kind, **changes):
    return HierarchyConfig(**{"inputs": 3, "outputs": 2, "kind": kind, **changes})


def problems(c, number, seed=0):
    """Trees whose gates are not zeros, inputs with a last one of 1, and targets."""
    rng = np.random.default_rng(seed)
    tree = jax.eval_shape(lambda: hierarchy.init(c, jax.random.key(0)))
    tree = jax.tree.map(lambda w: 2 * rng.normal(size=(number, *w.shape)), tree)
    x = rng.normal(size=(number, R, c.inputs))
    x[..., -1] = 1
    y = rng.normal(size=(number, R, c.outputs))
    if c.kind == "classes":
        y = np.eye(c.outputs)[y.argmax(-1)]
    return tree._replace(variance=np.exp(tree.variance)), x, y


def one_of(tree, place=0):
    return jax.tree.map(lambda leaf: leaf[place], tree)


def made_hard(c, tree, x, y):
    """Zero gates and experts; targets without variance; a gate that sends all cases one way."""
    for leaf in (*tree.gates, tree.experts):
        leaf[0] = 0
    y[1] = y[0, :1]
    tree.gates[0][2, :, -1] = -1e4
    return tree, x, y


@pytest.mark.parametrize("kind", hierarchy.KINDS)
def test_em_never_lowers_the_objective(kind):
    """Of 200 random problems, three of them hard ones; and it climbs, and all gradients exist."""
    c = config(kind)

    @jax.jit
    @jax.vmap
    def run(tree, x_RI, y_RO):
        def step(tree, _):
            value = hierarchy.objective(c, tree, x_RI, y_RO)
            return hierarchy.em_step(c, tree, x_RI, y_RO), (value, tree.experts)

        slopes = jax.grad(lambda tree: hierarchy.objective(c, tree, x_RI, y_RO))(tree)
        return slopes, *jax.lax.scan(step, tree, length=STEPS)

    tree, x, y = made_hard(c, *problems(c, PROBLEMS))
    with jax.enable_x64(True):
        slopes, fitted, (curve_PT, experts) = jax.tree.map(np.asarray, run(tree, x, y))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((slopes, fitted, curve_PT)))
    rounding = 1e-13 * np.abs(curve_PT).max()  # of two programs that evaluate it
    assert np.diff(curve_PT).min() >= -rounding
    assert (curve_PT[:, -1] - curve_PT[:, 0]).min() > 0.1
    if kind == "gaussian":
        assert fitted.variance.min() >= c.floor
        solves_least_squares(c, [leaf[5] for leaf in (x, y)], one_of(tree, 5), experts[5, 1])


def solves_least_squares(c, cases, tree, experts):
    """After a step experts solve the equations that the posterior before it gives."""
    x, y = cases
    joint = likely(c, tree, x, y) * np.exp(jax.jit(hierarchy.log_gates)(tree, x))
    post = joint / joint.sum(-1, keepdims=True)
    for h, w, variance in zip(post.T, experts, tree.variance, strict=True):
        slope = (h[:, None] * x).T @ (y - x @ w) / variance - c.ridge * w
        np.testing.assert_allclose(slope, 0, atol=1e-3)


def likely(c, tree, x, y):
    """The likelihood of each case by each expert, by hand."""
    found = []
    for w, variance in zip(tree.experts, tree.variance, strict=True):
        if c.kind == "classes":
            scores = np.exp(np.c_[x @ w, np.zeros(len(x))])
            found.append((scores / scores.sum(-1, keepdims=True) * y).sum(-1))
        else:
            density = np.exp(-((y - x @ w) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
            found.append(density.prod(-1))
    return np.stack(found, -1)


@pytest.mark.parametrize("kind", hierarchy.KINDS)
def test_depth_one_is_the_flat_mixture(kind):
    c = config(kind, depth=1, branches=3)
    tree, x, y = one_of(problems(c, 1))
    scores = np.exp(np.c_[x @ tree.gates[0][0], np.zeros(R)])
    want = (scores / scores.sum(-1, keepdims=True) * likely(c, tree, x, y)).sum(-1)
    got = jax.jit(hierarchy.log_likelihood, static_argnums=0)(c, tree, x, y)
    np.testing.assert_allclose(got, np.log(want), rtol=1e-3)


def test_a_leaf_has_the_product_along_its_path():
    tree, x, _ = one_of(problems(config("gaussian"), 1))
    root, left, right = (1 / (1 + np.exp(-x @ w)) for w in (*tree.gates[0], *tree.gates[1]))
    paths = np.c_[root * left, root * (1 - left), (1 - root) * right, (1 - root) * (1 - right)]
    got = np.exp(jax.jit(hierarchy.log_gates)(tree, x))
    np.testing.assert_allclose(got, paths, rtol=1e-3, atol=1e-6)


def test_the_gradient_is_that_of_the_posterior():
    """Fisher's identity: the marginal's gradient is the joint's, weighted by the posterior."""
    c = config("gaussian", ridge=0.0)

    @jax.jit
    def slopes(tree, x, y):
        post_RE = hierarchy.posterior(c, tree, x, y)
        of_joint = jax.grad(lambda tree: (post_RE * hierarchy.log_joint(c, tree, x, y)).sum())
        return jax.grad(lambda tree: hierarchy.objective(c, tree, x, y))(tree), of_joint(tree)

    for got, want in zip(*map(jax.tree.leaves, slopes(*one_of(problems(c, 1)))), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_sizes():
    c = HierarchyConfig(inputs=8, outputs=1)
    assert hierarchy.parameters(c) == 3 * 8 + 4 * 8 + 4
    assert hierarchy.parameters(dataclasses.replace(c, kind="classes", outputs=3)) == 3 * 8 + 4 * 16
    assert c.passes == 1 + 5 + 2 + 1
    with pytest.raises(ValueError, match="hierarchy.branches=1 is no choice"):
        HierarchyConfig(inputs=8, outputs=1, branches=1)
