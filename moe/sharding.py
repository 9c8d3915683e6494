"""The device mesh and the one table that lays arrays out on it.

Axes: `data`, `expert` and `model`, all Explicit: shardings are part of array types, so a wrong
layout is an error while tracing and never a silent all-gather. The rule: a letter claims mesh axes,
and the leftmost letter of an array claims first. So G of `GSD` is spread over ('data', 'expert'),
while in `EGCD` E takes 'expert' and leaves 'data' to G. N, F and V claim 'model': tensor
parallelism of attention heads, feed-forwards and vocabulary (Shoeybi et al. 2019, section 3).

With `zero` the D of a parameter at rest claims what is left of ('data', 'expert'), and its
gradient and optimizer state with it (ZeRO stage 3, Rajbhandari et al. 2020, section 5);
`zero.gathered` gathers it where it is used.

Without a mesh (`jax.set_mesh` not called) every function here is the identity it looks like.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moe.errors import UserError

AXES = ("data", "expert", "model")
EXPLICIT = (AxisType.Explicit,) * len(AXES)
TOKENS = ("data", "expert")
CLAIMS = {"B": TOKENS, "G": TOKENS, "E": ("expert",), **dict.fromkeys("NFV", ("model",))}


_ZERO = jax.make_user_context(False)  # part of the key of every jit cache, as the mesh is
_LOCAL = jax.make_user_context(False)


def make_mesh(
    data: int = -1, expert: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of data x expert x model devices; one of the three may be -1, "the rest".

    Raises:
      UserError: if the devices do not factor so, or the links between them do not.
    """
    devices = jax.devices() if devices is None else devices
    shape = _shape(len(devices), data, expert, model)
    try:
        return jax.make_mesh(shape, AXES, EXPLICIT, devices=devices)
    except NotImplementedError as error:  # of a TPU's torus, whose sides an axis must fill
        raise UserError(f"mesh {dict(zip(AXES, shape, strict=True))}: {error}") from error


def abstract_mesh(devices: int, data: int = -1, expert: int = 1, model: int = 1) -> AbstractMesh:
    """The same mesh of so many devices that nobody has: enough to trace and to lower on."""
    return AbstractMesh(_shape(devices, data, expert, model), AXES, axis_types=EXPLICIT)


def _shape(devices, data, expert, model):
    sizes = dict(zip(AXES, (data, expert, model), strict=True))
    product = math.prod(sizes.values())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) == 1 and product < 0:
        sizes[free[0]] = devices // -product
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != devices:
        raise UserError(
            f"mesh data={data}, expert={expert}, model={model} does not fit {devices} devices:"
            " the product must equal the number of devices, and at most one axis may be -1"
            " (MOE_SIMULATED_DEVICES=8 makes a CPU pose as eight)"
        )
    return tuple(sizes.values())


@contextlib.contextmanager
def on(mesh: Mesh | AbstractMesh, zero: bool = False) -> Iterator[None]:
    """On this mesh, on which parameters and optimizer state lie by `CLAIMS`, or also by `zero`."""
    use: Callable = jax.set_mesh if isinstance(mesh, Mesh) else jax.sharding.use_abstract_mesh
    with use(mesh), _ZERO(zero):
        yield


def spec(letters: str, claims: dict = CLAIMS) -> P:
    """The PartitionSpec of an array named by its letters, e.g. spec("BTD")."""
    left = set(AXES)
    entries = []
    for letter in letters:
        axes = tuple(a for a in claims.get(letter, ()) if a in left)
        left -= set(axes)
        entries.append(axes or None)
    return P(*entries)


def at_rest(letters: str) -> P:
    """The PartitionSpec of a parameter between its uses."""
    return spec(letters, CLAIMS | {"D": TOKENS[::-1]} if _ZERO.value else CLAIMS)


def local() -> contextlib.AbstractContextManager:
    """Inside `shard_mapped`: what is called knows of no mesh, as its arrays are a device's own."""
    return _LOCAL(True)


def current() -> bool:
    """Is there a mesh?"""
    return not (jax.sharding.get_abstract_mesh().empty or _LOCAL.value)


