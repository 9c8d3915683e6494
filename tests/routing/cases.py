"""Every router, and every option that changes who goes where, as layers to test."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moe import config as configs
from moe import models, routing, sharding
from moe.routing import assignment, reinforce, stats
from tests import tiny

B = 8
T = 8
E = 4
Ranked = routing.ranked.Options


def case(router, consent=False, **changes) -> configs.ModelConfig:
    """A model of one layer, with few slots in training and enough in evaluation."""
    factors = {"capacity_factor": 0.5, "eval_capacity_factor": 4.0}
    experts = tiny.moe_config(router=router, **factors | changes)
    return tiny.model(num_layers=1, moe_every=1, experts=experts, allow_noncausal=consent)


def options(router, **changes):
    return routing.ROUTERS[router].options(**changes)


SAME = {"capacity_factor": 0.75, "eval_capacity_factor": 0.75}
CASES = {
    "top_1": case("top_k"),
    "top_2": case("top_k", k=2),
    "moving on": case("top_k", k=2, options=Ranked(reroute_rounds=2)),
    "limited": case("top_k", k=2, options=Ranked(expert_groups=2, groups_used=1)),
    "batch priority": case("top_k", True, **SAME, options=Ranked(batch_priority=True)),
    "noisy_top_k": case("noisy_top_k", k=2, router_scale=1.0),
    "gshard": case("gshard", k=2),
    "gshard sampled": case("gshard", k=2, options=options("gshard", second="sampled")),
    "top_p": case("top_p", k=3, options=options("top_p", mass=0.6)),
    "sigmoid": case("sigmoid", k=2),
    "hierarchical": case(
        "hierarchical", num_experts=8, k=2, router_scale=1.0,
        options=options("hierarchical", groups=4, groups_used=2),
    ),
    "hierarchical in one": case(
        "hierarchical", num_experts=8, k=2, router_scale=1.0,
        options=options("hierarchical", groups=2, groups_used=1),
    ),
    "merged": case("merged", k=3, router_scale=1.0, options=options("merged", columns=7)),
    "sinkhorn": case("sinkhorn", True, k=2),
    "base": case("base", True, capacity_factor=1.0),
    "reinforce": case("reinforce"),
    "hash": case("hash"),
    "multihash": case("hash", k=2),
    "rre": case("rre", options=options("rre", groups=2)),
    "domain": case("domain"),
    "random": case("random", k=2),
    "emo": case("emo", True, k=2, options=options("emo", most=3)),
    "emo running": case("emo", k=2, options=options("emo", pool="running", least=3, most=3)),
    "expert_choice": case("expert_choice", True, k=2, **SAME),
    "capped": case("expert_choice", True, k=2, **SAME, options=options("expert_choice", most=2)),
    "soft": case("soft", True, dispatcher="einsum", group_size=T, **SAME),
}  # fmt: skip

for name, router in routing.ROUTERS.items():  # what has no case of its own yet
    if name not in {c.experts.router for c in CASES.values()}:
        CASES[name] = case(name, router.causal != "always")

CHOICES = [name for name, c in CASES.items() if c.experts.routing.kind is assignment.TopKAssignment]
LEARNED = [name for name, c in CASES.items() if c.experts.routing.learned]
TREES = ("hierarchical", "hierarchical in one")
NOISY = ("noisy_top_k", "gshard", "gshard sampled", *TREES, "reinforce", "random", "emo")


class Inputs(NamedTuple):
    """What a layer reads."""

    x_BTD: jax.Array
    mask_BT: jax.Array
    ids_BT: jax.Array
    domain_BT: jax.Array
    segment_BT: jax.Array


class Result(NamedTuple):
    """What a layer does, and gradients."""

    y_BTD: np.ndarray
    router_stats: stats.RouterStats
    choices: dict | None  # expert_GSK and gate_GSK, where tokens choose
    dparams: dict | None
    dx_BTD: np.ndarray | None


def params(config, seed=0):
    """Random parameters of the layer on the current mesh."""
    whole = tiny.params(config, seed)["block"]["layer_0"]["moe"]
    return jax.tree.map(lambda x: x[0], whole)


def inputs(seed=0, padded=True) -> Inputs:
    """Random vectors and ids, two domains and two documents in every row."""
    fields = tiny.inputs(B, T, seed, padded)
    x_BTD = np.random.default_rng(seed).normal(size=(B, T, tiny.D)).astype(np.float32)
    mask_BT = fields.segment_BT > 0
    document_T = np.repeat([1, 2], [T - T // 4, T // 4])  # the first goes over the middle
    return Inputs(
        x_BTD, mask_BT, fields.tokens_BT, fields.domain_BT, document_T * np.asarray(mask_BT)
    )


def weight(seed=9):
    return np.random.default_rng(seed).normal(size=(B, T, tiny.D)).astype(np.float32)


@functools.cache
def compiled(config, train, **execution):
    """The (params, x, read, at, losses) -> (results, gradients) of a layer.

    The gradients are those of sum(y * at) + losses * (the sum of the router's losses).
    """
    layer = tiny.layer_of(config, **execution)
    moe_config = config.experts

    def weighted(params, x_BTD, read, at_BTD, losses):
        inputs, variables, key = read
        _, mask_BT, *fields_BT = inputs
        y_BTD, aux = layer.apply(
            {"params": params, **variables}, x_BTD, mask_BT, train, *fields_BT,
            rngs={"router": key, "dropout": key}, mutable=["router"],
        )  # fmt: skip
        record = aux["router"]["record"]
        router_stats = record.stats
        if record.policy is not None:
            own = reinforce.learn(record.policy, at_BTD[..., 0], mask_BT)
            router_stats = router_stats._replace(extra=own)
        of_router = sum(fn(router_stats) for fn in moe_config.routing.losses.values())
        return (y_BTD * at_BTD).sum() + losses * of_router, (
            y_BTD,
            router_stats,
            record.assignment and record.assignment._asdict(),
        )

    return jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True) if train else weighted)


def run(
    config, given=None, *, mesh="none", weights=None, key=0, train=True, replayed=None, at=None,
    losses=0.0, **execution,
):  # fmt: skip
    """The Result of a layer; `weights` are its parameters. In evaluation without gradients."""
    with tiny.on(mesh):
        function, *args = call(
            config, given, train, weights, key, replayed, at, losses, **execution
        )
        (_, results), gradients = function(*args) if train else (function(*args), (None, None))
        return Result(*tiny.host((*results, *gradients)))


def call(
    config, given=None, train=True, weights=None, key=0, replayed=None, at=None, losses=0.0,
    **execution,
):  # fmt: skip
    """The function of `compiled` and its arguments, on the current mesh."""
    state = jax.tree.map(lambda x: sharding.reshard(x[0], "." * (x.ndim - 1)), state_of(config))
    given = inputs() if given is None else given
    given = Inputs(*tiny.put(tuple(np.asarray(x) for x in given)))
    replayed = {} if replayed is None else {"expert_GSK": jnp.asarray(replayed)}
    read = given, {"router_state": state, "replayed": replayed}, jax.random.key(key)
    weights = params(config) if weights is None else weights
    at = tiny.put(weight() if at is None else at)
    return compiled(config, train, **execution), weights, given.x_BTD, read, at, losses


def state_of(config):
    return jax.tree.map(jnp.asarray, models.build(config).router_state())


def experts_of(result) -> np.ndarray:
    """expert_GSK."""
    return result.choices["expert_GSK"]
