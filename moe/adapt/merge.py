"""Experts merged into fewer, or into one dense feed-forward.

M-SMoE (Li et al. 2023, "Merge, Then Compress", section 3.2): hidden units are aligned first, since
their order in an expert means nothing; the most used experts of a layer lead a group each, and
every other joins the leader whose router column scores tokens most alike; weights are averaged by
use. Tokens are routed as before, to what became of their expert (`routing.merged`).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from moe import schema, sharding
from moe.adapt import banks
from moe.adapt.banks import Trained
from moe.routing import merged

ROUTERS = ("top_k", "merged")  # whose columns lead to experts and say no more


def grouped(
    trained: Trained, use_LE: np.ndarray, moments_LEDD: np.ndarray, number: int
) -> np.ndarray:
    """group_LE: which of `number` groups each expert joins, numbered by their leaders' places.

    Args:
      trained: the model, whose router has one column for each expert.
      use_LE: how many tokens chose each.
      moments_LEDD: of `observing.moments`, by which columns are compared.
      number: of groups.

    Raises:
      UserError: if there cannot be so many.
    """
    E = use_LE.shape[1]
    schema.require(0 < number <= E, f"expected from 1 to {E} groups of {E} experts; got {number}")
    check(trained)
    columns_LDE = _columns(trained)
    found = [
        _grouped(use_E, _alike(columns_DE, moments_EDD.sum(0)), number)
        for use_E, columns_DE, moments_EDD in zip(use_LE, columns_LDE, moments_LEDD, strict=True)
    ]
    return np.stack(found)


def _columns(trained):
    """A column for each expert: the mean of those that lead to it."""
    columns_LDR = np.concatenate([np.asarray(bank["router"]) for bank in banks.of(trained)])
    if "expert" not in trained.router_state:
        return columns_LDR
    E = banks.experts(trained.model).num_experts
    leads_LRE = np.asarray(trained.router_state["expert"])[..., None] == np.arange(E)
    return columns_LDR @ (leads_LRE / leads_LRE.sum(1, keepdims=True))


def _alike(columns_DE, moments_DD):
    """Cosines of the experts' scores over tokens, [E, E]."""
    products_EE = columns_DE.T @ moments_DD @ columns_DE
    norm_E = np.sqrt(np.maximum(np.diag(products_EE), 1e-30))
    return products_EE / norm_E[:, None] / norm_E[None]


def _grouped(use_E, alike_EE, number):
    leader_N = np.sort(np.argsort(-use_E, kind="stable")[:number])
    group_E = alike_EE[:, leader_N].argmax(1)
    group_E[leader_N] = np.arange(number)
    return group_E


def leaders(group_LE: np.ndarray, use_LE: np.ndarray) -> np.ndarray:
    """leader_LE: the most used expert of each expert's group."""
    found = np.empty_like(group_LE)
    for group_E, use_E, leader_E in zip(group_LE, use_LE, found, strict=True):
        for group in np.unique(group_E):
            (member,) = np.nonzero(group_E == group)
            leader_E[member] = member[use_E[member].argmax()]
    return found


def aligned(trained: Trained, leader_LE: np.ndarray) -> Trained:
    """The same model, each expert's hidden units in the order that is most like its leader's.

    The order is the assignment that maximises the products of their weights (Ainsworth et al. 2022,
    "Git Re-Basin", section 3.2, weight matching).
    """
    parts = banks.by_stack(trained.model, leader_LE)
    found = [
        bank | {"experts": _aligned(bank["experts"], own_LE)}
        for bank, own_LE in zip(banks.of(trained), parts, strict=True)
    ]
    return trained._replace(params=banks.with_banks(trained.params, trained.model, found))


def _aligned(weights, leader_LE):
    order_LEF = _orders({name: np.asarray(w) for name, w in weights.items()}, leader_LE)
    found = {}
    for name, w in weights.items():
        axis = -2 if name == "w_out" else -1
        order = order_LEF[..., None] if name == "w_out" else order_LEF[:, :, None]
        reorder = functools.partial(jnp.take_along_axis, axis=axis)
        found[name] = sharding.laid_out_as(w, reorder)(w, jnp.asarray(order))
    return found


def _orders(weights, leader_LE):
    """order_LEF: which unit of its own each expert puts in each place."""
    units = {  # [L, E, F, D]
        name: w if name == "w_out" else w.swapaxes(-1, -2) for name, w in weights.items()
    }
    L, E, F, _ = units["w_in"].shape
    order_LEF = np.tile(np.arange(F), (L, E, 1))
    for layer, expert in np.argwhere(leader_LE != np.arange(E)):
        leader = leader_LE[layer, expert]
        gain_FF = sum(w[layer, leader] @ w[layer, expert].T for w in units.values())
        order_LEF[layer, expert] = optimize.linear_sum_assignment(gain_FF, maximize=True)[1]
    return order_LEF


