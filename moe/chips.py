"""Accelerators by the figures their makers state: what a plan divides by.

Dense bfloat16 FLOPs, memory and its bandwidth, the interconnect one way out of a chip over all its
links, and an assumed mean draw: makers of TPUs publish none but for v4, so it is a stated guess.
"""

from typing import NamedTuple

from moe.errors import UserError


class Chip(NamedTuple):
    """One accelerator."""

    flops: float  # a second, bfloat16, dense
    memory: float  # bytes
    memory_bandwidth: float  # bytes a second
    link_bandwidth: float  # bytes a second out of the chip
    watts: float  # assumed mean, without host and cooling
    source: str


CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1.2e12, 300e9, 170, "Jouppi et al. 2023, table 4"),
    "v5e": Chip(197e12, 16 * 2**30, 0.82e12, 200e9, 170, "Google Cloud; watts as v4's"),
    "v5p": Chip(459e12, 95 * 2**30, 2.765e12, 600e9, 350, "Google Cloud; watts a guess"),
    "v6e": Chip(918e12, 32 * 2**30, 1.64e12, 448e9, 300, "Google Cloud; watts a guess"),
    "h100": Chip(
        989e12, 80e9, 3.35e12, 450e9, 700, "NVIDIA, SXM; watts its limit; links in a node"
    ),
    "h200": Chip(
        989e12,
        141e9,
        4.8e12,
        450e9,
        700,
        "NVIDIA; watts its limit; links in a node",
    ),
}

# What JAX calls their devices, as far as it starts alike; a longer name comes before its beginning.
DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v6": "v6e",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
}


def chip(name: str) -> Chip:
    """The chip of that name.

    Raises:
      UserError: if there is none.
    """
    if name not in CHIPS:
        raise UserError(f"no chip {name!r}: use one of {', '.join(CHIPS)}")
    return CHIPS[name]


def of_device(kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`, None if it is not among them."""
    found = [name for start, name in DEVICE_KINDS.items() if kind.startswith(start)]
    return CHIPS[found[0]] if found else None
