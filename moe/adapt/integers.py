"""Experts of 8 or 4 bits: whole numbers times a scale, by qwix.

A scale belongs to one output of one expert, with 4 bits to at most 32 of its inputs (a tile). Here
the numbers are turned back: the model computes with what they stand for. Needs the extra
`quantise`.
"""

from typing import NamedTuple

import jax

from moe import schema, sharding
from moe.adapt import banks
from moe.adapt.banks import Trained
from moe.errors import UserError

INPUTS = 2  # the axis of w [L, E, inputs, outputs] that a product sums over
SCALE = 2  # bytes of a scale, bfloat16


class Kind(NamedTuple):
    """How a weight is stored."""

    bits: int
    tile: int  # inputs that share a scale, at most; 0: all


KINDS = {"int8": Kind(8, 0), "int4": Kind(4, 32)}


def quantised(trained: Trained, kind: str) -> Trained:
    """The model whose experts' weights are such numbers.

    Args:
      trained: the model.
      kind: of `KINDS`.

    Raises:
      UserError: without qwix.
    """
    schema.one_of("kind", kind, KINDS)
    made = []
    for bank in banks.of(trained):
        weights = {name: _quantised(w, kind) for name, w in bank["experts"].items()}
        made.append(bank | {"experts": weights})
    return trained._replace(params=banks.with_banks(trained.params, trained.model, made))


def _quantised(w, kind):
    try:
        import qwix
    except ImportError as error:
        said = "int8 and int4 need qwix: pip install qwix, or the extra `quantise`"
        raise UserError(said) from error
    tile = tile_of(w.shape[INPUTS], kind)
    others = tuple(axis for axis in range(w.ndim) if axis != INPUTS)

    def there_and_back(w: jax.Array) -> jax.Array:
        found = qwix.quantize(
            w, kind, channelwise_axes=others, tiled_axes={INPUTS: tile}, scale_dtype="bfloat16"
        )
        return qwix.dequantize(found).astype(w.dtype)

    return sharding.laid_out_as(w, there_and_back)(w)


def tile_of(inputs: int, kind: str) -> int:
    """How many inputs share a scale: the largest divisor of them that is small enough."""
    most = KINDS[kind].tile or inputs
    return max(n for n in range(1, most + 1) if inputs % n == 0)


def size(trained: Trained, kind: str) -> int:
    """Bytes of all experts' weights and scales."""
    total = 0
    for bank in banks.of(trained):
        for w in bank["experts"].values():
            scales = w.size // tile_of(w.shape[INPUTS], kind)
            total += w.size * KINDS[kind].bits // 8 + scales * SCALE
    return total
