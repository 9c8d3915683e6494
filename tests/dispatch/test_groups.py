"""The layout of groups on literal arrays, on a mesh, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import sharding
from moe.dispatch import groups
from tests import tiny

X_BT = np.arange(8).reshape(4, 2)  # row b is [2b, 2b + 1]


def test_one_sequence_is_a_group():
    assert groups.split(X_BT, 2).tolist() == X_BT.tolist()


def test_several_sequences_lie_by_position_first():
    assert groups.split(X_BT, 4).tolist() == [[0, 2, 1, 3], [4, 6, 5, 7]]
    assert groups.split(X_BT, 8).tolist() == [[0, 2, 4, 6, 1, 3, 5, 7]]


def test_a_sequence_is_several_groups():
    assert groups.split(X_BT, 1).tolist() == [[x] for x in range(8)]
    x_BT = np.arange(8).reshape(2, 4)
    assert groups.split(x_BT, 2).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("group_size", [1, 3, 6, 12, 24, 48])
@pytest.mark.parametrize("rest", [(), (5,)])
def test_join_inverts_split(group_size, rest):
    x = np.arange(48 * (rest[0] if rest else 1)).reshape(8, 6, *rest)
    x_GS = groups.split(x, group_size)
    assert x_GS.shape == (48 // group_size, group_size, *rest)
    np.testing.assert_array_equal(groups.join(x_GS, 8, 6), x)


@pytest.mark.parametrize("group_size", [2, 4, 8])
def test_the_same_on_a_mesh_and_spread_over_all_devices(group_size):
    x = np.random.default_rng(0).normal(size=(16, 4, 3))
    want = np.asarray(groups.split(x, group_size))
    with tiny.on("2x4"):
        x_GSD = jax.jit(lambda x: groups.split(x, group_size))(tiny.put(x))
        np.testing.assert_array_equal(x_GSD, np.float32(want))
        assert x_GSD.sharding.spec[0] == ("data", "expert")
        back = jax.jit(lambda x: groups.join(x, 16, 4))(x_GSD)
        np.testing.assert_array_equal(back, np.float32(x))
        assert back.sharding.spec == sharding.spec("BTD")


def test_a_mask_keeps_its_type():
    assert groups.split(jnp.ones((2, 4), bool), 8).dtype == jnp.bool_


@pytest.mark.parametrize(
    ("group_size", "fits"),
    [(1, True), (2, True), (4, True), (3, False), (5, False), (8, True), (12, True), (16, False),
     (24, True), (48, False), (6, False)],
)  # fmt: skip
def test_check(group_size, fits):
    """Of 6 sequences of 4 tokens."""
    if fits:
        groups.check(6, 4, group_size)
        return
    message = (
        f"group_size={group_size} does not tile 6 sequences of 4 tokens: use a divisor of 4, or 4"
        " times a divisor of 6"
    )
    with pytest.raises(ValueError, match=message):
        groups.check(6, 4, group_size)
    with pytest.raises(ValueError, match="does not tile"):
        groups.split(jnp.zeros((6, 4)), group_size)
