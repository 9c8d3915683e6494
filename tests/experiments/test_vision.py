"""V-MoE in the loop, its capacity and order changed in evaluation, and the tables of both."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import vision as configs
from experiments import scaling, vision
from moe import objectives, routing, schema
from moe.analysis import vision as tables
from moe.data import images, prepare, prepared
from moe.models.vision import VisionConfig
from moe.training import config as training
from moe.training import loop, runs
from tests import tiny
from tests.training import toys

T = 16  # patches of 2 x 2
FEW = 0.25  # slots over choices


def data() -> prepared.Prepared:
    """The digits 0 and 1: which half of the image is bright."""
    rng = np.random.default_rng(0)
    tokens, domains = {}, {}
    for split, number in {"train": 64, "validation": 8, "test": 20}.items():
        shows = np.arange(number, dtype=np.uint8) % 2
        bright = (np.arange(T) >= T // 2)[None] == shows[:, None]
        pixels = rng.integers(0, 5, (number, T, 4)) + 10 * bright[..., None]
        tokens[split] = pixels.astype(np.uint8).reshape(-1, 4)
        domains[split] = np.repeat(shows, T)
    meta = {"files": {"train.npy": {"sha256": "toy"}}, "largest": 16}
    return prepared.Prepared(
        path=pathlib.Path("."), tokens=tokens, domains=domains, domain_names=images.DIGITS,
        token_bytes=np.zeros(0, np.int32), meta=meta,
    )  # fmt: skip


def run_config() -> training.RunConfig:
    options = routing.ranked.Options(normalise_gates=False)
    model = VisionConfig(
        num_layers=1, moe_every=1, d_model=tiny.D, num_heads=2, d_head=4, d_ff=16, dtype="float32",
        num_patches=T, patch_width=4, num_classes=10,
        experts=tiny.moe_config(
            k=2, group_size=8 * T, options=options, eval_capacity_factor=FEW
        ),
    )  # fmt: skip
    text = toys.run_config(train={"seq_len": T, "steps": 20, "eval_every": 20, "test_batches": 0})
    return training.RunConfig(
        architecture="vision",
        model=model,
        objective=objectives.ObjectiveConfig(name="classification"),
        data=images.ImageConfig(),
        train=dataclasses.replace(text.train, checkpoint_every=20),
        optimizer=dataclasses.replace(text.optimizer, learning_rate=0.05),
    )


def test_the_loop_trains_it_and_slots_can_be_few(tmp_path, monkeypatch):
    """The last batch of the test is half padding, so that its images have twice the slots."""
    monkeypatch.setattr(prepare, "prepare", lambda config: data())
    one = loop.sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "mesh_of", lambda run: one)
    workdir = tmp_path / "vmoe" / "seed0"
    result = loop.train(run_config(), workdir)
    assert result["test"]["accuracy"] > 0.9
    assert runs.load_run(workdir).run == run_config()
    study = ConfigDict({"seeds": 1, "factors": (FEW,)})
    found = vision.measured(study, {"vmoe": run_config()}, tmp_path)
    assert vision.measured(study, {"vmoe": run_config()}, tmp_path) == found
    few = {one["order"]: one for one in found}
    assert few.keys() == vision.ORDERS.keys()
    assert few[tables.POSITION]["accuracy"] == pytest.approx(result["test"]["accuracy"])
    assert all(0.7 <= one["dropped"] <= 0.8 for one in found)
    assert few[tables.PRIORITY]["nll"] != few[tables.POSITION]["nll"]
    assert few[tables.PRIORITY]["flops"] == few[tables.POSITION]["flops"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"patch": 4}},
            "data.patch=4 needs model.patch_width=16, model.num_patches=4, tr",
        ),
        ({"train": {"seq_len": 8}}, "data.patch=2 needs train.seq_len=16"),
        ({"model": {"num_classes": 2}}, "needs model.num_classes=10"),
        ({"train": {"evaluators": ("loss", "text:20")}}, "evaluators has text, which reads text"),
    ],
)
def test_a_run_fits_its_images(changes, message):
    with pytest.raises(ValueError, match=message):
        run_config().replace(**changes)


def test_it_tells_classes():
    with pytest.raises(ValueError, match="'next_token' with a model that tells classes"):
        dataclasses.replace(run_config(), objective=objectives.ObjectiveConfig())


def test_images_are_not_text():
    with pytest.raises(ValueError, match="wants a ImageConfig as its data, not a DataConfig"):
        dataclasses.replace(run_config(), data=prepare.DataConfig())


@pytest.mark.parametrize("size", ["demo", "cpu", "pilots", "fashion"])
def test_every_size_is_a_study(size):
    config = configs.get_config(size)
    base = schema.from_config_dict(training.RunConfig, config.base, "base.")
    assert base.model.moe_layers == 0 and base.model.num_dense_layers == 2
    test = {"digits": 360, "mnist_5k": 1000, "fashion": 10_000}[base.data.source]
    assert test % base.micro_batch == 0
    experts = {name for name, variant in config.variants.items() if "experts" in variant}
    assert len(set(config.variants) - experts) == (4 if size == "pilots" else 1)


def test_the_variants():
    """Experts lie in the last two blocks; slots can be ordered where patches choose."""
    config = configs.demo()
    config.match = "ideal"
    found = scaling.variants(config)
    layers = {name: run.model.moe_layers for name, run in found.items()}
    assert layers == {"dense": 0, "soft": 2, "vmoe": 2, "vmoe_priority": 2}
    assert {name for name, run in found.items() if vision.ordered(run)} == {"vmoe", "vmoe_priority"}
    assert found["vmoe_priority"].model.experts.options.batch_priority


def record(variant, seed, right):
    sizes = {"total_parameters": 10, "learning_rate": 0.1, "executed_flops": 5.0}
    losses = {"test_nll": 0.5, "curve_nll": [1.0, 0.4], "test": {"accuracy": right}}
    return {"variant": variant, "seed": seed, "steps": 9, **sizes, **losses}


RECORDS = [
    *(record("dense", s, 0.90 + s / 100) for s in range(3)),
    *(record("vmoe", s, 0.92 + s / 50) for s in range(3)),
]
FOUND = [
    {
        "variant": "vmoe",
        "seed": s,
        "order": order,
        "factor": f,
        "accuracy": right,
        "flops": 4 + 6 * f,
    }
    for s in range(3)
    for order, least in (("position", 0.45), ("priority", 0.81))
    for f, right in ((0.5, least), (1.0, 0.90))
]


def test_the_table():
    rows = tables.table(RECORDS).splitlines()[2:4]
    assert rows[0] == "| dense | 10 | 0.1 | 1.000 | 0.4000 | 0.5000 | 91.00% |  |"
    assert rows[1].endswith("| 94.00% | +3.00 ± 2.48 |")


def test_the_table_of_capacities():
    rows = tables.capacity_table(FOUND).splitlines()
    assert rows[2] == "| 0.5 | 70.0% | 50.0% ± 0.0% | 90.0% ± 0.0% | +36.00 ± 0.00 |"
    assert rows[3] == "| 1 | 100.0% | 100.0% ± 0.0% | 100.0% ± 0.0% | +0.00 ± 0.00 |"
    alone = tables.capacity_table([one for one in FOUND if one["seed"] == 0])
    assert "| 50.0% | 90.0% | +36.00 |" in alone


def test_the_figure(tmp_path):
    drawn = tables.drawn(RECORDS, FOUND)
    (axis,) = drawn.axes
    assert {text.get_text() for text in axis.get_legend().get_texts()} == {
        "dense", "position", "priority"
    }  # fmt: skip
    assert len(tables.drawn(RECORDS, []).axes) == 1
