"""Pieces of documents, and where a text ends."""

import dataclasses

import numpy as np
import pytest

from moe import errors
from moe.data import candidates
from tests.training import toys

STREAM = np.array([0, 1, 2, 3, 4, 0, 5, 0, 6, 7, 8, 9, 10, 11], np.uint16)


@pytest.fixture
def data():
    return dataclasses.replace(toys.data(), tokens={"test": STREAM})


def test_pieces_by_hand(data):
    """From the beginning of a document on, whole, and not across two."""
    tokens_XT, document_X = candidates.windows(data, "test", 3, 9)
    assert tokens_XT.tolist() == [[0, 1, 2], [0, 6, 7], [8, 9, 10]]
    assert document_X.tolist() == [0, 2, 2]
    assert candidates.windows(data, "test", 3, 1)[0].tolist() == [[0, 1, 2], [0, 6, 7]]
    assert candidates.windows(data, "test", 3, 1, first=1)[0].tolist() == [[0, 6, 7]]
    with pytest.raises(errors.UserError, match="no document of 8 tokens after token 0"):
        candidates.windows(data, "test", 8, 1)


def test_nothing_follows_the_end():
    ids = np.array([[1, 0, 2, 0], [1, 2, 3, 0], [0, 0, 1, 1], [1, 2, 3, 4]])
    found = candidates.ended(ids, 0)
    assert found.tolist() == [[1, 0, -1, -1], [1, 2, 3, 0], [0, -1, -1, -1], [1, 2, 3, 4]]
