"""Choosing by comparisons, by hand; and a ranker and a fuser that read what they should."""

import numpy as np
import pytest

from moe import errors
from moe.adapt.banks import Trained
from moe.data.candidates import Candidates
from moe.ensemble import blender
from moe.evaluation import likelihood
from tests import tiny
from tests.objectives import pairs

M_1NN = np.array([[[0, 3, -1], [1, 0, 2], [5, -4, 0]]])  # of one input with three candidates


def test_both_orders_by_hand():
    """Each of 3 pairs is read twice: 3 - 1, -1 - 5, 2 + 4."""
    assert blender.both_orders(M_1NN).tolist() == [[[0, 2, -6], [-2, 0, 6], [6, -6, 0]]]
    assert blender.max_logits(M_1NN).tolist() == [[-4, 4, 0]]
    # 0 wins (0, 1); 1 wins (1, 0), (1, 2) and (2, 1); 2 wins (2, 0) and (0, 2).
    assert blender.max_wins(M_1NN).tolist() == [[1, 3, 2]]
    tie_1NN = np.array([[[0, 1, -1], [-1, 0, 2], [1, -2, 0]]])  # two wins each, in a circle
    assert blender.max_wins(tie_1NN).tolist() == [[2, 2, 2]]
    assert blender.most_wins(np.concatenate([tie_1NN, M_1NN])).tolist() == [1, 1]


def bubble(M_XNN, order_XN):
    calls = []

    def compare(i_X, j_X):
        calls.append((i_X.tolist(), j_X.tolist()))
        return blender.of_matrix(M_XNN)(i_X, j_X)

    return blender.bubble(compare, np.asarray(order_XN)).tolist(), calls


def test_a_bubble_pass_finds_the_best_if_comparisons_are_transitive():
    """In any order, and whatever is said of both orders in common."""
    rng = np.random.default_rng(0)
    score_XN, order_XN = (
        rng.normal(size=(50, 6)),
        rng.permuted(np.tile(np.arange(6), (50, 1)), axis=1),
    )
    common_XNN = rng.normal(size=(50, 6, 6))
    M_XNN = score_XN[:, :, None] - score_XN[:, None] + common_XNN + common_XNN.swapaxes(1, 2)
    found, calls = bubble(M_XNN, order_XN)
    assert found == score_XN.argmax(1).tolist() == blender.max_logits(M_XNN).argmax(1).tolist()
    assert len(calls) == 5


def test_a_bubble_pass_in_a_circle():
    """0 beats 1, 1 beats 2, 2 beats 0: the order decides, and all comparisons say 1."""
    assert bubble(M_1NN, [[0, 1, 2]]) == ([2], [([1], [0]), ([2], [0])])
    assert bubble(M_1NN, [[2, 0, 1]])[0] == [1]
    assert bubble(M_1NN, [[1, 2, 0]])[0] == [0]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(blender, "AT_ONCE", 8)


@pytest.fixture(scope="module")
def ranker():
    return Trained(pairs.CONFIG, tiny.params(pairs.CONFIG), {})


def test_other_names_give_the_same_comparisons(ranker):
    """M_ij is of i read first: with candidates in another order its rows and columns move along."""
    found = pairs.found(3)
    M_XNN = blender.compared(ranker, found)
    order = np.array([2, 0, 1])
    moved = blender.compared(ranker, found.chosen(np.tile(order, (3, 1))))
    np.testing.assert_allclose(moved, M_XNN[:, order][:, :, order], rtol=1e-5, atol=1e-6)
    assert np.abs(M_XNN + M_XNN.swapaxes(1, 2)).max() > 0.01, "both orders say the same already"
    assert not M_XNN[:, [0, 1, 2], [0, 1, 2]].any()


def test_what_cannot_be_compared(ranker):
    found = pairs.found(3)
    with pytest.raises(errors.UserError, match="two candidates or more for each input; got 1"):
        blender.compared(ranker, found.chosen(np.zeros((3, 1), int)))
    with pytest.raises(errors.UserError, match="at least one token each; got 0 of 4"):
        blender.compared(ranker, Candidates(*(part[:0] for part in found)))
    with pytest.raises(errors.UserError, match="at least one token each; got 3 of 0"):
        blender.compared(ranker, found._replace(input_XZ=np.zeros((3, 0), int)))
    with pytest.raises(errors.UserError, match="two candidates or more for each input; got 1"):
        bubble(M_1NN, [[0]])
    with pytest.raises(errors.UserError, match="one input or more to be continued"):
        blender.continued(ranker, np.zeros((0, 4), int), 2, 0)
    with pytest.raises(errors.UserError, match="PairRankerConfig does not generate"):
        blender.continued(ranker, found.input_XZ, 2, 0)


def test_candidates_end_and_are_judged():
    """Nothing is kept after the end, and the mean is of the tokens that are."""
    config = tiny.model(num_layers=1, moe_every=1, experts=None)
    writer = Trained(config, tiny.params(config), {})
    found = pairs.found(3)
    free = blender.continued(writer, found.input_XZ, 4, tiny.V - 1)
    end = int(free[0, 1])
    made = blender.continued(writer, found.input_XZ, 4, end)
    assert made[0].tolist() == [*free[0, : list(free[0]).index(end) + 1], *[-1] * 4][:4]
    asked = likelihood.Text(found.input_XZ[0].tolist(), made[0][made[0] >= 0].tolist())
    (nats,) = likelihood.log_likelihoods(*writer, [asked], longest=8)
    of_token = blender.mean_log_p(writer, found._replace(candidate_XNY=made[:, None]), 0)[0]
    assert of_token == pytest.approx(nats / len(asked.scored)) and len(asked.scored) < 3
