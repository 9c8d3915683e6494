"""Rows of solved questions, of many tasks together, in which only answers count.

Each row is filled with documents: a question with none to some solved examples before it, its
answer, and the token that begins the next document, which ends it. A task is drawn as often as it
has questions, but none as if it had more than a cap (Raffel et al. 2020, section 3.5.2, examples-
proportional mixing).

Of every ten questions of a task the ninth is for validation and the tenth for tests
(`questions.SPLITS`).
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from moe import schema
from moe.batch import Batch
from moe.data import batches, questions, tokenizer


class Solved(NamedTuple):
    """A question as ids, with so many examples before it; and its answer."""

    asked: tuple[tuple[int, ...], ...]  # by the number of examples
    answer: tuple[int, ...]


class Tasks(NamedTuple):
    """The solved questions of one split, by task, and how probable each task is."""

    solved: tuple[tuple[Solved, ...], ...]
    share: np.ndarray
    start: int  # the token that begins a document


@functools.lru_cache(maxsize=8)
def tasks(path: str, start: int, names: tuple[str, ...], cap: int, shots: int, split: str) -> Tasks:
    """The questions of a split.

    Args:
      path: of the tokenizer.
      start: the token that begins a document.
      names: of `questions.TASKS`.
      cap: how many questions a task counts as having, at most.
      shots: examples before a question, at most.
      split: of `questions.SPLITS`.

    Raises:
      UserError: if a task has no question in the split.
    """
    import tqdm

    words = tokenizer.load(path)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(words.encode(text, add_special_tokens=False).ids)

    found = []
    for name in tqdm.tqdm(names, desc=f"questions, {split}", unit="task", disable=None):
        own = questions.read(name, split=split)
        schema.require(bool(own), f"the task {name!r} has no question for {split}: leave it out")
        found.append(tuple(_solved(one, shots, ids) for one in own))
    number = np.array([min(len(own), cap) for own in found], float)
    return Tasks(tuple(found), number / number.sum(), start)


def _solved(one, shots, ids):
    most = min(shots, len(one.examples))
    asked = tuple(ids(one.context(one.gold, k)) for k in range(most + 1))
    return Solved(asked, ids(one.choices[one.gold]))


def row(found: Tasks, seed: Sequence[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, counts) of one row of length + 1 tokens: a pure function of the seed.

    A question that alone is too long loses its beginning. What is left of a row that no further
    one fits into is empty: id -1.
    """
    rng = np.random.default_rng(seed)

    def drawn() -> Iterator[tuple[list[int], int]]:
        while True:
            own = found.solved[rng.choice(len(found.share), p=found.share)]
            one = own[rng.integers(len(own))]
            asked = one.asked[rng.integers(len(one.asked))]
            yield [*asked, *one.answer], len(one.answer)

    return _filled(drawn(), found.start, length)


def held_out(found: Tasks, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same of every question once, without examples, in a fixed mixed order."""
    every = [one for own in found.solved for one in own]
    order = np.random.default_rng(0).permutation(len(every))
    mixed = (every[i] for i in order)
    rest = [([*one.asked[0], *one.answer], len(one.answer)) for one in mixed]
    while rest:
        made = _filled(rest, found.start, length)
        rest = rest[int((made[0] == found.start).sum()) - 1 :]
        yield made


def empty(length: int) -> tuple[np.ndarray, np.ndarray]:
    """A row of padding."""
    return np.full(length + 1, -1), np.zeros(length + 1, bool)


def _filled(texts, start, length):
    """A row of as many texts as fit, of which the first may lose its beginning."""
    ids_T, counts_T = empty(length)
    ids_T[0], end = start, 1
    for text, answer in texts:
        fitting = text[-(length - 1) :] if end == 1 else text
        after = end + len(fitting)
        if after > length:
            break
        ids_T[end:after], ids_T[after] = fitting, start
        counts_T[max(end, after - answer) : after + 1] = True
        end = after + 1
    return ids_T, counts_T


def batch(rows: Sequence[tuple[np.ndarray, np.ndarray]], start: int) -> Batch:
    """Rows as a batch, [B, T]; an empty row is padding."""
    ids, counts = (np.stack(part) for part in zip(*rows, strict=True))
    tokens_BT, targets_BT = ids[:, :-1], ids[:, 1:]
    real_BT = (tokens_BT >= 0) & (targets_BT >= 0)
    segment_BT, position_BT = batches.number(tokens_BT, start)
    parts = (tokens_BT, targets_BT, segment_BT, position_BT)
    tokens, targets, segment, position = (np.where(real_BT, x, 0).astype(np.int32) for x in parts)
    mask_BT = (counts[:, 1:] & real_BT).astype(np.int32)
    domain_BT = np.zeros_like(tokens)
    return Batch(tokens, targets, segment, position, domain_BT, mask_BT)
