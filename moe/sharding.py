"""The device mesh and the one rule that lays arrays out on it.

Axes: `data` and `expert`, both Explicit: shardings are part of array types, so a wrong layout
is an error while tracing and never a silent all-gather. The rule: a letter claims mesh
axes, and the leftmost letter of an array claims first. So G of `GSD` is spread over
('data', 'expert'), while in `EGCD` E takes 'expert' and leaves 'data' to G.

Without a mesh (`jax.set_mesh` not called) every function here is the identity it looks like.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "expert")
CLAIMS = {"B": ("data", "expert"), "G": ("data", "expert"), "E": ("expert",)}


def make_mesh(data: int = -1, expert: int = 1, devices=None) -> Mesh:
    """A mesh of data x expert devices; one of the two may be -1, "the rest".

    Raises:
      ValueError: if the devices do not factor so.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "expert": expert}
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = data * expert if not free else -data * expert
    if len(free) == 1 and fixed > 0 and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    elif free or fixed != len(devices) or min(data, expert) < 1:
        raise ValueError(
            f"mesh data={data}, expert={expert} does not fit {len(devices)} devices: the product"
            " must equal the number of devices, and at most one axis may be -1"
        )
    shape = tuple(sizes[axis] for axis in AXES)
    return jax.make_mesh(shape, AXES, (AxisType.Explicit,) * len(AXES), devices=devices)


def spec(letters: str) -> P:
    """The PartitionSpec of an array named by its letters, e.g. spec("BTD")."""
    left, entries = set(AXES), []
    for letter in letters:
        axes = tuple(a for a in CLAIMS.get(letter, ()) if a in left)
        left -= set(axes)
        entries.append(axes or None)
    return P(*entries)


def current() -> bool:
    """Is there a mesh?"""
    return not jax.sharding.get_abstract_mesh().empty


def num_devices() -> int:
    """Devices of the mesh, 1 without one."""
    return jax.sharding.get_abstract_mesh().size if current() else 1


def out(letters: str) -> P | None:
    """`spec(letters)` for an `out_sharding=` argument, None without a mesh."""
    return spec(letters) if current() else None


def put(batch):
    """Host arrays [B, ...] to the devices, B laid out as tokens are.

    With several processes each gives its own rows, and the result is the whole batch.
    """
    if not current():
        return jax.tree.map(jnp.asarray, batch)
    layout = NamedSharding(jax.sharding.get_mesh(), spec("BT"))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(layout, x), batch)


def put_whole(batch):
    """As `put`, where every process gives all rows."""
    if not current():
        return jax.tree.map(jnp.asarray, batch)
    return jax.device_put(batch, NamedSharding(jax.sharding.get_mesh(), spec("BT")))


def reshard(x: jax.Array, letters: str) -> jax.Array:
    """x laid out as its letters say."""
    return jax.sharding.reshard(x, spec(letters)) if current() else x


def reshape_tokens(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """x.reshape(shape) where both leading axes count tokens and are spread alike."""
    return jax.lax.reshape(x, shape, out_sharding=out("G" + "." * (len(shape) - 1)))


def over_groups(fn: Callable) -> Callable:
    """fn on each device's own groups: every argument and result has a leading G."""
    return jax.shard_map(fn, in_specs=spec("G"), out_specs=spec("G")) if current() else fn


def to_experts(x_GECD: jax.Array) -> jax.Array:
    """[G, E, C, D] at the tokens' devices -> [E, G, C, D] at the experts': one all-to-all."""
    if not current():
        return x_GECD.swapaxes(0, 1)

    def send(x_gECD):
        x_EgCD = x_gECD.swapaxes(0, 1)
        return jax.lax.all_to_all(x_EgCD, "expert", split_axis=0, concat_axis=1, tiled=True)

    return jax.shard_map(send, in_specs=spec("GECD"), out_specs=spec("EGCD"))(x_GECD)


def to_tokens(y_EGCD: jax.Array) -> jax.Array:
    """The way back: [E, G, C, D] at the experts' devices -> [G, E, C, D] at the tokens'."""
    if not current():
        return y_EGCD.swapaxes(0, 1)

    def send(y_eGCD):
        y = jax.lax.all_to_all(y_eGCD, "expert", split_axis=1, concat_axis=0, tiled=True)
        return y.swapaxes(0, 1)

    return jax.shard_map(send, in_specs=spec("EGCD"), out_specs=spec("GECD"))(y_EGCD)


def check(mesh: Mesh, *, batch: int, groups: int | None, experts: int | None) -> None:
    """Refuses a model or batch that the mesh does not divide, with the numbers.

    Args:
      batch: B of one step (of one micro-batch when accumulating).
      groups: G of that batch, None without MoE layers.
      experts: E, None without MoE layers.
    """
    everyone, expert = mesh.size, mesh.shape["expert"]
    rules = (
        ("batch_size", batch, everyone, "data x expert"),
        ("number of groups (batch tokens / group_size)", groups, everyone, "data x expert"),
        ("num_experts", experts, expert, "expert"),
    )
    for what, number, size, axes in rules:
        if number is not None and number % size:
            fit = [n for n in (number // size * size, (number // size + 1) * size) if n]
            raise ValueError(
                f"{what}={number} is not divisible by the mesh's {axes}={size}; nearest that fit:"
                f" {' and '.join(map(str, fit))}. Or choose a smaller mesh"
            )
