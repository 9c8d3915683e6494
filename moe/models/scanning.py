"""Layers that lie in one array: how many a turn of the scan computes, and each by itself."""

import jax

from moe import target

UNROLLED = 8  # blocks at most


def suited(length: int) -> int:
    """How many of so many blocks a turn of the scan computes, if the config does not say.

    A scan copies weights, gradients and what is kept for them in and out of stacked arrays. On CPUs
    that is a tenth of a step, so a few blocks are not scanned; many would take long to compile.
    """
    whole = target.platform() == "cpu" and length <= UNROLLED
    return length if whole else 1


def unstacked(variables: dict) -> dict:
    """Parameters, or another collection, for a network with `scanned=False`.

    Layers that lie in one array would be copied out of it at every use.
    """
    found = {}
    for name, part in variables.items():
        if name in ("encoder", "decoder"):
            found[name] = unstacked(part)
            continue
        if name not in ("block", "dense_block"):
            found[name] = part
            continue
        for i in range(len(jax.tree.leaves(part)[0])):
            found[f"{name}_{i}"] = jax.tree.map(lambda x: x[i], part)  # noqa: B023, at once
    return found
