"""Rows of the token stream as batches: the step is the data position, so resuming needs no state.

A row is T+1 neighbouring tokens; every position is a target once per epoch. A document is
`<doc> ids...`, so the target of its last token is the next document's <doc>, which ends it (or
follows where `held_out_tokens` has cut it), and its first token is predicted from its own <doc>
alone: no loss term needs a look across a boundary. Of images a row is the patches of one.
"""

from collections.abc import Iterator

import numpy as np

from moe.batch import Batch
from moe.data import prepared
from moe.errors import UserError


def row_count(data: prepared.Prepared, split: str, seq_len: int) -> int:
    """Rows of `seq_len` inputs in a split; what is left over at its end is not used."""
    stream = data.tokens[split]
    return (len(stream) - (stream.ndim == 1)) // seq_len


def check(data: prepared.Prepared, split: str, seq_len: int, least: int) -> int:
    """The rows of a split.

    Raises:
      UserError: if there are fewer than `least`.
    """
    rows = row_count(data, split, seq_len)
    if rows < least:
        raise UserError(
            f"The {split} split has {rows} rows of {seq_len} tokens, at least {least} needed: use a"
            " shorter seq_len, a smaller batch_size or more text (max_documents)."
        )
    return rows


def train_batch(
    data: prepared.Prepared,
    *,
    batch_size: int,
    seq_len: int,
    seed: int,
    step: int,
    numbers: np.ndarray | None = None,
    unique_rows: int = 0,
) -> Batch:
    """The batch of a step: a pure function of (seed, step).

    Rows follow a new random order every epoch, each row once.

    Args:
      batch_size: of all processes together.
      numbers: which of the batch's rows to make, in [0, batch_size); all by default. A process
        makes those of its own devices (`sharding.shard_rows`).
      unique_rows: how many of the split's rows there are, from its beginning; 0 for all.

    Raises:
      UserError: the split has fewer rows than `batch_size`.
    """
    rows = check(data, "train", seq_len, batch_size)
    rows = min(rows, unique_rows or rows)
    numbers = np.arange(batch_size) if numbers is None else numbers
    places = (step * batch_size + int(number) for number in numbers)
    shuffled = np.array([_shuffled(place, rows, seed) for place in places])
    return _rows(data, "train", shuffled, seq_len)


def _shuffled(index: int, rows: int, seed: int) -> int:
    """The row at place `index` of an endless sequence of shuffled epochs."""
    from grain import experimental as grain  # only who trains or judges on text needs it

    epoch, place = divmod(index, rows)
    mixed = (seed * 0x9E3779B1 + epoch * 0x85EBCA6B) % 2**32  # odd constants: no two epochs alike
    return grain.index_shuffle(place, max_index=rows - 1, seed=mixed, rounds=4)


def eval_batches(
    data: prepared.Prepared,
    split: str,
    *,
    batch_size: int,
    seq_len: int,
    max_batches: int,
) -> Iterator[Batch]:
    """The same batches every time, of the rows of `eval_rows` in their order.

    The last one is padded to `batch_size` rows.

    Raises:
      UserError: the split is shorter than a row.
    """
    rows = eval_rows(data, split, seq_len, max_batches * batch_size)
    padded = padded_rows(rows, batch_size, padding=-1)
    # Returned, not yielded, so that the check above runs at the call.
    return (_rows(data, split, some, seq_len) for some in padded)


def padded_rows(rows: np.ndarray, batch_size: int, padding: int) -> np.ndarray:
    """Numbers of rows by batch, [batches, batch_size], the last batch filled with `padding`."""
    return np.append(rows, np.full(-len(rows) % batch_size, padding)).reshape(-1, batch_size)


def eval_rows(data: prepared.Prepared, split: str, seq_len: int, most: int) -> np.ndarray:
    """Numbers of at most `most` (0: all) rows, spread evenly over a split, in a fixed mixed order.

    Mixed, because rows that are routed together compete for the same slots: neighbours are
    of one document and want the same experts, which rows of a training batch seldom do.
    """
    rows = check(data, split, seq_len, 1)
    wanted = min(rows, most) if most else rows
    order = np.array([_shuffled(place, wanted, seed=0) for place in range(wanted)])
    return order * rows // wanted


def document_of(data: prepared.Prepared, split: str, rows: np.ndarray, seq_len: int) -> np.ndarray:
    """The number, in its split, of the document that each row begins in."""
    starts = np.flatnonzero(data.tokens[split] == data.doc_id)
    return np.searchsorted(starts, rows * seq_len, side="right") - 1


def _rows(data: prepared.Prepared, split: str, rows_B: np.ndarray, seq_len: int) -> Batch:
    """Rows by number; -1 is a row of padding."""
    if data.tokens[split].ndim == 2:
        return _images(data, split, rows_B, seq_len)
    offsets = np.maximum(rows_B, 0)[:, None] * seq_len + np.arange(seq_len + 1)
    stream = data.tokens[split][offsets].astype(np.int32)  # [B, T+1]
    domain_BT = data.domains[split][offsets[:, :-1]].astype(np.int32)
    segment_BT, position_BT = number(stream[:, :-1], data.doc_id)
    arrays = (stream[:, :-1], stream[:, 1:], segment_BT, position_BT, domain_BT)
    real = [np.where(rows_B[:, None] >= 0, array, 0) for array in arrays]
    return Batch(real[0], real[1], real[2], real[3], real[4])


def _images(data, split, rows_B, seq_len):
    """Images by number, each of so many patches, whose pixels lie in [0, 1]."""
    real_BT = np.broadcast_to(rows_B[:, None] >= 0, (len(rows_B), seq_len)).astype(np.int32)
    place_T = np.arange(seq_len, dtype=np.int32)
    offset_BT = np.maximum(rows_B, 0)[:, None] * seq_len + place_T
    shows_BT = real_BT * data.domains[split][offset_BT]
    pixels_BTI = real_BT[..., None] * data.tokens[split][offset_BT]
    patches_BTI = (pixels_BTI / data.meta["largest"]).astype(np.float32)
    nothing_BT = 0 * real_BT
    return Batch(
        nothing_BT, nothing_BT, real_BT, real_BT * place_T, shows_BT, patches_BTI=patches_BTI
    )


def number(tokens_BT: np.ndarray, doc_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(segment, position) int32 [B, T] of rows of tokens, as `Batch` defines them."""
    start_BT = tokens_BT == doc_id
    start_BT[:, 0] = True  # whether or not the row begins with a document
    index_T = np.arange(tokens_BT.shape[1])
    began_BT = np.maximum.accumulate(np.where(start_BT, index_T, 0), axis=1)
    return np.cumsum(start_BT, axis=1, dtype=np.int32), (index_T - began_BT).astype(np.int32)
