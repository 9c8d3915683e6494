"""Subsets of a study's models, fine-tuned: what is run, what is measured, and the tables."""

import contextlib
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import pytest

from configs import finetune_subsets as configs
from experiments import finetune_subsets, opened, pretrained, records, study
from moe import errors
from moe.adapt import finetune
from moe.analysis import finetune_subsets as tables
from moe.data import instructions, questions, tokenizer
from moe.evaluation import few_shot
from moe.training import checkpoint, workdirs
from moe.training import runs as folders
from moe.training.config import MeshConfig
from tests import tiny
from tests.training import toys

ASKED = [
    questions.Question((f"Q{i}",) * 2, (" yes", " no"), i % 2, ("Q no",) * 5) for i in range(40)
]


@pytest.fixture
def config():
    """One model of one seed, one task, one rate."""
    found = configs.cpu()
    found.seeds = 1
    found.update(jobs=1, models=("dense",), tasks=("piqa",), rates=(0.01,), questions=3)
    found.tuned.train.update(steps=4, eval_every=2, eval_batches=1, test_batches=1)
    found.tuned.optimizer.warmup_steps = 1
    return found


@pytest.fixture
def toy(monkeypatch, tmp_path):
    words = tokenizer.train(["abc"], vocab_size=toys.V, max_bytes=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders.prepare, "prepare", lambda config: toys.data())
    monkeypatch.setattr(tokenizer, "load", lambda path: words)
    monkeypatch.setattr(questions, "read", read)
    instructions.tasks.cache_clear()
    yield
    instructions.tasks.cache_clear()


def dense():
    sparse = toys.run_config()
    return dataclasses.replace(sparse.replace(model={"experts": None}), mesh=MeshConfig())


def start(name, run):
    return pretrained.at_end(run, pathlib.Path("source") / name)


def read(name, limit=0, split="all"):
    del name
    return [q for i, q in enumerate(ASKED) if i % 10 in questions.SPLITS[split]][: limit or None]


@pytest.mark.usefixtures("toy")
def test_a_model_is_measured_before_and_after_once(config, monkeypatch, capsys):
    monkeypatch.setattr(finetune, "subsets_of", lambda model: ["all"])
    saved(dense(), pathlib.Path("source/dense/seed0"), 1.0)
    monkeypatch.setattr(pretrained, "starts", lambda config: {"dense": start("dense", dense())})
    monkeypatch.setattr(study, "run", run)
    monkeypatch.setattr(few_shot, "evaluate", asked)
    monkeypatch.setattr(opened, "reader", lambda path: path)
    finetune_subsets.main(config, "tuned")
    before, after = capsys.readouterr().out.split("| piqa | dense | ")[1:]
    assert before.startswith("nothing | ") and after.startswith("all | 100.0% | 100% | 0.01 (edge)")
    loss = {cell.split(" | ")[0]: float(cell.split(" | ")[4]) for cell in (before, after)}
    assert loss["all"] != loss["nothing"]
    assert " | 25.0% | " in before and " | 50.0% | " in after
    assert pathlib.Path("tuned/finetune_subsets.png").stat().st_size > 5000
    monkeypatch.setattr(folders, "load_run", lambda path: pytest.fail("measured again"))
    finetune_subsets.main(config, "tuned")


def run(runs, root, seeds, jobs, timed):
    """A study whose runs all end with other parameters than they began with."""
    assert (list(seeds), jobs, timed) == ([0], 1, False)
    for name, one in runs.items():
        saved(one, root / name / "seed0", 0.5)
    return [
        {"variant": name, "seed": 0, "executed_flops": 1.0, "curve_nll": [2.0]} for name in runs
    ]


def saved(run, path, scale):
    workdirs.claim(run, path, toys.data())
    state = tiny.state(run.model, run.tx)
    params = jax.tree.map(lambda x: scale * x, state.params)
    with contextlib.closing(checkpoint.Checkpoints(path)) as checkpoints:
        checkpoints.save(3, state._replace(step=jnp.int32(3), params=params), 1.0)


