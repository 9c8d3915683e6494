"""Experts that copy a label, experts that do not, and what chance makes of both."""

import numpy as np
import pytest

from moe.analysis import choices, specialisation
from moe.analysis.specialisation import information, inside, measured, over, unevenness, vocabulary

E = 4
DOCUMENTS = 40
LONG = 25  # tokens of a document


def sample(expert_X):
    document_X = np.repeat(np.arange(DOCUMENTS), LONG)
    return specialisation.Sample(np.array(expert_X)[None], document_X, E)


def drawn(seed, high=E, size=DOCUMENTS * LONG):
    return np.random.default_rng(seed).integers(0, high, size)


def test_information():
    assert information(np.eye(3)) == pytest.approx(1)
    assert information(np.ones((3, 2))) == pytest.approx(0)
    assert information(np.array([[5, 7]])) == 0  # one expert tells nothing
    # Of two labels experts 0 and 1 share one: it is told, whatever the number of experts.
    assert information(np.array([[2, 0], [2, 0], [0, 4]])) == pytest.approx(1)
    half = np.array([[3, 1], [1, 3]]) / 8
    nats = 2 * (3 / 8) * np.log(1.5) + 2 * (1 / 8) * np.log(0.5)
    assert information(half) == pytest.approx(nats / np.log(2))


def test_labels_that_are_copied_and_labels_that_are_not():
    own = sample(drawn(0))
    (copied,) = measured(information, own, own.expert_LX[0], inside(own.document_X), 40)
    assert copied.value == pytest.approx(1) and copied.null_high < 0.1
    assert copied.half < 1e-6
    (other,) = measured(information, own, drawn(1), inside(own.document_X), 40)
    assert 0 < other.value < 3 * other.null and other.half > 0
    assert other.null < other.null_high < 0.02


def test_the_unit_of_the_null():
    """An expert for each document: tokens are not what is exchanged."""
    topic_X = np.repeat(drawn(2, 2, DOCUMENTS), LONG)
    place_X = np.repeat(drawn(3, E, DOCUMENTS), LONG)
    own = sample(place_X)
    (right,) = measured(information, own, topic_X, over(own.document_X), 100)
    (wrong,) = measured(information, own, topic_X, inside(np.zeros_like(topic_X)), 100)
    assert wrong.value > 5 * wrong.null_high  # as if there were 1,000 observations
    assert right.value < 2 * right.null_high
    (alone,) = measured(information, own, topic_X, inside(own.document_X), 3)
    assert alone.value == pytest.approx(alone.null)  # nothing changes inside of documents


def test_documents_keep_their_labels_together():
    document_X = np.array([7, 7, 3, 3, 3, 9])
    label_X = np.array([1, 1, 0, 0, 0, 2])
    rng = np.random.default_rng(0)
    for _ in range(5):
        moved_X = over(document_X)(rng, label_X)
        assert sorted({*zip(document_X, moved_X, strict=True)}) == sorted(
            zip([3, 7, 9], moved_X[[2, 0, 5]], strict=True)
        )
        kept_X = inside(document_X)(rng, np.arange(6))
        assert sorted(kept_X[:2]) == [0, 1] and sorted(kept_X[2:5]) == [2, 3, 4] and kept_X[5] == 5


def test_one_label_against_another():
    own = sample(drawn(0))
    shuffle = inside(own.document_X)
    noisy_X = np.where(drawn(4, 2) > 0, own.expert_LX[0], drawn(5))
    (change,) = specialisation.contrast(
        information, own, [(own.expert_LX[0], shuffle), (noisy_X, shuffle)], 40
    )
    assert change.mean - change.half > 0.3
    (none,) = specialisation.contrast(information, own, [(noisy_X, shuffle)] * 2, 10)
    assert none == (0, 0)


def test_vocabulary_and_domains():
    """Ids seen too seldom do not count; 12 of 16 and 10 of 20 are at their own expert."""
    counts_EV = np.array([[12, 5, 3], [4, 10, 0], [0, 5, 0]])
    assert vocabulary(counts_EV) == pytest.approx((0.75 + 0.5) / 2)
    assert vocabulary(counts_EV[:, 2:]) == 0
    assert unevenness(np.full((4, 2), 5)) == 0
    assert unevenness(np.eye(4)) == pytest.approx(0.75)
    np.testing.assert_allclose(specialisation.shares(counts_EV).sum(0), 1)


def test_co_activation_of_all_pairs_and_of_neighbours():
    """Expert 0 is twice with 1; expert 2 is never beside 0 in rank. 3 stands for no choice."""
    expert_NK = np.array([[0, 1, 2], [1, 0, 3], [2, 1, 3]])
    found_EE = choices.co_activation(expert_NK, 3)
    np.testing.assert_allclose(found_EE, [[0, 1, 0.5], [2 / 3, 0, 2 / 3], [0.5, 1, 0]])
    near_EE = choices.co_activation(expert_NK, 3, adjacent=True)
    assert near_EE[0, 2] == near_EE[2, 0] == 0 and near_EE[0, 1] == 1


def test_companions():
    """Experts 0 and 1 go together, and so do 2 and 3; or whoever comes."""
    document_N = np.arange(1000) // LONG
    first_N = drawn(7)
    pairs = choices.companions(
        np.stack([first_N, first_N ^ 1], 1), document_N, E, adjacent=False, draws=10
    )
    assert pairs.value == 1 and pairs.half == 0 and pairs.null < pairs.null_high < 0.45
    other_N = (first_N + drawn(8, E - 1) + 1) % E
    none = choices.companions(np.stack([first_N, other_N], 1), document_N, E, True, 10)
    assert none.value < none.null_high + none.half and none.half > 0


def test_experts_of_two_runs_find_each_other():
    one_N = drawn(6)
    other_N = np.array([2, 0, 3, 1])[one_N]
    document_N = np.arange(len(one_N)) // LONG
    found = choices.matched(one_N, other_N, document_N, E)
    assert found.order_E.tolist() == [2, 0, 3, 1] and found.share == (1, 0)
    assert 1 / E < found.null < 0.4


def test_saturation():
    """One of two choices stays, in half of the tokens at another rank."""
    after_LNK = np.array([[[0, 1], [0, 1], [2, 3], [2, 4]]])
    before_LNK = np.array([[[0, 2], [1, 2], [2, 0], [3, 2]]])
    found = choices.saturation(before_LNK, after_LNK, np.array([0, 0, 1, 1]), 4)
    assert found.top_k[0].mean == pytest.approx(4 / 7) and found.top_1[0].mean == 0.5
    assert found.top_k[0].half > 0 and 0 <= found.top_1_null[0] <= 1
    same = choices.saturation(after_LNK, after_LNK, np.array([0, 0, 1, 1]), 4)
    assert same.top_k == same.top_1 == [(1, 0)]


def test_over_time():
    lines = [
        {"split": "train", "step": 1, "entropy": 1.2, "load_LE": [[0.25] * 4, [1, 0, 0, 0]]},
        {"split": "validation", "step": 1, "load_LE": [[1.0]]},
    ]
    found = choices.over_time(lines)
    assert found["step"] == [1] and found["entropy"] == [1.2]
    np.testing.assert_allclose(found["load_entropy_L"], [[np.log(4), 0]])
    assert found["max_load_L"] == [[1, 4]]
    assert choices.over_time(lines[1:])["step"] == []
