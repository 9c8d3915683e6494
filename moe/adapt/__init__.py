"""Life after training: a model is made into another one, without a step of training.

Every file is one idea: functions from a `banks.Trained` to another. Some first look at what the
model does with text (`observing`). `METHODS` is what `experiments.adapt` can do by a word.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from moe import schema
from moe.adapt import (
    banks,
    domains,
    integers,
    merge,
    observing,
    packed,
    place,
    prune,
    ternary,
    upcycle,
)
from moe.adapt.banks import Trained
from moe.config import MoEConfig
from moe.routing import ranked

__all__ = ["METHODS", "Ask", "Method", "Trained", "refuse_idle"]


class Ask(NamedTuple):
    """What is asked of a method beside its name; each reads some of it."""

    # (measure, model, domain=) -> its sums over text, see `observing.observe`.
    look: Callable[..., Any]
    domains: int = 1  # of the text
    experts: int = 0  # of the result; 0 when merging: one dense feed-forward
    k: int = 2  # experts that a token chooses after upcycling
    moe_every: int = 1  # the last of so many layers gets experts
    parts: int = 1  # into which each expert is cut
    share: float = 0.0  # of the hidden units that are drawn afresh
    seed: int = 0  # of what is drawn
    dropless: bool = False  # upcycling: no capacity, as published models
    packed: str = ""  # a file of experts to be put in
    devices: int = 1  # along `expert`, to place experts on
    of_domains: tuple[int, ...] = ()  # whose experts stay; one named twice is copied
    parents: tuple[Trained, ...] = ()  # upcycling: more dense models, of which experts are copies


def pruned(trained: Trained, ask: Ask, score: Callable[[observing.Use], np.ndarray]) -> Trained:
    """The experts with the highest scores stay."""
    score_LE = score(ask.look(observing.use, trained))
    return prune.keep(trained, prune.best(score_LE, ask.experts))


def merge_mean(trained: Trained, ask: Ask) -> Trained:
    """Plain means of groups of experts."""
    group_LE, use = _groups(trained, ask)
    return _merged(trained, ask, group_LE, use, np.ones_like(use.tokens))


def merge_use(trained: Trained, ask: Ask) -> Trained:
    """Means of groups of experts, weighted by how many tokens chose them."""
    group_LE, use = _groups(trained, ask)
    return _merged(trained, ask, group_LE, use, use.tokens)


def merge_aligned(trained: Trained, ask: Ask) -> Trained:
    """The same after hidden units were aligned: M-SMoE."""
    group_LE, use = _groups(trained, ask)
    same = merge.aligned(trained, merge.leaders(group_LE, use.tokens))
    return _merged(same, ask, group_LE, use, use.tokens)


def _groups(trained, ask):
    """(group_LE, how experts were used)."""
    merge.check(trained)
    use = ask.look(observing.use, trained)
    if ask.experts == 0:
        return np.zeros_like(use.tokens, int), use
    moments_LEDD = ask.look(observing.moments, trained)
    return merge.grouped(trained, use.tokens, moments_LEDD, ask.experts), use


def _merged(trained, ask, group_LE, use, weight_LE):
    if ask.experts == 0:
        gate_L = use.gate.sum(1) / (use.tokens.sum(1) / banks.experts(trained.model).k)
        return merge.to_dense(trained, weight_LE, gate_L)
    return merge.to_fewer(trained, group_LE, weight_LE)


def upcycled(trained: Trained, ask: Ask) -> Trained:
    """Copies of a dense model's feed-forwards, perhaps cut into parts, some units drawn afresh."""
    key = jax.random.key(ask.seed)
    every = [trained, *ask.parents]
    made = upcycle.of_parents(every, _of_copies(trained, ask), key, ask.moe_every)
    if ask.parts > 1:
        made = upcycle.granular(made, ask.parts)
    return upcycle.reinitialised(made, ask.share, jax.random.fold_in(key, 1))


def upcycled_moment(trained: Trained, ask: Ask) -> Trained | None:
    """A moment in the place of parameters, for every copy the same; routers have none yet.

    Nothing where experts are no copies, or count for more than their gates make of them.
    """
    if ask.parts > 1 or ask.share or ask.k == 1 or ask.parents:
        return None
    key = jax.random.key(0)
    return upcycle.copies(trained, _of_copies(trained, ask), key, ask.moe_every, spread=0.0)


