"""A dense model becomes one with experts, which begin as what the dense model knew.

- `copies`: every expert is the dense feed-forward, the router is drawn (Komatsuzaki et al. 2022,
  section 2.1). Where gates sum to 1, as with K > 1 unless the config says else, the model says
  what the dense one said. Where they are probabilities, somewhat above 1 / E at first, outputs are
  E / K times as large, so the model is about the dense one, and not exactly.
- `granular`: each copy is cut into G experts of a G-th of its hidden units, and a token chooses K
  of G K times as many. The router starts with equal columns for the parts of a copy, so that
  whole copies are chosen (He et al. 2024, "Upcycling Large Language Models into Mixture of
  Experts", virtual groups): the same function again.
- `reinitialised`: a share of each expert's hidden units is drawn afresh, so that experts differ
  (Nakamura et al. 2025, "Drop-Upcycling", section 3).
- `expanded`: E experts become m E, and K becomes m K: the same function.
- `of_parents`: experts are the feed-forwards of several dense models, all else is their mean.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moe import models, schema, sharding
from moe.adapt import banks
from moe.adapt.banks import Trained
from moe.config import MoEConfig

SUMMED = ("sigmoid", "noisy_top_k")  # whose gates sum to 1 with K > 1
SPREAD = 0.02  # standard deviation of a drawn router (Komatsuzaki et al. 2022, appendix A)


def copies(
    dense: Trained, experts: MoEConfig, key: jax.Array, moe_every: int = 1, spread: float = SPREAD
) -> Trained:
    """Every `moe_every`-th feed-forward E times, as wide as it is.

    Args:
      dense: the parent.
      experts: of the new model; `d_ff` is the parent's.
      key: of the router's weights.
      moe_every: the last of so many layers gets experts.
      spread: standard deviation of the router's weights.

    Raises:
      UserError: for a parent with experts, or sizes that do not fit.
    """
    return of_parents([dense], experts, key, moe_every, spread)


def of_parents(
    parents: Sequence[Trained],
    experts: MoEConfig,
    key: jax.Array,
    moe_every: int = 1,
    spread: float = SPREAD,
) -> Trained:
    """The same of several parents in turn: expert e is that of parent e modulo their number.

    Raises:
      UserError: as `copies`, or for parents of different sizes.
    """
    first = parents[0].model
    schema.require(
        all(parent.model == first for parent in parents), "parents of different sizes or settings"
    )
    _check(first, experts, moe_every)
    model = dataclasses.replace(first, experts=experts, moe_every=moe_every)
    E = experts.num_experts
    scale = _scale(experts)
    trees = [restacked(parent, moe_every) for parent in parents]
    params = jax.tree.map(lambda *parts: sum(parts) / len(parts), *trees)
    for path in banks.paths(model):
        above = path[:-1]
        feeds = [banks.at(tree, (*above, "ffn")) for tree in trees]
        bank = {"experts": _experts(feeds, E, scale)}
        params = banks.moved(params, (*above, "ffn"), "moe", bank)
    return Trained(model, _with_routers(model, params, key, spread), _state(model))


def _check(dense, experts, moe_every):
    schema.require(dense.experts is None, "the parent has experts already: see `expanded`")
    schema.require(
        experts.d_ff == dense.d_ff,
        f"experts.d_ff={experts.d_ff} of copies must be the parent's model.d_ff={dense.d_ff}",
    )
    schema.require(
        not experts.shared_experts,
        f"experts.shared_experts={experts.shared_experts} would add to what the parent computes:"
        " set it to 0",
    )
    schema.require(
        moe_every > 0 and (dense.num_layers - dense.num_dense_layers) % moe_every == 0,
        f"moe_every={moe_every} does not divide the parent's layers: {dense.num_layers}",
    )
    schema.require(
        not dense.num_dense_layers and not dense.dense_activation,
        "a parent with model.num_dense_layers or model.dense_activation: leave them out",
    )


def _scale(experts):
    """What makes up for gates that do not sum to 1: of K probabilities, each about 1 / E."""
    summed = _sum_to_1(experts)
    schema.require(
        experts.router in ("top_k", "merged") or (summed and experts.router in SUMMED),
        f"experts.router={experts.router!r} with k={experts.k}: it is not known how large a token's"
        f" gates are together. Use top_k, or {' or '.join(SUMMED)} with k above 1",
    )
    return 1.0 if summed else experts.num_experts / experts.k


def _sum_to_1(experts):
    """Do a token's gates? As `contract.gates` has it."""
    said = getattr(experts.options, "normalise_gates", None)
    return experts.k > 1 if said is None else said


def restacked(trained: Trained, moe_every: int) -> dict:
    """The parameters of a dense model with blocks of so many layers."""
    found = trained.params
    for name in trained.model.stacks:
        above = (name,) if name else ()
        block = banks.at(found, (*above, "block"))
        layers = [block[f"layer_{i}"] for i in range(len(block))]
        every = jax.tree.map(_interleaved, *layers)
        again = {
            f"layer_{i}": jax.tree.map(functools.partial(_each, i=i, moe_every=moe_every), every)
            for i in range(moe_every)
        }
        found = banks.moved(found, (*above, "block"), "block", again)
    return found


def _interleaved(*parts):
    """Arrays [blocks, ...] of the layers of a block as one [layers, ...]."""
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _each(x, i, moe_every):
    return x[i::moe_every]


