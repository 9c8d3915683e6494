"""Pools of experts that a document's tokens share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import routing
from moe.dispatch import groups
from moe.routing import emo
from tests import tiny
from tests.routing.by_hand import LOGITS, choice, route

ONE = jnp.array([[1, 1, 1]])
LAST_ALONE = jnp.array([[1, 1, 2]])


def test_the_pool_is_that_of_the_whole_document():
    """Sums 1.1, 0.53, 0.67, 0.7: experts 0 and 3, though token 0 likes 2 best."""
    pools = {"least": 2, "most": 2}
    experts, gates = choice("emo", options=pools, document_GS=ONE)
    assert experts == [[[3], [0], [0]]]
    np.testing.assert_allclose(gates.ravel(), [0.3, 0.7, 0.3], rtol=1e-5)  # of all experts
    mask = np.array([[True, False, True]])  # sums 0.4, 0.48, 0.62, 0.5
    experts, _ = choice("emo", mask=mask, options=pools, document_GS=ONE)
    assert experts == [[[2], [4], [2]]]
    # The last token alone has the pool of 0 and 1; the others' sums are 0.8, 0.25, 0.45, 0.5.
    experts, _ = choice("emo", k=2, options=pools, document_GS=LAST_ALONE)
    assert experts == [[[3, 0], [0, 3], [0, 1]]]


def test_a_running_pool_is_that_of_the_tokens_so_far():
    """2 and 3 at first; then sums 0.8, 0.25, 0.45, 0.5; then of all three."""
    pools = {"least": 2, "most": 2, "pool": "running"}
    experts, _ = choice("emo", k=2, options=pools, document_GS=ONE)
    assert experts == [[[2, 3], [0, 3], [0, 3]]]
    experts, _ = choice("emo", k=2, options=pools, document_GS=LAST_ALONE)
    assert experts == [[[2, 3], [0, 3], [0, 1]]]


def test_sums_by_document():
    rng = np.random.default_rng(0)
    x_SE = rng.random((40, 3)).astype(np.float32)
    document_S = rng.integers(0, 6, 40)
    same_SS = document_S[:, None] == document_S
    tiny.assert_close(jax.jit(emo.totals)(x_SE, document_S), same_SS @ x_SE)
    tiny.assert_close(jax.jit(emo.running)(x_SE, document_S), np.tril(same_SS) @ x_SE)
    first_S = same_SS.argmax(1)
    np.testing.assert_array_equal(emo.of_first(jnp.arange(40), document_S), first_S)


def test_what_is_carried_on_is_as_if_it_were_read_at_once():
    pools = {"least": 2, "most": 2, "pool": "running"}
    carried = {"sum": jnp.zeros((1, 4)), "document": jnp.zeros(1, jnp.int32)}
    for t, want in enumerate([[2, 3], [0, 3], [0, 1]]):
        routed = route(
            "emo", LOGITS[:, t : t + 1], np.ones((1, 1), bool), k=2, options=pools,
            document_GS=LAST_ALONE[:, t : t + 1], carried=carried,
        )  # fmt: skip
        assert routed.assignment.expert_GSK.tolist() == [[want]]
        carried = routed.carried


def test_pools_are_drawn_in_training_and_average_in_evaluation():
    """Every token likes all experts alike, so a pool's size is the last expert that is open."""
    G, E = 300, 6
    logits = np.zeros((G, 4, E), np.float32) - 0.01 * np.arange(E, dtype=np.float32)
    options = {"least": 2, "most": 5}
    given = {"k": 2, "options": options, "mask": np.ones((G, 4), bool)}
    document_GS = jnp.broadcast_to(jnp.array([1, 1, 2, 2]), (G, 4))
    inputs = routing.contract.RouterInputs(
        {}, given["mask"], key=jax.random.key(0), document_GS=document_GS
    )
    settings = routing.contract.RouterSettings(E, 2, 0, True, emo.Options(**options))
    size_GS = np.asarray(emo._sizes(inputs, settings))[..., 0]
    assert (size_GS[:, 0] == size_GS[:, 1]).all() and (size_GS[:, 2] == size_GS[:, 3]).all()
    assert (size_GS[:, 0] != size_GS[:, 2]).any()
    np.testing.assert_allclose(
        np.bincount(size_GS.ravel(), minlength=6)[2:] / (4 * G), 0.25, atol=0.06
    )
    assert emo._sizes(inputs, settings._replace(train=False)) == 3
    routed = route(
        "emo", logits, train=True, key=jax.random.key(0), document_GS=document_GS, **given
    )
    assert (np.asarray(routed.assignment.expert_GSK) == np.arange(2)).all()


def test_documents_of_several_rows_in_a_group():
    segment_BT = jnp.array([[1, 1, 2], [1, 2, 2], [1, 1, 1], [0, 1, 2]])
    found = np.asarray(groups.documents(segment_BT, 6))
    row_GS = np.asarray(groups.split(jnp.repeat(jnp.arange(4)[:, None], 3, 1), 6))
    want = np.asarray(groups.split(segment_BT, 6))
    for number_S, row_S, segment_S in zip(found, row_GS, want, strict=True):
        pairs = {*zip(row_S.tolist(), segment_S.tolist(), strict=True)}
        assert len({*number_S.tolist()}) == len(pairs)
        assert len({*zip(number_S.tolist(), row_S.tolist(), strict=True)}) == len(pairs)
    np.testing.assert_array_equal(groups.documents(segment_BT, 3), segment_BT)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"least": 1}, "must lie between k=2"),
        ({"most": 9}, "must lie between k=2"),
        ({"least": 4, "most": 3}, "must lie between k=2"),
        ({"least": 4}, "least=4 opens all"),
        ({"pool": "row"}, "pool"),
    ],
)
def test_pools_that_there_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        tiny.moe_config(router="emo", k=2, options=emo.Options(**options)).refuse_idle()


def test_segments_are_needed():
    with pytest.raises(ValueError, match="segment_BT"):
        route("emo")
