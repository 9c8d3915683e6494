"""chrF is sacrebleu's, of a text beside its reference, and not the other way round."""

import numpy as np

from moe.evaluation import chrf


def test_recall_counts_twice():
    """Of one character each: precision and recall 1 and 1/2, or the other way round."""
    short, long = chrf.chrf(["a", "ab"], ["ab", "a"])
    np.testing.assert_allclose([short, long], [100 * 5 * 0.5 / (4 + 0.5), 100 * 5 * 0.5 / (2 + 1)])
    assert chrf.chrf(["the same", "abc"], ["the same", "xyz"]).tolist() == [100.0, 0.0]
