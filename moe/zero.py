"""How a weight that many devices share at rest comes together where it is used (ZeRO)."""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec as P

from moe import sharding, target


def gathered(x: jax.Array, letters: str) -> jax.Array:
    """A parameter as it lies at rest, laid out for its use.

    Under ZeRO by all-gathers, whose gradient is summed by reduce-scatters: the use is typed
    `reduced`, so that the sum is left to be done there. TPUs would write an all-reduce, of twice
    the bytes, over two axes at once, and along columns. So D comes first, but for E, and in rows;
    and 'data' before 'expert', whose devices are neighbours, and which most bytes then cross.
    """
    rest = sharding.at_rest(letters)
    if not sharding.current() or rest == sharding.spec(letters) or sharding.layout(x) != rest:
        return sharding.reshard(x, letters)
    at, first = letters.index("D"), int(letters[0] == "E")
    axes = jax.tree.leaves(rest[at])

    def whole(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, at, first)
        for axis in reversed(axes):
            x = jax.lax.all_gather(x, axis, axis=first, tiled=True, to="reduced")
        return jnp.moveaxis(_in_rows(x), first, at)

    use = P(*sharding.spec(letters), reduced=set(axes))
    return jax.shard_map(whole, in_specs=rest, out_specs=use)(x)


def _in_rows(x):
    """The last axis is the one that lies together, of its gradient, too."""
    if target.platform() != "tpu":
        return x
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
