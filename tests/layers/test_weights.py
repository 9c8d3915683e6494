"""How weights are born."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe.layers import weights
from tests import tiny


class Owner(nn.Module):
    shape: tuple
    letters: str
    fan_in: int
    scale: float

    @nn.compact
    def __call__(self):
        return weights.weight(
            self, "w", self.letters, self.shape, fan_in=self.fan_in, scale=self.scale
        )


def born(shape, letters=None, fan_in=64, scale=1.0, seed=0):
    letters = letters or "." * len(shape)
    owner = Owner(shape, letters, fan_in, scale)
    return jax.jit(lambda key: owner.init(key)["params"]["w"])(jax.random.key(seed))


@pytest.mark.parametrize(("fan_in", "scale"), [(64, 1.0), (16, 0.1)])
def test_variance_and_truncation(fan_in, scale):
    w = np.asarray(born((300, 300), fan_in=fan_in, scale=scale))
    deviation = (scale / fan_in) ** 0.5
    np.testing.assert_allclose(w.std(), deviation, rtol=0.01)
    assert abs(w.mean()) < 0.01 * deviation
    assert 2.2 < np.abs(w).max() / deviation < 2 / 0.879625 + 1e-3
    assert w.dtype == jnp.float32


def test_born_sharded_and_equal_on_every_mesh():
    want = born((8, 4, 6), "EDF")
    for mesh in ("2x4", "8x1"):
        with tiny.on(mesh):
            w = born((8, 4, 6), "EDF")
            assert w.sharding.spec == jax.sharding.PartitionSpec("expert", None, "model")
        np.testing.assert_array_equal(w, want)


def test_the_seed_decides():
    assert (born((5, 5), seed=0) != born((5, 5), seed=1)).all()