def num_devices(axes: Sequence[str] = AXES) -> int:
    """Devices along these axes of the mesh, 1 without one."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in axes)


def out_sharding(letters: str) -> P | None:
    """`spec(letters)` for an `out_sharding=` argument, None without a mesh."""
    return spec(letters) if current() else None


def shard_batch(batch: Any) -> Any:
    """Host arrays [B, ...], the same on every process, to the devices, laid out as tokens are."""
    size = len(jax.tree.leaves(batch)[0])
    return shard_rows(lambda numbers: jax.tree.map(lambda x: x[numbers], batch), size)


def shard_rows(rows: Callable[[np.ndarray], Any], batch_size: int) -> Any:
    """As `shard_batch`, where rows(numbers) makes the tree of host arrays [b, ...] of those rows.

    Every process makes the rows of its own devices, wherever the mesh has put them.
    """
    numbers = np.arange(batch_size)
    if not current():
        return jax.tree.map(jnp.asarray, rows(numbers))
    place = NamedSharding(jax.sharding.get_mesh(), spec("B"))
    indices = place.addressable_devices_indices_map((batch_size,)).values()
    mine = np.unique(np.concatenate([numbers[index] for index in indices]))

    def spread(x: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return x[np.searchsorted(mine, numbers[index[0]])]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), place, part)

    return jax.tree.map(spread, rows(mine))


def reshard(x: jax.Array, letters: str) -> jax.Array:
    """x laid out as its letters say."""
    return jax.sharding.reshard(x, spec(letters)) if current() else x


def zeros(letters: str, shape: tuple[int, ...], dtype: Any = jnp.int32) -> jax.Array:
    """Zeros laid out as their letters say."""
    return reshard(jnp.zeros(shape, dtype), letters)


def reshape(x: jax.Array, shape: tuple[int, ...], letters: str) -> jax.Array:
    """x.reshape(shape), laid out as its new letters say."""
    return jax.lax.reshape(x, shape, out_sharding=out_sharding(letters))


def reshape_tokens(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """x.reshape(shape) where both leading axes count groups or rows and are spread alike."""
    return reshape(x, shape, "G" + "." * (len(shape) - 1))


def map_groups(fn: Callable) -> Callable:
    """fn on each device's own groups: every argument and result has a leading G."""
    return shard_mapped(fn, "G", "G")


def shard_mapped(fn: Callable, given: Any, gives: Any, checked: bool = True) -> Callable:
    """fn on each device's own part of arrays named by their letters; fn itself without a mesh.

    Args:
      fn: of arrays, or of trees of them that begin with the same letters.
      given, gives: letters of its arguments and results.
      checked: JAX sees to it that fn tells what differs among devices from what does not, which
        code that knows of no mesh does not do.
    """
    if not current():
        return fn
    given, gives = jax.tree.map(spec, (given, gives))

    def local(*own: Any) -> Any:
        return fn(*jax.tree.map(_unreduced, own))

    def whole(*arrays: Any) -> Any:
        specs = jax.tree.map(_also_reduced, given, arrays)
        return jax.shard_map(local, in_specs=specs, out_specs=gives, check_vma=checked)(*arrays)

    return whole


def _also_reduced(place, tree):
    """The specs of arrays that lie so, some of them `zero.gathered`."""
    return jax.tree.map(lambda x: P(*place, reduced=layout(x).reduced), tree)


def _unreduced(x):
    """Inside `shard_mapped`: what was `zero.gathered`, as each device's own copy."""
    reduced = jax.typeof(x).manual_axis_type.reduced
    axes = tuple(axis for axis in AXES if axis in reduced)
    return jax.lax.pcast(x, axes, to="varying") if axes else x


def layout(x: jax.Array) -> P:
    """How x lies on the mesh."""
    return jax.typeof(x).sharding.spec


def map_parts(fn: Callable, *trees: Any, gives: Any) -> Any:
    """fn(*trees) on each device's own parts, however the arrays lie; fn itself without a mesh.

    Args:
      fn: of trees of arrays.
      trees: its arguments.
      gives: the PartitionSpecs of its results, or of whole trees of them.
    """
    if not current():
        return fn(*trees)
    given = jax.tree.map(layout, trees)
    return jax.shard_map(fn, in_specs=given, out_specs=gives)(*trees)


def pvary(tree: Any) -> Any:
    """Inside `shard_mapped`: arrays that are the same on several devices, as each device's own
    copies.

    Their gradients are summed over the devices here, and not where they first meet tokens.
    """

    def one(x: jax.Array) -> jax.Array:
        same = tuple(axis for axis in AXES if axis not in jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pcast(x, same, to="varying") if same else x

    return jax.tree.map(one, tree) if current() else tree


def laid_out_as(x: jax.Array, fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """fn, compiled, with a result that is laid out as x, however its arguments are."""
    if not current():
        return jax.jit(fn)
    return jax.jit(jax.sharding.auto_axes(fn, out_sharding=x.sharding))


def check(mesh: Mesh, needs: dict[str, tuple[int, tuple[str, ...]]]) -> None:
    """Refuses what the mesh does not divide.

    Args:
      mesh: the mesh.
      needs: what must be divided: its name -> its number and the mesh axes that share it.

    Raises:
      UserError: with the numbers and the nearest that fit.
    """
    for what, (number, axes) in needs.items():
        size = math.prod(mesh.shape[axis] for axis in axes)
        if number % size:
            fit = [n for n in (number // size * size, (number // size + 1) * size) if n]
            along = " x ".join(f"mesh.{axis}" for axis in axes)
            divisors = [n for n in range(1, mesh.size + 1) if number % n == mesh.size % n == 0]
            near = sorted(divisors, key=lambda n: abs(n - size))[:2]
            raise UserError(
                f"{what}={number} is not divisible by {along}={size}; nearest {what} that fit:"
                f" {' and '.join(map(str, fit))}; or nearest {along}:"
                f" {' and '.join(map(str, sorted(near)))}, with the other devices on another axis"
            )
