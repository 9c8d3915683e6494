"""Scores so far apart, or so low, that probabilities underflow: what is normalised stays so."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import routing
from moe.routing import assignment, contract, reinforce, stats
from tests.routing import cases
from tests.routing.by_hand import choice
from tests.routing.cases import CASES, Ranked, case, options

S = 24
MORE = {
    "sigmoid of one": case("sigmoid"),
    "sigmoid moving on": case(
        "sigmoid", k=2, options=options("sigmoid", reroute_rounds=2, expert_groups=2)
    ),
    "sigmoid limited": case("sigmoid", k=2, options=options("sigmoid", expert_groups=2)),
    "sigmoid by priority": case(
        "sigmoid", True, k=2, **cases.SAME, options=options("sigmoid", batch_priority=True)
    ),
    "two by priority": case("top_k", True, k=2, **cases.SAME, options=Ranked(batch_priority=True)),
    "sinkhorn of one": case("sinkhorn", True),
    "hierarchical, two of two": case(
        "hierarchical", num_experts=12, k=4,
        options=options("hierarchical", groups=4, groups_used=2),
    ),
}  # fmt: skip
ALL = CASES | MORE
NOT_OF_ONE = ("gshard", "hierarchical", "hierarchical in one", "top_p", "multihash")


def renormalises(name):
    """Do the gates of its K experts sum to 1?"""
    experts = ALL[name].experts
    chosen = experts.routing.kind is assignment.TopKAssignment
    return chosen and experts.k > 1 and name not in NOT_OF_ONE


def reads_train(router):
    """May it do otherwise in evaluation?"""
    return ".train" in inspect.getsource(inspect.getmodule(router.route))


def rows(rng, columns, scale):
    """Logits [S, columns] up to +-scale: random, equal, one far from the others, falling."""
    x = rng.uniform(-scale, scale, (S, columns))
    x[0] = scale
    x[1] = -scale
    x[2] = 0
    x[3] = -scale
    x[3, -1] = scale
    x[4] = scale
    x[4, -1] = -scale
    x[5] = np.linspace(scale, -scale, columns)
    for row, low in enumerate((-25, -60, -90, -120), start=6):
        x[row] = np.maximum(low - np.array([0, 1] + [15] * (columns - 2))[:columns], -scale)
    return x.astype(np.float32)


def logits(name, scale, seed=0):
    rng = np.random.default_rng(seed)
    experts = ALL[name].experts
    return {
        matrix: jnp.asarray(rows(rng, columns, scale)[None])
        for matrix, columns in experts.routing.projections(experts).items()
    }


@functools.cache
def compiled(name, train):
    """(logits, replayed) -> ((gates, p, losses, metrics), gradients of gates, p and losses)."""
    experts = ALL[name].experts
    router = ALL[name].experts.routing
    slots = routing.soft.slots(experts) if experts.router == "soft" else 8
    settings = contract.RouterSettings(
        experts.num_experts, experts.k, slots, train, experts.options
    )
    state = {key: x[0] for key, x in cases.state_of(ALL[name]).items()}
    mask_GS = jnp.arange(S)[None] < S - 3
    ids_GS = jnp.arange(S)[None] % 7

    def run(logits, replayed):
        key = jax.random.key(0)
        read = ids_GS, ids_GS % 2, key, state, replayed, ids_GS // 2
        inputs = contract.RouterInputs(logits, mask_GS, *read)
        routed = router.route(inputs, settings)
        slots = routed.assignment
        gates = routed.assignment[1]
        if router.kind is assignment.TopKAssignment:
            slots = assignment.assign_slots(slots, experts.num_experts, settings.slots)
        sums = stats.compute(routed, slots, mask_GS)
        if routed.policy is not None:
            nll_GS = jnp.arange(S)[None] / 3.0
            sums = sums._replace(extra=reinforce.learn(routed.policy, nll_GS, mask_GS))
        losses = {loss: fn(sums) for loss, fn in router.losses.items()}
        found = gates, routed.p_GSE, losses, stats.metrics(sums)
        weights = [jnp.cos(jnp.arange(x.size)).reshape(x.shape) for x in jax.tree.leaves(found)]
        parts = zip(weights, jax.tree.leaves(found), strict=True)
        return sum((weight * x).sum() for weight, x in parts), (found, routed.assignment)

    return jax.jit(jax.value_and_grad(run, has_aux=True))


def found(name, scale, mode):
    """((gates, p, losses, metrics), assignment, gradients) of a router on such logits."""
    replayed = None
    if mode == "replay":  # of choices that these logits would not make
        (_, (_, before)), _ = compiled(name, True)(logits(name, 1.0, seed=1), None)
        replayed = before.expert_GSK
    (_, (result, assigned)), gradients = compiled(name, mode != "evaluation")(
        logits(name, scale), replayed
    )
    return jax.tree.map(np.asarray, (result, assigned, gradients))


SCALES = (1.0, 30.0, 200.0, 1e4)
MODES = [
    (name, mode)
    for name in ALL
    for mode in ("training", "evaluation", "replay")
    if mode != "replay" or ALL[name].experts.routing.kind is assignment.TopKAssignment
    if mode == "training" or ALL[name].experts.routing.learned  # a table gives what it holds
    if mode != "evaluation" or reads_train(ALL[name].experts.routing)
]


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_all_is_finite_and_gates_and_probabilities_sum_to_one(name, mode):
    for scale in SCALES:
        (gates, p_GSE, losses, metrics), assigned, gradients = found(name, scale, mode)
        everything = jax.tree.leaves((gates, p_GSE, losses, metrics, gradients))
        assert all(np.isfinite(x).all() for x in everything), scale
        if p_GSE is not None:
            np.testing.assert_allclose(p_GSE[:, : S - 3].sum(-1), 1, atol=1e-6)
        if renormalises(name):
            np.testing.assert_allclose(gates[:, : S - 3].sum(-1), 1, atol=1e-6)
        if name == "gshard":
            both_GS = (assigned.expert_GSK < ALL[name].experts.num_experts).all(-1)
            np.testing.assert_allclose(gates[both_GS].sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("low", [0.0, -25.0, -60.0, -90.0, -1e4])
def test_sigmoid_gates_do_not_depend_on_how_low_all_scores_are(low):
    """log s = the logit, where all are low: a softmax over 0 and -1, chosen by the bias if by s."""
    logits = np.float32([[[low, low - 1, low - 15, low - 15]]])
    state = {"bias": jnp.float32([2.0, 1.0, 0.0, 0.0])}
    experts, gates = choice("sigmoid", logits, np.ones((1, 1), bool), k=2, state=state)
    assert experts == [[[0, 1]]]
    s = 1 / (1 + np.exp([0.0, 1.0])) if low == 0 else np.exp([0.0, -1.0])
    np.testing.assert_allclose(gates[0, 0], s / s.sum(), rtol=1e-5)


def test_replayed_gates_do_not_depend_on_how_unlikely_the_experts_have_become():
    """Of [200, 1, 0, 0] the last three have p = 0 in float32."""
    logits = np.float32([[[200.0, 1.0, 0.0, 0.0]]])
    mask = np.ones((1, 1), bool)
    replayed = jnp.int32([[[1, 2]]])
    want = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    for name in ("top_k", "sinkhorn", "gshard", "noisy_top_k"):
        given = {"router": logits, "noise": logits * 0} if name == "noisy_top_k" else logits
        _, gates = choice(name, given, mask, k=2, replayed=replayed)
        np.testing.assert_allclose(gates[0, 0], want, rtol=1e-5)


def test_the_entropy_of_what_underflowed_has_a_gradient():
    """p = (1, 0, 0): -p log p is 0, and so is its gradient by the logits."""
    logits = jnp.float32([[[200.0, 0.0, -1e4]]])

    def entropy(logits):
        routed = routing.route("top_p", logits, jnp.ones((1, 1), bool), 1, state={"mass": 0.4})
        slots = assignment.assign_slots(routed.assignment, 3, 1)
        return stats.entropy_loss(stats.compute(routed, slots, jnp.ones((1, 1), bool)))

    value, gradient = jax.jit(jax.value_and_grad(entropy))(logits)
    assert value == 0 and not gradient.any()
