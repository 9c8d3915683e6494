"""Batches against arrays worked out by hand, and the promises of the module's docstring."""

import pathlib

import numpy as np
import pytest

from moe.batch import Batch
from moe.data import batches, prepared


def toy(ids, domains=None) -> prepared.Prepared:
    tokens = np.array(ids, np.uint16)
    domains = np.zeros(len(ids), np.uint8) if domains is None else np.array(domains, np.uint8)
    return prepared.Prepared(
        path=pathlib.Path("."),
        tokens={"train": tokens, "test": tokens},
        domains={"train": domains, "test": domains},
        domain_names=("a", "b"),
        token_bytes=np.ones(600, np.int32),
        meta={},
    )


def counting(rows: int, seq_len: int) -> prepared.Prepared:
    """A stream whose token at place p is p + 1, so that a row tells its own number."""
    return toy(np.arange(1, rows * seq_len + 2))


def row_numbers(batch: Batch) -> list[int]:
    return ((batch.tokens_BT[:, 0] - 1) // batch.tokens_BT.shape[1]).tolist()


def train(data, step=0, **changes):
    arguments = {"batch_size": 4, "seq_len": 8, "seed": 0, "step": step}
    return batches.train_batch(data, **{**arguments, **changes})


def test_packing_by_hand():
    #          row 0                row 1              row 2                 next
    ids = [0, 5, 6, 7, 8, 9] + [0, 4, 0, 3, 2, 0] + [1, 1, 1, 1, 1, 1] + [0, 9]
    domains = [0] * 6 + [1, 1, 0, 0, 0, 1] + [1] * 6 + [0, 0]
    data = toy(ids, domains)
    assert batches.row_count(data, "test", 6) == 3
    (batch,) = batches.eval_batches(data, "test", batch_size=4, seq_len=6, max_batches=1)
    rows = batches.eval_rows(data, "test", 6, 0)
    assert sorted(rows) == [0, 1, 2]
    assert batches.document_of(data, "test", np.arange(3), 6).tolist() == [0, 1, 3]
    batch = Batch(*(array[[*np.argsort(rows), 3]] for array in batch[:5]))
    zeros = [0] * 6
    assert batch.tokens_BT.tolist() == [
        [0, 5, 6, 7, 8, 9],
        [0, 4, 0, 3, 2, 0],
        [1, 1, 1, 1, 1, 1],
        zeros,
    ]
    assert batch.targets_BT.tolist() == [
        [5, 6, 7, 8, 9, 0],
        [4, 0, 3, 2, 0, 1],
        [1, 1, 1, 1, 1, 0],
        zeros,
    ]
    assert batch.segment_BT.tolist() == [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 2, 2, 2, 3],
        [1, 1, 1, 1, 1, 1],
        zeros,
    ]
    assert batch.position_BT.tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 1, 0, 1, 2, 0],
        [0, 1, 2, 3, 4, 5],
        zeros,
    ]
    assert batch.domain_BT.tolist() == [zeros, [1, 1, 0, 0, 0, 1], [1] * 6, zeros]
    assert all(array.dtype == np.int32 and array.shape == (4, 6) for array in batch[:5])


def test_some_of_the_rows_over_and_over():
    """Ten rows of twenty, in two epochs of two and a half batches."""
    data = counting(20, 8)
    batches_seen = [row_numbers(train(data, step, unique_rows=10)) for step in range(5)]
    seen = [row for batch in batches_seen for row in batch]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    whole = [row for step in range(5) for row in row_numbers(train(data, step, unique_rows=99))]
    assert sorted(whole) == list(range(20))


def test_a_row_that_starts_inside_a_document():
    segment_BT, position_BT = batches.number(np.array([[7, 7, 0, 7], [0, 0, 7, 0]]))
    assert segment_BT.tolist() == [[1, 1, 2, 2], [1, 2, 2, 3]]
    assert position_BT.tolist() == [[0, 1, 0, 1], [0, 0, 1, 0]]


