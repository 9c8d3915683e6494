"""A second model and a second objective go through the same step as the decoder."""

import dataclasses

import jax
import numpy as np
import optax

from moe import models, objectives
from moe.data import prepare
from moe.models import classifier
from moe.training import loop, runs, step
from tests import tiny
from tests.training import toys

CONFIG = classifier.ClassifierConfig(
    vocab_size=tiny.V, num_layers=1, moe_every=1, d_model=tiny.D, num_heads=2, d_head=4, d_ff=16,
    dtype="float32", num_classes=2, experts=tiny.moe_config(k=2),
)  # fmt: skip


def test_rows_are_told_apart():
    """Rows of domain 1 have the upper half of the vocabulary: soon all are told apart."""
    rng = np.random.default_rng(0)
    domain_BT = np.arange(tiny.B)[:, None] % 2 * np.ones((1, tiny.T), int)
    tokens_BT = rng.integers(0, tiny.V // 2, (tiny.B, tiny.T)) + domain_BT * tiny.V // 2
    batch = tiny.inputs(padded=False)._replace(tokens_BT=tokens_BT, domain_BT=domain_BT)
    task = objectives.task(CONFIG)
    tx = optax.adam(0.03)
    state = step.init(models.build(CONFIG), tx, 0)
    advance = step.make_train_step(task, tx, 0)
    for _ in range(20):
        state, metrics = advance(state, batch)
    assert metrics["accuracy"] == 1.0 and metrics["nll"] < 0.3
    assert metrics["load_LE"].shape == (1, tiny.E)
    forward = jax.jit(task.forward, static_argnums=4)
    made = forward(state.params, {}, batch, jax.random.key(0), False)
    assert made.nll.shape == (tiny.B,) and made.sums.targets == tiny.B


def test_the_loop_trains_it(tmp_path, monkeypatch):
    """And the run opens again: nothing on the way knows the decoder."""
    monkeypatch.setattr(prepare, "prepare", lambda config: toys.data())
    one = loop.sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "mesh_of", lambda run: one)
    run = dataclasses.replace(
        toys.run_config(train={"evaluators": ("loss",), "steps": 2}),
        architecture="classifier",
        model=dataclasses.replace(CONFIG, vocab_size=toys.V),
        objective=objectives.ObjectiveConfig(name="classification"),
    )
    result = loop.train(run, tmp_path)
    assert 0 <= result["test"]["accuracy"] <= 1 and result["test_nll"] > 0
    loaded = runs.load_run(tmp_path)
    assert loaded.run.model == run.model and int(loaded.state.step) == 2
