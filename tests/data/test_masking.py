"""Hidden tokens: as many as stated, the same for the same step."""

import numpy as np

from moe.data import batches, masking
from moe.evaluation import text


def test_the_share_and_the_seed():
    hidden_BT = masking.hidden(0, 3, (64, 256))
    assert abs(hidden_BT.mean() - masking.SHARE) < 0.01
    np.testing.assert_array_equal(hidden_BT, masking.hidden(0, 3, (64, 256)))
    for other in (masking.hidden(1, 3, (64, 256)), masking.hidden(0, 4, (64, 256))):
        assert 0.2 < (other != hidden_BT).mean() < 0.3


def test_held_out_rows_are_hidden_alike_in_any_batch():
    whole = masking.hidden_in_rows(7, [3, 1, 2], 64)
    np.testing.assert_array_equal(whole[1:], masking.hidden_in_rows(7, [1, 2], 64))
    assert (whole[0] != whole[1]).any()


def test_what_a_model_reads_and_must_tell():
    tokens = np.array([[0, 5, 6, 0]])
    segment = np.array([[1, 1, 1, 0]])
    batch = batches.Batch(tokens, tokens + 1, segment, tokens * 0, tokens * 0)
    read = text.inputs(batch, np.array([[False, True, False, True]]))
    assert read.tokens_BT.tolist() == [[0, -1, 6, 0]]  # padding is not hidden
    assert read.targets_BT.tolist() == tokens.tolist()
    assert read.loss_mask_BT.tolist() == [[0, 1, 0, 0]]
    plain = text.inputs(batch)
    assert plain.targets_BT.tolist() == [[1, 6, 7, 1]] and plain.loss_mask_BT.tolist() == [
        [1, 1, 1, 0]
    ]
