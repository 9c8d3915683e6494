"""Experts that rest in the host's memory while those of another domain are trained.

Expert computation and storage separation (ECSS) of PanGu-Sigma (Ren et al. 2023, section 3): text
of one domain activates the experts of that domain alone, so a device needs to hold these, their
moments, and what is shared by all. A part of the state is a state of `adapt.domains.sub_model`, and
is trained by its ordinary step. Experts that rest are not decayed, and their moments do not fade:
adam is a sparse one for them, where in one step of all experts it would not be. All of this is on
one device.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from moe import paths
from moe.training.step import State

HOST = "pinned_host"


class Hosted(NamedTuple):
    """A state whose experts lie apart, by domain; those of a domain that is away are not here."""

    shared: list  # leaves of the state, None in the place of experts
    groups: list[list]  # of each domain: its experts' leaves [L, E / domains, ...]
    tree: Any  # how leaves make a state


def apart(state: State, number: int, host: bool = True) -> Hosted:
    """A state of all experts, taken apart.

    Args:
      state: of a model with the router "domain" or "rre".
      number: of domains.
      host: experts go to the host's memory; else they stay where they are.
    """
    shared, banks, tree = _parted(state)
    groups = zip(*(jnp.split(x, number, axis=1) for x in banks), strict=True)
    kind = HOST if host else None
    return Hosted(shared, [[_moved(x, kind) for x in group] for group in groups], tree)


def fetched(hosted: Hosted, domain: int) -> State:
    """The state of one domain's sub-model, on the device."""
    experts = [_moved(x, _device_kind(x)) for x in hosted.groups[domain]]
    return _joined(hosted, experts)


def stored(hosted: Hosted, domain: int, state: State) -> Hosted:
    """All that is known after a sub-model was trained; its experts go back to where they rested.

    What was known before is spent: a step gives its state's memory to the next.
    """
    shared, banks, tree = _parted(state)
    kinds = [x.sharding.memory_kind for x in hosted.groups[domain]]
    moved = [_moved(x, kind) for x, kind in zip(banks, kinds, strict=True)]
    groups = [moved if d == domain else group for d, group in enumerate(hosted.groups)]
    return Hosted(shared, groups, tree)


def whole(hosted: Hosted) -> State:
    """The state of all experts, on the device."""
    parts = zip(*hosted.groups, strict=True)
    moved = ([_moved(x, _device_kind(x)) for x in same] for same in parts)
    return _joined(hosted, [jnp.concatenate(same, axis=1) for same in moved])


def held(tree: Any) -> dict[str, int]:
    """Bytes of a tree's arrays by the kind of memory in which they lie."""
    found: dict[str, int] = {}
    for x in jax.tree.leaves(tree):
        kind = x.sharding.memory_kind
        found[kind] = found.get(kind, 0) + x.nbytes
    return found


def _parted(state):
    """(leaves, None in the place of experts; those of experts; how leaves make a state)."""
    found, tree = jax.tree_util.tree_flatten_with_path(state)
    shared = [None if _is_expert(path) else x for path, x in found]
    return shared, [x for path, x in found if _is_expert(path)], tree


def _joined(hosted, experts):
    """The state of the shared leaves and these experts."""
    left = iter(experts)
    return jax.tree.unflatten(hosted.tree, [next(left) if x is None else x for x in hosted.shared])


def _is_expert(path):
    """Is it a matrix of routed experts, or a moment of one?"""
    return "/moe/experts/" in f"/{paths.name(path)}"


def _moved(x, kind):
    """The array in another kind of memory of its devices; None: where it is."""
    return x if kind is None else jax.device_put(x, x.sharding.with_memory_kind(kind))


def _device_kind(x):
    (device, *_) = x.devices()
    return device.default_memory().kind
