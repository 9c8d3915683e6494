"""Low-rank changes: nothing at first, the product of two matrices later, and all else stays."""

import functools

import jax
import numpy as np
import pytest

from moe import decoding, models, objectives, paths
from moe.models import lora
from moe.training import gradients, loop
from tests import tiny
from tests.training import toys

ALL = (r".*/(attention|experts|ffn)/w_.*", r".*/router")
CONFIG = lora.LoraConfig(rank=2, alpha=6.0, weights=ALL)
KEY = jax.random.key(0)


SMALL = tiny.model(activation="swiglu")


def model():
    """Two blocks."""
    return tiny.model(num_layers=4, activation="swiglu")


def with_pairs(config=None, seed=0):
    """Parameters on the current mesh, with A and B drawn as if both were trained."""
    params = tiny.params(config or model())
    pairs = lora.drawn(params, CONFIG, KEY)
    rng = np.random.default_rng(seed)
    full = jax.tree.map(
        lambda x: jax.device_put(rng.normal(size=x.shape).astype(np.float32) / 4, x.sharding), pairs
    )
    return params, params | {"lora": full}


def test_by_hand():
    """Every kind of weight, with layers and experts before its inputs."""
    params, trained = with_pairs()
    got = paths.named(lora.merged(trained, 3.0))
    pairs = paths.named(trained["lora"])
    products = {
        "block/layer_0/attention/w_q": "lar,lrnh->lanh",
        "block/layer_0/attention/w_o": "lnhr,lrd->lnhd",
        "block/layer_0/ffn/w_gate": "lar,lrf->laf",
        "block/layer_1/moe/experts/w_out": "lefr,lerd->lefd",
        "block/layer_1/moe/router": "lar,lre->lae",
    }
    for path, product in products.items():
        a, b = pairs[f"{path}/a"], pairs[f"{path}/b"]
        want = paths.named(params)[path] + 3.0 * np.einsum(product, a, b)
        tiny.assert_close(got[path], want)
    same = [path for path in got if f"{path}/a" not in pairs]
    assert all(got[path] is paths.named(params)[path] for path in same)
    assert set(same) == {p for p in got if "norm" in p or p == "embed"}


def test_nothing_changes_at_first():
    config = SMALL
    around = lora.around(models.build(config), CONFIG)
    given = jax.jit(around.init)(KEY)
    plain = {name: part for name, part in given.items() if name != "lora"}
    apply = jax.jit(functools.partial(around.apply, train=False))
    out = apply(given, {}, tiny.inputs(), key=KEY).logits
    tiny.assert_close(out, logits(config, plain))
    assert np.asarray(given["lora"]["block"]["layer_0"]["ffn"]["w_in"]["a"]).std() > 0.1


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params):
    return models.build(config).apply(params, {}, tiny.inputs(), key=KEY, train=False).logits


def value_and_grad(config, params):
    task = objectives.task(config, None, lora.FROZEN, low_rank=CONFIG)
    return jax.jit(lambda p, batch: gradients.value_and_grad(task, p, {}, batch, KEY, 1))(
        params, tiny.put(tiny.inputs())
    )


def test_on_a_mesh():
    config = SMALL
    (want, _), want_grads = value_and_grad(config, with_pairs(config)[1])
    with tiny.on("2x2x2"):
        (got, _), grads = value_and_grad(config, with_pairs(config)[1])
        tiny.assert_close(got, want)
        tiny.assert_close(tiny.host(grads["lora"]), tiny.host(want_grads["lora"]), atol=1e-5)
    largest = paths.named(jax.tree.map(lambda g: float(np.abs(g).max()), want_grads))
    assert {path.partition("/")[0] for path, size in largest.items() if size} == {"lora"}


@pytest.mark.usefixtures("programs")
def test_a_run_trains_nothing_else(whole, tmp_path):
    """From a trained run: its parameters stay to the last bit, and have no optimizer state."""
    base = toys.run_config()
    run = base.replace(
        lora={"rank": 2, "weights": (r".*/attention/w_.*", r".*/experts/w_.*")},
        init_from={
            "workdir": str(whole.workdir),
            "rules": (("lora/.*", "fresh"), (".*", "take")),
        },
    )
    result = loop.train(run, tmp_path)
    end, begin = toys.Run(tmp_path, result).state(run), whole.state(base)
    still = {name: part for name, part in end.params.items() if name != "lora"}
    tiny.assert_equal(still, begin.params)
    assert any(np.asarray(x).any() for path, x in paths.named(end.params["lora"]).items()
               if path.endswith("/b"))  # fmt: skip
    moments = {path for path in paths.named(end.optimizer) if "block/" in path}
    assert moments and all("/lora/" in path for path in moments)
    merged = run.plain(end.params)
    assert merged.keys() == begin.params.keys()
    w_q = merged["block"]["layer_0"]["attention"]["w_q"]
    assert (np.asarray(w_q) != begin.params["block"]["layer_0"]["attention"]["w_q"]).any()


def test_nothing_is_left_out_without_a_word():
    """A plain model refuses what it would not read."""
    given = with_pairs()[1]
    with pytest.raises(ValueError, match=r"lora beside the model's parameters: .* use `run.plain"):
        models.build(model()).apply(given, {}, tiny.inputs(), key=KEY, train=False)
    with pytest.raises(ValueError, match="lora beside the model's parameters"):
        decoding.prepare(model(), given)


def test_the_share_that_is_trained():
    config = tiny.model(num_layers=4)
    found = lora.trained(config, lora.LoraConfig(rank=3))
    assert found == 4 * (3 * (8 * 3 + 3 * 8) + (8 * 3 + 3 * 8))


def test_what_cannot_be():
    params = tiny.params(model())
    with pytest.raises(ValueError, match=r"lora.weights matches .*norm/scale, no weights of a"):
        lora.drawn(params, lora.LoraConfig(rank=1, weights=(".*norm.*",)), KEY)
    with pytest.raises(ValueError, match="lora.weights has 'nothing', which matches no parameter"):
        lora.drawn(params, lora.LoraConfig(rank=1, weights=("nothing",)), KEY)
    with pytest.raises(ValueError, match="lora.alpha does nothing with lora.rank=0"):
        lora.LoraConfig(alpha=2.0)
    with pytest.raises(ValueError, match=r"lora.rank=-1 must be"):
        lora.LoraConfig(rank=-1)
