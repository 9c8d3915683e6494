"""Experts go where the tokens are that choose them."""

import itertools

import jax
import numpy as np
import pytest

from moe import hlo
from moe.adapt import observing, place
from tests import tiny
from tests.adapt import cases


@pytest.fixture(scope="module")
def seen():
    """A model, and how often tokens of each of four domains chose its experts, [4, L, E]."""
    trained = cases.trained()
    batch = tiny.inputs()
    domain_BT = np.broadcast_to(np.arange(8)[:, None] % 4, batch.tokens_BT.shape)
    batch = batch._replace(domain_BT=domain_BT.astype(np.int32))
    counts = [observing.observe(trained, [batch], observing.use, d).tokens for d in range(4)]
    return trained, np.stack(counts)


@pytest.mark.parametrize("devices", [2, 4])
def test_no_placement_is_better(seen, devices):
    """Of a layer's eight experts, by trying all."""
    _, count_XLE = seen
    count_LZE = place.by_device(count_XLE, devices)
    best = place.best(count_LZE)
    assert (np.sort(best, axis=1) == np.arange(8) // (8 // devices)).all()
    layers = range(len(count_LZE))
    for layer in layers:
        one = count_LZE[layer : layer + 1]
        tried = {tuple(order) for order in itertools.permutations(np.arange(8) // (8 // devices))}
        least = min(place.leaving(one, np.array([order])) for order in tried)
        assert place.leaving(one, best[layer : layer + 1]) == pytest.approx(least)


def test_random_placements_leave_all_but_a_share(seen):
    _, count_XLE = seen
    count_LZE = place.by_device(count_XLE, 4)
    rng = np.random.default_rng(0)
    shares = [place.leaving(count_LZE, place.drawn(2, 8, 4, rng)) for _ in range(300)]
    assert np.mean(shares) == pytest.approx(3 / 4, abs=0.01)
    assert place.leaving(count_LZE, place.best(count_LZE)) < np.min(shares)
    alike = np.ones_like(count_LZE)
    assert place.leaving(alike, place.best(alike)) == pytest.approx(3 / 4)


@pytest.mark.parametrize("dispatcher", ["gather", "grouped"])
def test_what_a_compiled_mesh_sends(dispatcher):
    """Of an MoE layer in evaluation, on 2 x 4 devices; 64 tokens, K = 2."""
    room = 1.5 if dispatcher == "gather" else 0.0
    factors = {"capacity_factor": room, "eval_capacity_factor": room}
    config = tiny.sparse(num_experts=8, k=2, dispatcher=dispatcher, **factors)
    layer = tiny.layer_of(config, ep_capacity_factor=2.0, implementation="ragged_dot")

    def forward(params, x_BTD, mask_BT):
        return layer.apply({"params": params}, x_BTD, mask_BT, False, mutable=["router"])[0]

    with tiny.on("2x4"):
        arguments = tiny.experts_params(config), *tiny.layer_inputs(8, 8)
        text = jax.jit(forward).lower(*arguments).compile().as_text()
    sent = hlo.traffic(text, {"data": 2, "expert": 4, "model": 1})["all-to-all", "expert"].bytes
    want = place.buffer_bytes(config, 4, room or 2.0, itemsize=4)
    assert want <= sent / 8 <= 1.1 * want


def test_a_placed_model_is_the_same(seen):
    """And its experts lie in the blocks that a mesh gives to devices."""
    trained, count_XLE = seen
    count_LZE = place.by_device(count_XLE, 4)
    device_LE = place.best(count_LZE)
    found = place.placed(trained, device_LE)
    tiny.assert_close(cases.logits(found), cases.logits(trained))
    w, before = (
        np.asarray(t.params["block"]["layer_1"]["moe"]["experts"]["w_in"]) for t in (found, trained)
    )
    for device in range(4):
        np.testing.assert_array_equal(
            w[1, 2 * device : 2 * device + 2], before[1, device_LE[1] == device]
        )
    order_LE = np.argsort(device_LE, axis=1, kind="stable")
    moved = np.take_along_axis(count_LZE, order_LE[:, None], axis=2)
    assert place.leaving(moved, place.as_it_is(2, 8, 4)) == place.leaving(count_LZE, device_LE)


def test_even_loads():
    """Heavy experts are kept apart, and every device has as many."""
    count_LE = np.array([[8, 7, 6, 5, 4, 3, 2, 1], [90, 1, 1, 1, 1, 1, 1, 1]])
    device_LE = place.even(count_LE, 4)
    assert (np.sort(device_LE, axis=1) == np.arange(8) // 2).all()
    loads = [np.bincount(d, c).tolist() for d, c in zip(device_LE, count_LE, strict=True)]
    assert loads == [[9] * 4, [91, 2, 2, 2]]


def test_what_cannot_be(seen):
    _, count_XLE = seen
    with pytest.raises(ValueError, match="expected from 1 to 4 devices, one a domain; got 8"):
        place.by_device(count_XLE, 8)
    with pytest.raises(ValueError, match="3 devices do not divide 8 experts"):
        place.best(place.by_device(count_XLE, 3))
    with pytest.raises(ValueError, match="3 devices do not divide 8 experts"):
        place.even(count_XLE[0], 3)
