"""Which tensor of a file is which parameter of ours: rules that are read in both directions.

A parameter of ours may be stacked over layers and over experts, where a file has a tensor for each.
Beyond that they differ in the order of axes, which letters say as in `moe`: "(NH)D->DNH" is a
matrix of N * H rows in the file, and [D, N, H] here. P, in the file alone, counts the parameters
that it keeps in one tensor: "E(PF)D->EDF".
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

PARTS = "P"


class Rule(NamedTuple):
    """One parameter of ours."""

    ours: str  # its path
    theirs: str  # names of tensors, with {layer} and {expert} where ours is stacked
    axes: str  # "theirs->ours" without what ours is stacked over
    layers: Sequence[int] | None = None  # their numbers of our layers, if ours is stacked
    experts: int | None = None  # E, if each expert has a tensor of its own
    copy: bool = False  # a tensor that a file may have beside the one that is read, and equal to it
    part: int = 0  # which of the P parts of theirs it is
    parts: int = 1

    @property
    def stacked(self) -> tuple[int, ...]:
        """The leading axes of ours over which tensors of theirs are stacked."""
        layers = () if self.layers is None else (len(self.layers),)
        return layers + (() if self.experts is None else (self.experts,))

    def names(self) -> Iterator[tuple[tuple[int, ...], str]]:
        """(where in ours, the name of the tensor) of all its tensors."""
        for at in np.ndindex(self.stacked):
            numbers = {}
            if self.layers is not None:
                numbers["layer"] = self.layers[at[0]]
            if self.experts is not None:
                numbers["expert"] = at[-1]
            yield at, self.theirs.format(**numbers)

    def shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """The shape of a tensor of theirs, of that of the parameter."""
        sizes = self._sizes(ours)
        return tuple(math.prod(sizes[letter] for letter in group) for group in self._theirs())

    def read(self, x: np.ndarray, ours: Sequence[int]) -> np.ndarray:
        """A tensor of theirs, as it lies in the parameter of that shape; a view where it can be."""
        sizes = self._sizes(ours)
        letters = "".join(self._theirs())
        x = x.reshape([sizes[letter] for letter in letters])
        if PARTS in letters:
            x = x.take(self.part, axis=letters.index(PARTS))
            letters = letters.replace(PARTS, "")
        return x.transpose([letters.index(letter) for letter in self._ours()])

    def write(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The tensor of theirs that `read` takes such parts from, contiguous."""
        ours = self._ours()
        sizes = dict(zip(ours, parts[0].shape, strict=True)) | {PARTS: self.parts}
        letters = "".join(self._theirs())
        order = [ours.index(letter) for letter in letters if letter != PARTS]
        turned = [part.transpose(order) for part in parts]
        x = np.stack(turned, letters.index(PARTS)) if PARTS in letters else turned[0]
        shape = [math.prod(sizes[letter] for letter in group) for group in self._theirs()]
        return np.ascontiguousarray(x).reshape(shape)

    def _theirs(self):
        """Letters of each axis of theirs."""
        given = self.axes.partition("->")[0]
        return [group.strip("()") for group in re.findall(r"\(\w+\)|\w", given)]

    def _ours(self):
        return self.axes.partition("->")[2]

    def _sizes(self, shape):
        own = shape[len(self.stacked) :]
        return dict(zip(self._ours(), own, strict=True)) | {PARTS: self.parts}


def feed_forward(
    ours: str, names: Mapping[str, str], layers: Sequence[int], experts: int | None = None
) -> list[Rule]:
    """The matrices of dense feed-forwards or of experts, which files hold turned.

    Args:
      ours: what all paths begin with.
      names: of `ffn.Weights` -> the tensor.
      layers, experts: as of `Rule`.
    """
    axes = {"w_in": "FD->DF", "w_gate": "FD->DF", "w_out": "DF->FD"}
    return [
        Rule(f"{ours}/{name}", theirs, axes[name], layers, experts)
        for name, theirs in names.items()
    ]


class Reader(NamedTuple):
    """A rule that reads a tensor, and where in ours it lies."""

    rule: Rule
    at: tuple[int, ...]


def by_tensor(rules: Iterable[Rule]) -> dict[str, list[Reader]]:
    """The tensors that these rules read: several read one that has several parts."""
    found: dict[str, list[Reader]] = {}
    for rule in rules:
        for at, name in rule.names():
            found.setdefault(name, []).append(Reader(rule, at))
    return found
