"""Ternary experts in one file: codewords, grids, and what is needed to read them; data only.

experts.npz    meta       JSON: the version, names, shapes, counts of symbols, and a SHA-256
               codes      uint16, streams one after another; a stream is one expert's matrix
               lengths    how many codewords each stream has
               grids      bfloat16 as uint16, those of all streams one after another
"""

import hashlib
import json
import pathlib
import struct
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from moe import schema
from moe.adapt import coding, ternary
from moe.adapt.ternary import Ternary
from moe.errors import UserError

VERSION = 1
# What numpy and zipfile say of files that are none of theirs.
DAMAGE = (
    OSError, ValueError, LookupError, EOFError, TypeError, RuntimeError, MemoryError,
)  # fmt: skip


def write(path: pathlib.Path, layers: list[dict[str, Ternary]]) -> dict[str, float]:
    """Writes the file; returns what `rates_of` says of it.

    Args:
      path: of the file.
      layers: of `ternary.quantised`.
    """
    counts = ternary.counted(layers)
    arrays = _encoded(layers, counts)
    shapes = [{name: made.symbol.shape for name, made in layer.items()} for layer in layers]
    meta = {"version": VERSION, "layers": shapes, "counts": counts, "sha256": _sum(arrays)}
    said = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez(file, meta=said, **arrays)
    return _rates(counts, arrays)


def rates_of(layers: list[dict[str, Ternary]]) -> dict[str, float]:
    """What a file of these layers would take.

    Its number of weights, the share that is 0, bits per weight (of codewords, of all that is
    stored) and the entropy of a weight, which no code of single weights can be below.
    """
    counts = ternary.counted(layers)
    return _rates(counts, _encoded(layers, counts))


def _encoded(layers, counts):
    book = coding.dictionary(counts)
    codes: list[np.ndarray] = []
    grids = []
    for matrices in layers:
        for made in matrices.values():
            codes += coding.encode(book, made.symbol.reshape(len(made.symbol), -1))
            grids.append(made.grid.view(np.uint16).ravel())
    return {
        "codes": np.concatenate(codes),
        "lengths": np.array([len(code) for code in codes], np.int64),
        "grids": np.concatenate(grids),
    }


def _rates(counts, arrays):
    weights = sum(counts)
    stored = sum(x.nbytes for x in arrays.values())
    return {
        "weights": weights,
        "zeros": counts[1] / weights,
        "bits": 8 * arrays["codes"].nbytes / weights,
        "bits_with_grids": 8 * stored / weights,
        "entropy": coding.entropy(counts),
    }


def read(path: pathlib.Path) -> list[dict[str, Ternary]]:
    """The layers of a file.

    Raises:
      UserError: for a file that is none, or is damaged.
    """
    schema.require(path.exists(), f"there is no {path}: name a file of packed experts")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("codes", "lengths", "grids")}
            meta = json.loads(file["meta"].tobytes())
        return _decoded(meta, arrays)
    except (*DAMAGE, struct.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is no file of packed experts, or is damaged ({error}): make it again"
        ) from error


def _decoded(meta: dict[str, Any], arrays):
    if meta["version"] != VERSION:
        raise ValueError(f"version {meta['version']}: expected {VERSION}")
    if meta["sha256"] != _sum(arrays):
        raise ValueError("its checksum is another")
    book = coding.dictionary(tuple(meta["counts"]))
    codes = iter(np.split(arrays["codes"], np.cumsum(arrays["lengths"])[:-1]))
    grids = arrays["grids"]
    layers = []
    for shapes in meta["layers"]:
        found = {}
        for name, (E, R, C) in shapes.items():
            symbol = np.stack([coding.decode(book, next(codes), R * C) for _ in range(E)])
            own, grids = grids[: 2 * E * R], grids[2 * E * R :]
            grid = own.view(ml_dtypes.bfloat16).reshape(E, R, 2)
            found[name] = Ternary(symbol.reshape(E, R, C), grid)
        layers.append(found)
    return layers


def _sum(arrays):
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()
