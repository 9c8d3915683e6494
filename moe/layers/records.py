"""What MoE layers leave behind, and the one way in which it is found.

Every MoE layer sows one `RouterRecord` into the collection "router". `collect` gathers the records
of a whole network, scanned or not, whatever its modules are called.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from moe.errors import UserError
from moe.routing import assignment, contract, stats

COLLECTION = "router"


class RouterRecord(NamedTuple):
    """The routing of one MoE layer, or of L layers with a leading axis L."""

    stats: stats.RouterStats
    assignment: assignment.TopKAssignment | None  # where tokens choose experts
    policy: contract.Policy | None  # of routers that learn from reward, [B, T]
    x_GSD: jax.Array | None = None  # what the layer read, if `Execution.watched`


def collect(variables: dict[str, Any]) -> RouterRecord | None:
    """The records of all MoE layers in the order of their paths, [L, ...]; None if there are none.

    Args:
      variables: what `apply(..., mutable=["router"])` returned beside the output.

    Raises:
      UserError: if layers differ in shape, as with different numbers of experts.
    """
    return joined(by_path(variables))


def joined(found: dict[str, RouterRecord]) -> RouterRecord | None:
    """The same of the records of `by_path`.

    Raises:
      UserError: as `collect`.
    """
    layers = list(found.values())
    if len(layers) <= 1:
        return layers[0] if layers else None
    if not _alike([record.stats for record in layers]):
        raise UserError(
            f"the MoE layers {list(found)} differ in their numbers of experts or choices: their"
            " statistics cannot be stacked"
        )
    if not _alike([tuple(record)[1:] for record in layers]):  # those of two stacks
        layers = [record._replace(assignment=None, x_GSD=None) for record in layers]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *layers)


def by_path(variables: dict[str, Any]) -> dict[str, RouterRecord]:
    """The records where they lie, each with a leading axis of layers, in the order of their paths.

    Args:
      variables: as of `collect`.
    """
    found = jax.tree_util.tree_leaves_with_path(
        variables.get(COLLECTION, {}), is_leaf=lambda x: isinstance(x, RouterRecord)
    )
    named = ((jax.tree_util.keystr(path), record) for path, record in found)
    return {
        name: _with_layer_axis(record)
        for name, record in sorted(named, key=lambda item: _natural(item[0]))
    }


def _alike(trees):
    """Do they have the same shapes, but for layers?"""
    return len({tuple(x.shape[1:] for x in jax.tree.leaves(tree)) for tree in trees}) == 1


def _with_layer_axis(record: RouterRecord) -> RouterRecord:
    """A record with a leading axis of layers, which a scan has already given it."""
    if record.stats.tokens.ndim:
        return record
    return jax.tree.map(lambda x: x[None], record)


def _natural(path: str) -> list[tuple[str, int]]:
    """A sort key in which block_2 comes before block_10."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", path)]
