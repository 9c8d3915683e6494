"""How tokens cross the mesh: from their own devices to their experts' and back.

A dispatcher fills slots, x_GSD -> x_GECD, and empties them; a transport does this where G is spread
over ('data', 'expert') and brings the slots to the devices of their experts, EGCD, with E over
'expert' and G over 'data'. Results are the same by all of them; bytes are not. With e devices
along 'expert' and t tokens on each, one crossing moves about

- `all_to_all`: K * capacity_factor * t rows of D out of each device, whatever e is;
- `constraint`: the same, but the all-to-all is the compiler's answer to a new layout, as in GShard
  (Lepikhin et al. 2020, section 3.3), and not written by hand;
- `all_gather`: (e - 1) * t rows into each device, and as many back (a reduce-scatter): less where
  e is below K * capacity_factor, and slots never travel.

Without a mesh all three are the dispatcher and a transpose.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name

from moe import execution, sharding
from moe.routing import assignment

Slots = assignment.Slots | assignment.DispatchMasks
Dispatch = Callable[[jax.Array, Slots], jax.Array]  # a dispatcher's way there, or its way back


def send(dispatch: Dispatch, x_GSD: jax.Array, slots: Slots, transport: str) -> jax.Array:
    """x_GSD and its slots -> x_EGCD.

    Args:
      dispatch: a dispatcher's function (x_GSD, slots) -> x_GECD.
      x_GSD: tokens.
      slots: who sits where.
      transport: of `TRANSPORTS`.
    """
    return TRANSPORTS[transport].send(dispatch, x_GSD, slots)


def receive(combine: Dispatch, y_EGCD: jax.Array, slots: Slots, transport: str) -> jax.Array:
    """y_EGCD -> y_GSD, the way back.

    Args:
      combine: a dispatcher's function (y_GECD, slots) -> y_GSD.
      y_EGCD: what the experts made.
      slots: who sits where.
      transport: of `TRANSPORTS`.
    """
    return TRANSPORTS[transport].receive(combine, y_EGCD, slots)


def _cross(x_EGCD, there):
    """EgCD of all experts to eGCD of a device's own, or back."""
    split, joined = (0, 1) if there else (1, 0)
    y = jax.lax.all_to_all(x_EGCD, "expert", split_axis=split, concat_axis=joined, tiled=True)
    return checkpoint_name(y, execution.CROSSED)


def _send_all_to_all(dispatch, x_GSD, slots):
    def local(x_gSD: jax.Array, slots: Slots) -> jax.Array:
        x_EgCD = dispatch(x_gSD, slots).swapaxes(0, 1)
        if not sharding.current():
            return x_EgCD
        return _cross(x_EgCD, there=True)

    return sharding.shard_mapped(local, ("G", "G"), "EGCD")(x_GSD, slots)


def _receive_all_to_all(combine, y_EGCD, slots):
    def local(y_EGCD: jax.Array, slots: Slots) -> jax.Array:
        if sharding.current():
            y_EGCD = _cross(y_EGCD, there=False)
        return combine(y_EGCD.swapaxes(0, 1), slots)

    return sharding.shard_mapped(local, ("EGCD", "G"), "G")(y_EGCD, slots)


def _send_constraint(dispatch, x_GSD, slots):
    x_GECD = sharding.map_groups(dispatch)(x_GSD, slots)
    return sharding.reshard(x_GECD.swapaxes(0, 1), "EGCD")


def _receive_constraint(combine, y_EGCD, slots):
    y_GECD = sharding.reshard(y_EGCD.swapaxes(0, 1), "GECD")
    return sharding.map_groups(combine)(y_GECD, slots)


def _send_all_gather(dispatch, x_GSD, slots):
    def local(x_gSD: jax.Array, slots: Slots) -> jax.Array:
        x_GSD, slots = _of_my_experts(x_gSD, slots)
        return dispatch(x_GSD, slots).swapaxes(0, 1)

    return sharding.shard_mapped(local, ("G", "G"), "EGCD")(x_GSD, slots)


def _receive_all_gather(combine, y_EGCD, slots):
    def local(y_eGCD: jax.Array, slots: Slots) -> jax.Array:
        _, slots = _of_my_experts(None, slots)
        part_GSD = combine(y_eGCD.swapaxes(0, 1), slots)
        if not sharding.current():
            return part_GSD
        return jax.lax.psum_scatter(part_GSD, "expert", scatter_dimension=0, tiled=True)

    return sharding.shard_mapped(local, ("EGCD", "G"), "G")(y_EGCD, slots)


def _of_my_experts(x_gSD, slots):
    """Tokens of all devices along 'expert', and of their slots those of this device's experts."""
    if not sharding.current():
        return x_gSD, slots
    gather = functools.partial(jax.lax.all_gather, axis_name="expert", axis=0, tiled=True)
    x_GSD, slots = jax.tree.map(gather, (x_gSD, slots))
    experts = jax.tree.leaves(slots)[0].shape[
        2 if isinstance(slots, assignment.DispatchMasks) else 1
    ]
    mine = experts // jax.lax.axis_size("expert")
    first = jax.lax.axis_index("expert") * mine
    return x_GSD, assignment.of_experts(slots, first, mine)


class Transport(NamedTuple):
    """There and back."""

    send: Callable[[Dispatch, jax.Array, Slots], jax.Array]
    receive: Callable[[Dispatch, jax.Array, Slots], jax.Array]


TRANSPORTS = {
    "all_to_all": Transport(_send_all_to_all, _receive_all_to_all),
    "constraint": Transport(_send_constraint, _receive_constraint),
    "all_gather": Transport(_send_all_gather, _receive_all_gather),
}
