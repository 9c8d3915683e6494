"""V-MoE costs what is said, is the same on a mesh, and refuses what is of text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import counting, flops, models, objectives
from moe.batch import Batch
from moe.models import vision
from moe.routing import stats
from moe.training import gradients
from tests import tiny

T, PATCH = 4, 2
KEY = jax.random.key(0)
VALUES = np.array([0.0, 1.0, 1e6])
ONE = {"num_layers": 1, "num_dense_layers": 0}


def config(**changes) -> vision.VisionConfig:
    """Two layers, the last with experts."""
    sizes = {"num_layers": 2, "num_dense_layers": 1, "moe_every": 1, "d_model": tiny.D, "d_ff": 16}
    heads = {"num_heads": 2, "d_head": 4, "dtype": "float32"}
    images = {"num_patches": T, "patch_width": PATCH**2, "num_classes": 2}
    experts = {"experts": tiny.moe_config(k=2)}
    return vision.VisionConfig(**{**sizes, **heads, **images, **experts, **changes})


def images(rows=tiny.B, seed=0) -> Batch:
    """Noise; of odd images the last patch is bright."""
    ones = np.ones((rows, T), np.int32)
    shows = np.arange(rows, dtype=np.int32)[:, None] % 2 * ones
    place = np.broadcast_to(np.arange(T, dtype=np.int32), (rows, T))
    patches = np.random.default_rng(seed).uniform(0, 0.3, (rows, T, PATCH**2)).astype(np.float32)
    patches[1::2, -1] += 0.7
    return Batch(0 * ones, 0 * ones, ones, place, shows, patches_BTI=patches)


def test_reading_patches_is_counted():
    """Ideal and executed FLOPs agree in all that has no capacity."""
    dense = config(**ONE, experts=None)
    ideal = flops.ideal(dense, T)
    executed = flops.executed(dense, tiny.B, T).products
    assert ideal["embed"] == 2 * 2 * PATCH**2 * tiny.D and "embed" in counting.PARTS
    for part, value in ideal.items():
        assert executed[part] == pytest.approx(value * tiny.B * T), part


NOISY = config(**ONE, experts=tiny.moe_config(router="noisy_top_k", k=2, group_size=2 * T))


def loss_and_gradients(mesh: str, change=lambda path, x: x):
    """Of `NOISY`, as NumPy arrays."""
    with tiny.on(mesh):
        params = jax.tree_util.tree_map_with_path(change, tiny.params(NOISY))
        (loss, _), grads = compiled(mesh)(params, tiny.put(images()))
        return tiny.host((loss, grads))


@functools.cache
def compiled(mesh: str):
    """The step's loss and gradients, compiled once for a mesh."""
    del mesh
    task = objectives.task(NOISY)
    return jax.jit(lambda params, batch: gradients.value_and_grad(task, params, {}, batch, KEY))


def test_no_gradient_depends_on_the_mesh():
    """Experts, groups of two images, and rows lie on several devices."""
    loss, grads = loss_and_gradients("none")
    tiny.assert_close(loss_and_gradients("2x2x1"), (loss, grads), atol=2e-6)
    assert loss > 0 and np.abs(grads["patches"]).max() > 0 and np.abs(grads["places"]).max() > 0


def test_gradients_are_finite_when_the_router_is_zero():
    """All scores are equal then, and importance does not vary: nothing is divided by that."""
    assert min(NOISY.experts.weight(loss) for loss in ("importance", "load")) > 0
    loss, grads = loss_and_gradients("none", _without_router)
    assert np.isfinite(loss) and all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert np.abs(grads["block"]["layer_0"]["moe"]["router"]).max() > 0


def _without_router(path, x):
    names = {key.key for key in path}
    return 0 * x if "moe" in names and "experts" not in names else x


def test_gradients_of_squared_variation_are_finite_without_variance():
    grad = jax.vmap(jax.grad(stats.squared_variation))(jnp.outer(VALUES, jnp.ones(4)))
    assert jnp.isfinite(grad).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 4}, "vocab_size=4 must be at least 0 and at most 0: lower it"),
        ({"position": "rotary"}, "position='rotary' is not one of 'none'"),
        ({"tie_embeddings": True}, "tie_embeddings=True does nothing with images"),
        ({"patch_width": 0}, "patch_width=0 must be above 0"),
        ({"experts": tiny.moe_config(router="hash")}, "'hash' goes by token ids"),
    ],
)
def test_what_is_of_text_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_a_label_is_not_shown_to_a_router():
    reads = tiny.moe_config(router="domain", num_experts=2)
    with pytest.raises(ValueError, match="'domain' reads the domains that .* is to tell"):
        objectives.ObjectiveConfig(name="classification").check(config(experts=reads))


def test_a_batch_without_images_is_refused():
    model = models.build(config())
    batch = images()._replace(patches_BTI=None)
    with pytest.raises(ValueError, match="reads batch.patches_BTI, which is None"):
        model.apply(tiny.params(config()), {}, batch, key=KEY, train=False)