def test_first_token_is_predicted_from_its_marker():
    """Wherever the target is a document's first token, the input is that document's <doc>."""
    rng = np.random.default_rng(0)
    data = toy(np.where(rng.random(2000) < 0.2, 0, rng.integers(1, 600, 2000)))
    batch = train(data, batch_size=20, seq_len=31)
    inside = batch.tokens_BT[:, 1:] != 0
    np.testing.assert_array_equal(batch.targets_BT[:, :-1], batch.tokens_BT[:, 1:])
    same = batch.segment_BT[:, :-1] == batch.segment_BT[:, 1:]
    np.testing.assert_array_equal(inside, same)
    np.testing.assert_array_equal(batch.position_BT[:, 1:] == 0, ~inside)


def test_pure_function_of_seed_and_step():
    data = counting(40, 8)
    want = train(data, step=7)
    for step in (0, 123, 3):  # whatever came before
        train(data, step=step)
    for got, expected in zip(train(data, step=7), want, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert row_numbers(train(data, step=8)) != row_numbers(want)
    assert row_numbers(train(data, step=7, seed=1)) != row_numbers(want)


@pytest.mark.parametrize("rows", [4, 12, 13])
def test_an_epoch_has_every_row_once(rows):
    data = counting(rows, 8)
    steps = range(3 * rows)  # 12 epochs in batches of 4, whether or not rows divides
    order = sum((row_numbers(train(data, step=step)) for step in steps), [])
    epochs = np.array(order).reshape(12, rows)
    assert (np.sort(epochs, axis=1) == np.arange(rows)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 6  # and every epoch its own order


def test_the_shuffle_differs_between_neighbouring_seeds_and_epochs():
    data = counting(64, 8)
    orders = {
        tuple(row_numbers(train(data, batch_size=64, seed=seed, step=epoch)))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_rows_by_number_are_those_of_the_batch():
    data = counting(50, 8)
    numbers = np.array([7, 0, 11, 3])
    whole = train(data, step=5, batch_size=12)
    some = train(data, step=5, batch_size=12, numbers=numbers)
    for array, part in zip(whole[:5], some[:5], strict=True):
        np.testing.assert_array_equal(array[numbers], part)


def evaluate(data, **changes):
    arguments = {"batch_size": 4, "seq_len": 8, "max_batches": 0}
    return list(batches.eval_batches(data, "test", **{**arguments, **changes}))


def test_eval_covers_the_split_and_pads_the_last():
    got = evaluate(counting(10, 8))
    assert len(got) == 3
    rows = row_numbers(got[0]) + row_numbers(got[1]) + row_numbers(got[2])[:2]
    assert sorted(rows) == list(range(10)) and rows != list(range(10))
    for array in got[2][:5]:
        assert array.shape == (4, 8) and not array[2:].any()
    assert (got[2].segment_BT[:2] == 1).all()


def test_eval_is_spread_evenly():
    data = counting(1000, 8)
    got = evaluate(data, max_batches=5)
    rows = sum(map(row_numbers, got), [])
    assert sorted(rows) == list(range(0, 1000, 50))
    assert rows == batches.eval_rows(data, "test", 8, 20).tolist()
    neighbours = np.abs(np.diff(rows)) == 50
    assert neighbours.mean() < 0.4  # mixed: rows of one document seldom meet in a group
    assert all(
        (a == b).all()
        for a, b in zip(got[3][:5], evaluate(data, max_batches=5)[3][:5], strict=True)
    )


def test_eval_smaller_than_a_batch_is_padded():
    (batch,) = evaluate(counting(1, 8))
    assert batch.segment_BT[:, 0].tolist() == [1, 0, 0, 0]


def test_errors():
    data = counting(3, 8)
    with pytest.raises(ValueError, match="train split has 3 rows of 8 tokens, at least 4"):
        train(data)
    with pytest.raises(ValueError, match="test split has 0 rows of 100 tokens, at least 1 needed"):
        batches.eval_batches(data, "test", batch_size=1, seq_len=100, max_batches=0)