def _of_copies(trained, ask):
    """The experts' config."""
    none: dict[str, Any] = {
        "dispatcher": "grouped",
        "capacity_factor": 0.0,
        "eval_capacity_factor": 0.0,
    }
    return MoEConfig(
        num_experts=ask.experts,
        k=ask.k,
        d_ff=trained.model.d_ff,
        options=ranked.Options(normalise_gates=True) if ask.k > 1 else None,
        **none if ask.dropless else {},
    )


def expanded(trained: Trained, ask: Ask) -> Trained:
    """Experts, and choices, so many times."""
    number = banks.experts(trained.model).num_experts
    schema.require(
        ask.experts > 0 and ask.experts % number == 0,
        f"expected a multiple of the {number} experts that there are; got {ask.experts}",
    )
    return upcycle.expanded(trained, ask.experts // number)


def qmoe(trained: Trained, ask: Ask) -> Trained:
    """Experts whose weights have three values a row."""
    return ternary.quantised(trained, ask.look)[0]


def whole_numbers(trained: Trained, ask: Ask, kind: str) -> Trained:
    """Experts of 8 or 4 bits a weight, computed with as what they stand for."""
    del ask
    return integers.quantised(trained, kind)


def unpack(trained: Trained, ask: Ask) -> Trained:
    """The experts of a packed file in the place of the model's."""
    layers = packed.read(pathlib.Path(ask.packed))
    ternary.check_fit(trained, layers)
    return ternary.with_layers(trained, dict(enumerate(layers)))


def placed(trained: Trained, ask: Ask) -> Trained:
    """Experts in the order of the devices where most tokens that choose them are."""
    return place.placed(trained, place.best(seen_by_device(trained, ask)))


def seen_by_device(trained: Trained, ask: Ask) -> np.ndarray:
    """count_LZE of `place`."""
    use = [ask.look(observing.use, trained, domain=d).tokens for d in range(ask.domains)]
    return place.by_device(np.stack(use), ask.devices)


def of_domains(trained: Trained, ask: Ask) -> Trained:
    """The experts of some domains alone."""
    return domains.of(trained, ask.of_domains)


def plain(trained: Trained, ask: Ask) -> Trained:
    """The model as it is, without what lay beside it when it was trained."""
    del ask
    return trained


class Method(NamedTuple):
    """One line of `METHODS`."""

    apply: Callable[[Trained, Ask], Trained]
    reads: tuple[str, ...] = ()  # fields of `Ask`, beside `look`
    looks: bool = False  # at text
    moment: Callable[[Trained, Ask], Trained | None] | None = None  # what becomes of one of adam's


METHODS = {
    "plain": Method(plain),
    "prune_use": Method(functools.partial(pruned, score=prune.by_use), ("experts",), looks=True),
    "prune_reap": Method(functools.partial(pruned, score=prune.reap), ("experts",), looks=True),
    "merge_mean": Method(merge_mean, ("experts",), looks=True),
    "merge_use": Method(merge_use, ("experts",), looks=True),
    "merge_aligned": Method(merge_aligned, ("experts",), looks=True),
    "upcycle": Method(
        upcycled,
        ("experts", "k", "moe_every", "parts", "share", "seed", "parents"),
        moment=upcycled_moment,
    ),
    "expand": Method(expanded, ("experts",)),
    "int8": Method(functools.partial(whole_numbers, kind="int8")),
    "int4": Method(functools.partial(whole_numbers, kind="int4")),
    "qmoe": Method(qmoe, looks=True),
    "unpack": Method(unpack, ("packed",)),
    "domains": Method(of_domains, ("of_domains",), moment=of_domains),
    "place": Method(placed, ("devices", "seed")),
}


def refuse_idle(how: str, domain: str = "", **asked: Any) -> None:
    """Refuses what a method does not read: whoever gave it expects something of it.

    Args:
      how: of `METHODS`.
      domain: the only one that is looked at, if one is named.
      asked: fields of `Ask`.

    Raises:
      UserError: with the field.
    """
    method = METHODS[how]
    for name, value in asked.items():
        usual = Ask._field_defaults[name]
        schema.require(
            name in method.reads or value == usual,
            f"--{name}={value} does nothing with --how={how}: leave it out",
        )
    schema.require(
        method.looks or not domain, f"--domain={domain} does nothing with --how={how}: leave it out"
    )