def _experts(feeds, E, scale):
    """Feed-forwards [L, ...] in turn as experts [L, E, ...]."""
    found = {}
    for name in feeds[0]:
        parts = [feed[name] for feed in feeds]
        stacked = jnp.stack([parts[e % len(parts)] for e in range(E)], axis=1)
        found[name] = stacked * scale if name == "w_out" else stacked
    return found


def _with_routers(model, params, key, spread):
    """The parameters with all that a router learns, drawn."""
    shapes = models.parameter_shapes(model)
    for number, path in enumerate(banks.paths(model)):
        bank = banks.at(params, path)
        for name, shape in sorted(banks.at(shapes, path).items()):
            if name not in bank:
                own = jax.random.fold_in(jax.random.fold_in(key, number), len(bank))
                bank = bank | {name: spread * jax.random.normal(own, shape.shape, jnp.float32)}
        params = banks.replaced(params, path, bank)
    return params


def _state(model):
    state = models.build(model).router_state(0)
    return {k: sharding.reshard(jnp.asarray(x), "." * x.ndim) for k, x in state.items()}


def granular(trained: Trained, parts: int) -> Trained:
    """Every expert cut into so many, of which a token chooses as many times more.

    Args:
      trained: of `copies`, or any model whose gates sum to 1 and whose router is top-k.
      parts: G.

    Raises:
      UserError: if G does not divide the experts' width, or gates do not sum to 1.
    """
    experts = _of_whole_groups(trained)
    schema.require(
        parts > 0 and experts.d_ff % parts == 0,
        f"expected a divisor of experts.d_ff={experts.d_ff}; got {parts} parts",
    )
    schema.require(
        _sum_to_1(experts),
        "gates that do not sum to 1 would weigh parts of an expert apart: set k above 1, or"
        " experts.options.normalise_gates=True",
    )
    cut = functools.partial(_cut, parts=parts)
    return _multiplied(trained, parts, cut, d_ff=experts.d_ff // parts)


def expanded(trained: Trained, times: int) -> Trained:
    """Every expert so many times, of which a token chooses as many times more.

    Raises:
      UserError: for routers other than plain top-k.
    """
    _of_whole_groups(trained)
    schema.require(times > 0, f"expected experts to be repeated 1 time or more; got {times}")
    return _multiplied(trained, times, lambda name, w: _repeat(w, times, 1))


def _of_whole_groups(trained):
    experts = banks.experts(trained.model)
    options = experts.options
    schema.require(
        experts.router == "top_k" and getattr(options, "expert_groups", 1) == 1,
        f"experts.router={experts.router!r}: only top_k without expert_groups chooses an expert and"
        " its twins together",
    )
    return experts


def _multiplied(trained, times, change, **changes):
    """m times the experts and choices; twins lie side by side, and so do their columns.

    Gates sum to 1 if they did, whatever K is now.
    """
    experts = banks.experts(trained.model)
    own: Any = experts.options
    options = dataclasses.replace(own, normalise_gates=_sum_to_1(experts))
    model = banks.with_experts(
        trained.model,
        num_experts=experts.num_experts * times,
        k=experts.k * times,
        options=options,
        **changes,
    )
    found = []
    for bank in banks.of(trained):
        made = {name: change(name, w) for name, w in bank["experts"].items()}
        found.append(bank | {"experts": made, "router": _repeat(bank["router"], times, -1)})
    return Trained(model, banks.with_banks(trained.params, trained.model, found), {})


def _repeat(w, times, axis):
    return sharding.laid_out_as(w, functools.partial(jnp.repeat, repeats=times, axis=axis))(w)


def _cut(name, w, parts):
    """w [L, E, D, F] as [L, E G, D, F / G]; w_out is G times as large, since its gates are less."""

    def cut(w: jax.Array) -> jax.Array:
        if name == "w_out":
            L, E, F, D = w.shape
            return parts * w.reshape(L, E * parts, F // parts, D)
        L, E, D, F = w.shape
        split = w.reshape(L, E, D, parts, F // parts)
        return split.swapaxes(2, 3).reshape(L, E * parts, D, F // parts)

    return sharding.laid_out_as(w, cut)(w)


def reinitialised(trained: Trained, share: float, key: jax.Array) -> Trained:
    """A share of every expert's hidden units, drawn with the mean and deviation of its matrix.

    Args:
      trained: of `copies`.
      share: of the units, from 0 to 1, others in each expert.
      key: of what is drawn.

    Raises:
      UserError: for a share that is none.
    """
    schema.require(0 <= share <= 1, f"expected a share from 0 to 1; got {share}")
    found = []
    for number, bank in enumerate(banks.of(trained)):
        own = jax.random.fold_in(key, number)
        found.append(bank | {"experts": _redrawn(bank["experts"], share, own)})
    return trained._replace(params=banks.with_banks(trained.params, trained.model, found))


def _redrawn(weights, share, key):
    L, E, _, F = weights["w_in"].shape
    order_LEF = np.asarray(jax.random.uniform(key, (L, E, F))).argsort(-1)
    is_drawn_LEF = order_LEF < round(share * F)
    found = {}
    for i, (name, w) in enumerate(sorted(weights.items())):
        is_drawn = is_drawn_LEF[..., None] if name == "w_out" else is_drawn_LEF[:, :, None]
        own = jax.random.fold_in(key, i)
        found[name] = sharding.laid_out_as(w, _redraw)(w, jnp.asarray(is_drawn), own)
    return found


def _redraw(w, is_drawn, key):
    axes = (-2, -1)
    mean, deviation = w.mean(axes, keepdims=True), w.std(axes, keepdims=True)
    return jnp.where(is_drawn, mean + deviation * jax.random.normal(key, w.shape, w.dtype), w)