def asked(name, shots, found, path):
    """In place of `few_shot.evaluate`; of the test split the first questions are asked."""
    assert (name, shots, found) == ("piqa", 0, ASKED[9:40:10][:3])
    right = {"acc": few_shot.Mean({"source": 0.25, "tuned": 0.5}[path.parts[0]], 0.0)}
    return few_shot.Result(name, shots, 3, 0.0, right, few_shot.Mean(1.0, 0.0), [])


def test_runs_start_from_the_model_of_their_seed(config):
    """A model has the subsets that its parameters allow."""
    starts = {"dense": start("dense", dense()), "e4": start("e4", toys.run_config())}
    runs = finetune_subsets.tuned(config, starts)
    found = {model: {c.subset for c in runs if c.model == model} for model in starts}
    subsets = {"all", "non_moe", "moe", "attention"}
    assert found == {"dense": {"all", "attention", "ffn"}, "e4": subsets}
    for cell, run in runs.items():
        assert run.optimizer.frozen == finetune.SUBSETS[cell.subset]
        assert run.objective.options.tasks == (cell.task,) and run.train.steps == 4
        assert records.seeded(run, 2).init_from.workdir == f"source/{cell.model}/seed2"
    config.rates = ()
    with pytest.raises(errors.UserError, match="rates is empty"):
        finetune_subsets.tuned(config, starts)


def found(model, subset, seed, test, rate=0.01):
    return {
        "task": "cb", "model": model, "subset": subset, "rate": rate, "seed": seed,
        "test_nll": test + seed, "validation_nll": test + 0.3, "train_nll": test, "right": 0.5,
    }  # fmt: skip


def trained(one, rate, curve):
    flops = 3.0 if one["subset"] == "all" else 2.0
    return one | {"rate": rate, "curve_nll": curve, "share": 0.25, "executed_flops": flops}


FOUND = [
    one
    for s in range(3)
    for one in (
        found("dense", "nothing", s, 4.0, 0.0),
        found("dense", "all", s, 2.0),
        found("e8", "nothing", s, 3.8, 0.0),
        found("e8", "all", s, 1.7),
        found("e8", "moe", s, 1.9 + s / 100),
    )
]
TRAINED = [
    trained(one, rate, [2.5, 2.0, 2.1 + abs(rate - 0.01) - (one["seed"] - 1) * 2 * rate])
    for one in FOUND
    for rate in (0.001, 0.01, 0.02)
    if one["subset"] != "nothing"
]


def test_rates_are_chosen_by_validation():
    """By the mean over seeds, of which the last would choose another one."""
    assert set(tables.chosen(TRAINED).values()) == {0.01}
    last = [one for one in TRAINED if one["seed"] == 2]
    assert set(tables.chosen(last).values()) == {0.02}


def test_the_tables():
    rows = tables.table(FOUND, TRAINED).splitlines()[2:]
    assert (
        rows[0]
        == "| cb | dense | nothing |  |  |  | 5.0000 |  |  | 50.0% | 4.0000 | +0.3000 ± 0.0000 |  |"
    )
    assert rows[4] == (
        "| cb | e8 | moe | 25.0% | 67% | 0.01 | 2.9100 | +0.2100 ± 0.0248 | +1.8900 ± 0.0248"
        " | 50.0% | 1.9100 | +0.3000 ± 0.0000 | 0.1000 |"
    )
    edge = [one | {"rate": 0.02} if one["subset"] == "moe" else one for one in FOUND]
    assert "| 0.02 (edge) |" in tables.table(edge, TRAINED)
    gains = tables.gains_table(FOUND).splitlines()
    assert gains[0] == "| task | trained | e8 over dense |"
    assert gains[2:] == ["| cb | all | +0.1000 ± 0.0000 |"]


def test_the_figure(tmp_path):
    tables.drawn(FOUND).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
