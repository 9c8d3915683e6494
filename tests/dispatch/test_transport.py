"""Every transport brings slots to their experts and back, on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import sharding
from moe.dispatch import gather, transport
from moe.routing import assignment
from tests import tiny

G = 8
S = 4
E = 8
K = 2
C = 2
D = 3


def case():
    """x and slots in which some choices are dropped."""
    rng = np.random.default_rng(0)
    x_GSD = rng.normal(size=(G, S, D)).astype(np.float32)
    expert_GSK = np.argsort(rng.random((G, S, E)), axis=-1)[..., :K].astype(np.int32) // 2
    choice = assignment.TopKAssignment(jnp.asarray(expert_GSK), jnp.full((G, S, K), 0.5))
    return jnp.asarray(x_GSD), jax.jit(assignment.assign_slots, static_argnums=(1, 2))(choice, E, C)


@pytest.mark.parametrize("name", transport.TRANSPORTS)
@pytest.mark.parametrize("mesh", ["none", *tiny.MESHES])
def test_there_and_back(mesh, name):
    x_GSD, slots = case()
    want_GECD = gather.dispatch(x_GSD, slots)
    back_GSD = gather.combine(want_GECD * 2, slots, S)
    assert np.asarray(want_GECD).any()
    with tiny.on(mesh):
        x, slots = jax.tree.map(lambda a: sharding.reshard(a, "G"), (x_GSD, slots))
        x_EGCD = jax.jit(lambda *args: transport.send(gather.dispatch, *args, name))(x, slots)
        y_GSD = jax.jit(
            lambda *args: transport.receive(lambda y, s: gather.combine(y, s, S), *args, name)
        )(x_EGCD * 2, slots)
        if mesh != "none":
            assert x_EGCD.sharding.spec == sharding.spec("EGCD")
            assert y_GSD.sharding.spec[0] == sharding.spec("G")[0]
        np.testing.assert_array_equal(x_EGCD, want_GECD.swapaxes(0, 1))
        np.testing.assert_allclose(y_GSD, back_GSD, rtol=1e-6)
