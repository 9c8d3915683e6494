"""Three-valued weights as codewords of 16 bits, as many weights in each as are probable enough.

A dictionary has the sequences that are the leaves of a tree: the most probable leaf is extended by
every symbol until 2^16 are left (Tunstall 1967). Every stream of symbols is one sequence after
another, and a codeword is the number of a sequence, so that decoding is a look-up. QMoE's
dictionary (Frantar and Alistarh 2023, section 4.2) is like it; its sequences are not a tree's
leaves, and are those of pairs, up to 14 weights.

Letters of this file: J symbols of a stream, N sequences.
"""

import functools
import heapq
import math
from typing import NamedTuple

import numpy as np

BITS = 16
SYMBOLS = 3


class Dictionary(NamedTuple):
    """The sequences, and the tree that finds them."""

    symbol_NJ: np.ndarray  # uint8, a sequence each, 0 behind its end
    length_N: np.ndarray
    # Where a symbol leads from an inner node: another one, or -1 - the number of a sequence.
    follow: np.ndarray  # int32 [nodes, 3]


@functools.lru_cache(maxsize=4)
def dictionary(counts: tuple[int, int, int], bits: int = BITS) -> Dictionary:
    """The dictionary for symbols that are so frequent; the same everywhere.

    Args:
      counts: how often each symbol occurs; one that never does counts as one.
      bits: of a codeword.
    """
    total = sum(max(1, count) for count in counts)
    share = [max(1, count) / total for count in counts]
    # (-probability, number of the node, its sequence): of equal ones the first is extended.
    leaves: list[tuple[float, int, tuple[int, ...]]] = [(-1.0, 0, ())]
    made = 1
    while len(leaves) + SYMBOLS - 1 <= 2**bits:
        minus_p, _, sequence = heapq.heappop(leaves)
        for symbol, p in enumerate(share):
            heapq.heappush(leaves, (minus_p * p, made, (*sequence, symbol)))
            made += 1
    return _of_sequences(sorted(sequence for _, _, sequence in leaves))


def _of_sequences(sequences):
    length_N = np.array([len(sequence) for sequence in sequences], np.int32)
    symbol_NJ = np.zeros((len(sequences), length_N.max()), np.uint8)
    follow = np.zeros(((len(sequences) - 1) // (SYMBOLS - 1), SYMBOLS), np.int32)
    nodes: dict[tuple[int, ...], int] = {(): 0}
    for number, sequence in enumerate(sequences):
        symbol_NJ[number, : len(sequence)] = sequence
        for end in range(len(sequence) - 1):
            follow[nodes[sequence[:end]], sequence[end]] = nodes.setdefault(
                sequence[: end + 1], len(nodes)
            )
        follow[nodes[sequence[:-1]], sequence[-1]] = -1 - number
    return Dictionary(symbol_NJ, length_N, follow)


def encode(book: Dictionary, streams: np.ndarray) -> list[np.ndarray]:
    """The codewords of each stream, uint16; the last sequence is filled up with symbol 1, "zero".

    Args:
      book: of `dictionary`.
      streams: symbols from 0 to 2, [streams, J].
    """
    node = np.zeros(len(streams), np.int32)
    found = np.full(streams.shape, -1, np.int32)
    for place in range(streams.shape[1]):
        after = book.follow[node, streams[:, place]]
        found[:, place] = np.where(after < 0, -1 - after, -1)
        node = np.maximum(after, 0)
    last = np.full(len(streams), -1, np.int32)
    while node.any():
        after = book.follow[node, np.where(node > 0, 1, 0)]
        ends = (node > 0) & (after < 0)
        last = np.where(ends, -1 - after, last)
        node = np.where(node > 0, np.maximum(after, 0), 0)
    pairs = zip(found, last, strict=True)
    return [np.append(row[row >= 0], [end] * int(end >= 0)).astype(np.uint16) for row, end in pairs]


def decode(book: Dictionary, codes: np.ndarray, number: int) -> np.ndarray:
    """The first `number` symbols of a stream, uint8 [J].

    Args:
      book: with which it was encoded.
      codes: its codewords.
      number: J.

    Raises:
      ValueError: if there are fewer, or whole codewords too many.
    """
    length = book.length_N[codes]
    if not (number <= length.sum() < number + (length[-1] if len(codes) else 1)):
        raise ValueError(f"{length.sum()} symbols in {len(codes)} codewords: expected {number}")
    is_symbol = np.arange(book.symbol_NJ.shape[1])[None] < length[:, None]
    return book.symbol_NJ[codes][is_symbol][:number]


def entropy(counts: tuple[int, int, int]) -> float:
    """Bits per symbol that no code for single symbols can be below (Shannon 1948)."""
    total = sum(counts)
    return -sum(count / total * math.log2(count / total) for count in counts if count)
