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


def collect(variables: dict[str, Any]) -> RouterRecord | None:
    """The records of all MoE layers in the order of their paths, [L, ...]; None if there are none.

    Args:
      variables: what `apply(..., mutable=["router"])` returned beside the output.

    Raises:
      UserError: if layers differ in shape, as with different numbers of experts.
    """
    found = jax.tree_util.tree_leaves_with_path(
        variables.get(COLLECTION, {}), is_leaf=lambda x: isinstance(x, RouterRecord)
    )
    found = sorted(found, key=lambda item: _natural(jax.tree_util.keystr(item[0])))
    layers = [_with_layer_axis(record) for _, record in found]
    if len(layers) <= 1:
        return layers[0] if layers else None
    if not _alike([record.stats for record in layers]):
        raise UserError(
            f"the MoE layers {[jax.tree_util.keystr(path) for path, _ in found]} differ in their"
            " numbers of experts or choices: their statistics cannot be stacked"
        )
    if not _alike([record.assignment for record in layers]):  # those of two stacks
        layers = [record._replace(assignment=None) for record in layers]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *layers)


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
