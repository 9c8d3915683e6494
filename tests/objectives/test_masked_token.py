"""Masked tokens: as many as stated, the same for the same step."""

import numpy as np

from moe.batch import Batch
from moe.objectives import masked_token

SHARE = masked_token.Options().share


def test_the_share_and_the_seed():
    masked_BT = masked_token.masked(0, 3, (64, 256), SHARE)
    assert abs(masked_BT.mean() - SHARE) < 0.01
    np.testing.assert_array_equal(masked_BT, masked_token.masked(0, 3, (64, 256), SHARE))
    for seed, step in ((1, 3), (0, 4)):
        other_BT = masked_token.masked(seed, step, (64, 256), SHARE)
        assert 0.2 < (other_BT != masked_BT).mean() < 0.3


def test_held_out_rows_are_masked_alike_in_any_batch():
    whole = masked_token.masked_in_rows([3, 1, 2], 64, SHARE)
    np.testing.assert_array_equal(whole[1:], masked_token.masked_in_rows([1, 2], 64, SHARE))
    assert (whole[0] != whole[1]).any()


def test_what_a_model_reads_and_must_predict():
    tokens = np.array([[0, 5, 6, 0]])
    segment = np.array([[1, 1, 1, 0]])
    batch = Batch(tokens, tokens + 1, segment, tokens * 0, tokens * 0)
    read = masked_token.mask(batch, np.array([[False, True, False, True]]))
    assert read.tokens_BT.tolist() == [[0, -1, 6, 0]]  # padding is not masked
    assert read.targets_BT.tolist() == tokens.tolist()
    assert read.loss_mask_BT.tolist() == [[0, 1, 0, 0]]
