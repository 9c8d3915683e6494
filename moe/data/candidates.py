"""What several models answer to the same inputs, beside the reference: a file for each split.

Letters of this file: X inputs of Z tokens, N candidates for each, of at most Y tokens.
"""

import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from moe import schema
from moe.data.prepared import Prepared

NONE = -1  # the id after the end of a candidate


class Candidates(NamedTuple):
    """Inputs with their candidates; host arrays."""

    input_XZ: np.ndarray  # ids
    reference_XY: np.ndarray
    candidate_XNY: np.ndarray  # ids, NONE after the token that ends a text
    quality_XN: np.ndarray  # of a candidate beside the reference, the more the better
    document_X: np.ndarray  # the number of the document, in its split

    def chosen(self, which_XK: np.ndarray) -> "Candidates":
        """The same with K of the candidates of each input, in this order."""
        return self._replace(
            candidate_XNY=np.take_along_axis(self.candidate_XNY, which_XK[..., None], axis=1),
            quality_XN=np.take_along_axis(self.quality_XN, which_XK, axis=1),
        )


def write(folder: pathlib.Path, split: str, found: Candidates) -> None:
    """Writes the file of a split, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{split}.{os.getpid()}.npz"
    np.savez(scratch, **found._asdict())
    scratch.replace(folder / f"{split}.npz")


@functools.lru_cache(maxsize=8)
def read(folder: str, split: str) -> Candidates:
    """The file of a split.

    Raises:
      UserError: if there is none, or it has no inputs or fewer than two candidates for each.
    """
    path = pathlib.Path(folder) / f"{split}.npz"
    schema.require(
        path.exists(),
        f"{path} is not there: objective.options.folder={folder!r} must name a folder of"
        " candidates, as experiments.blender writes them",
    )
    with np.load(path) as file:
        found = Candidates(**file)
    check(found)
    return found


def check(found: Candidates) -> None:
    """Refuses what cannot be compared.

    Raises:
      UserError: without inputs, with an empty one, or with fewer than two candidates for each.
    """
    X, Z = found.input_XZ.shape
    schema.require(X > 0 and Z > 0, f"expected inputs of at least one token each; got {X} of {Z}")
    number = found.candidate_XNY.shape[1]
    schema.require(number > 1, f"expected two candidates or more for each input; got {number}")


def check_run(run: Any) -> None:
    """Refuses a run that asks for a part of the text, which it does not read.

    Raises:
      UserError: with the field.
    """
    schema.require(
        not run.train.unique_tokens,
        f"train.unique_tokens={run.train.unique_tokens} does nothing where candidates are read:"
        " leave it out",
    )


def windows(
    data: Prepared, split: str, length: int, most: int, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, number of the document) of pieces of so many tokens, none across documents.

    Args:
      data: where they are from.
      split: of it.
      length: T.
      most: of one document, from its beginning.
      first: documents that begin before this token are left out.
    """
    stream = data.tokens[split]
    found = list(_windows(np.flatnonzero(stream == data.doc_id), len(stream), length, most, first))
    schema.require(
        bool(found), f"the {split} split has no document of {length} tokens after token {first}:"
        " use shorter ones, or more text",
    )  # fmt: skip
    place_X, document_X = np.array(found).T
    return stream[place_X[:, None] + np.arange(length)[None]].astype(np.int32), document_X


def _windows(starts, end, length, most, first) -> Iterator[tuple[int, int]]:
    ends = np.append(starts[1:], end)
    for number, (begin, after) in enumerate(zip(starts, ends, strict=True)):
        if begin >= first:
            for place in range(begin, after - length + 1, length)[:most]:
                yield place, number


def ended(ids_XY: np.ndarray, end: int) -> np.ndarray:
    """The ids with NONE after the first that ends a text."""
    over_XY = np.cumsum(ids_XY == end, axis=1) - (ids_XY == end) > 0
    return np.where(over_XY, NONE, ids_XY).astype(np.int32)