def to_fewer(trained: Trained, group_LE: np.ndarray, weight_LE: np.ndarray) -> Trained:
    """One expert for each group, the weighted mean of its members.

    Args:
      trained: the model, aligned or not.
      group_LE: which group each expert joins, every number from 0 on in every layer.
      weight_LE: of each expert in its group; equal weights where all of a group are 0.

    Raises:
      UserError: for groups without a member, and routers whose columns say more than a score.
    """
    check(trained)
    number = int(group_LE.max()) + 1
    for layer, group_E in enumerate(group_LE):
        missing = sorted(set(range(number)) - set(group_E.tolist()))
        schema.require(not missing, f"no expert of MoE layer {layer} is in the groups {missing}")
    share_LNE = _shares(group_LE, weight_LE, number)
    parts = banks.by_stack(trained.model, share_LNE)
    found = [
        bank | {"experts": {k: _mean(w, own_LNE) for k, w in bank["experts"].items()}}
        for bank, own_LNE in zip(banks.of(trained), parts, strict=True)
    ]
    params = banks.with_banks(trained.params, trained.model, found)
    return Trained(_redirected(trained.model, number), params, _table(trained, group_LE))


def _shares(group_LE, weight_LE, number):
    """share_LNE: of each expert in each group; they sum to 1."""
    member_LNE = group_LE[:, None] == np.arange(number)[None, :, None]
    share_LNE = member_LNE * np.asarray(weight_LE, np.float64)[:, None]
    share_LNE = np.where(share_LNE.sum(-1, keepdims=True) > 0, share_LNE, member_LNE)
    return (share_LNE / share_LNE.sum(-1, keepdims=True)).astype(np.float32)


def _mean(w, share_LNE):
    def mean(w: jax.Array, share: jax.Array) -> jax.Array:
        exact = jax.lax.Precision.HIGHEST
        return jnp.einsum("LEXY,LNE->LNXY", w, share, precision=exact)

    return sharding.laid_out_as(w, mean)(w, jnp.asarray(share_LNE))


def _redirected(model, number):
    """The model whose router keeps its columns."""
    experts = banks.experts(model)
    options = merged.Options(
        columns=experts.routing.projections(experts)["router"],
        normalise_gates=getattr(experts.options, "normalise_gates", None),
    )
    changes = {"router": "merged", "options": options, "num_experts": number}
    return banks.with_experts(model, **changes)


def _table(trained, group_LE):
    before_LR = trained.router_state.get("expert")
    if before_LR is None:
        table_LR = group_LE
    else:
        table_LR = np.take_along_axis(group_LE, np.asarray(before_LR), axis=1)
    return {"expert": sharding.reshard(jnp.asarray(table_LR, jnp.int32), "..")}


def to_dense(trained: Trained, weight_LE: np.ndarray, gate_L: np.ndarray | None = None) -> Trained:
    """Every layer's experts as one dense feed-forward, their weighted mean.

    Args:
      trained: the model, aligned or not.
      weight_LE: of each expert.
      gate_L: the sum of a token's gates, on average, by which outputs are multiplied; None: 1, as
        of gates that are normalised.

    Raises:
      UserError: if dense layers beside the experts have another width or activation, or there are
        shared experts, which a dense layer has no place for.
    """
    model = trained.model
    experts = banks.experts(model)
    alone = model.moe_every == 1 and model.num_dense_layers == 0
    schema.require(
        alone or experts.d_ff == model.d_ff,
        f"experts are {experts.d_ff} wide and dense layers {model.d_ff}: in a dense model all are"
        " alike, so these cannot be merged into one",
    )
    schema.require(
        model.dense_activation in ("", model.activation) and not experts.shared_experts,
        "dense layers of another activation than the experts', or shared experts: these cannot be"
        " merged into a dense feed-forward",
    )
    share_L1E = _shares(np.zeros_like(weight_LE, int), weight_LE, 1)
    params = trained.params
    loud_L = np.ones(len(weight_LE)) if gate_L is None else np.asarray(gate_L)
    for path, bank, own_L1E, own_L in zip(
        banks.paths(model),
        banks.of(trained),
        banks.by_stack(model, share_L1E),
        banks.by_stack(model, loud_L),
        strict=True,
    ):
        share = {"w_out": own_L1E[:, 0] * np.float32(own_L[:, None])}
        ffn = {k: _dense(w, share.get(k, own_L1E[:, 0])) for k, w in bank["experts"].items()}
        params = banks.moved(params, path, "ffn", ffn)
    dense = dataclasses.replace(model, experts=None, d_ff=experts.d_ff, dense_activation="")
    return Trained(dense, params, {})


def _dense(w, share_LE):
    def mean(w: jax.Array, share: jax.Array) -> jax.Array:
        exact = jax.lax.Precision.HIGHEST
        return jnp.einsum("LEXY,LE->LXY", w, share, precision=exact)

    if not sharding.current():
        return mean(w, jnp.asarray(share_LE))
    layers, _, *inner = w.sharding.spec
    place = jax.sharding.NamedSharding(w.sharding.mesh, jax.sharding.PartitionSpec(layers, *inner))
    return jax.jit(jax.sharding.auto_axes(mean, out_sharding=place))(w, jnp.asarray(share_LE))


def check(trained: Trained) -> None:
    """Refuses routers whose columns say more than a score.

    Raises:
      UserError: with those that can be merged.
    """
    experts = banks.experts(trained.model)
    idle = {"reroute_rounds": 0, "batch_priority": False, "expert_groups": 1}
    plain = all(getattr(experts.options, name, usual) == usual for name, usual in idle.items())
    schema.require(
        experts.router in ROUTERS and plain,
        f"experts.router={experts.router!r} with these options cannot lead to merged experts: it"
        f" must be one of {', '.join(ROUTERS)}, without {', '.join(idle)}",
    )
