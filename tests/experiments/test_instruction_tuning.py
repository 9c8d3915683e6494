"""Rounds of a study that start from each other, what is asked of their ends, and the table."""

import pathlib

import pytest

from configs import instruction_tuning as configs
from experiments import instruction_tuning, looks, opened, pretrained, study
from moe import errors, schema
from moe.analysis import instruction_tuning as tables
from moe.data import instructions, prepare, questions, tokenizer
from moe.evaluation import few_shot, held_out
from moe.training.config import RunConfig
from tests.experiments import test_study
from tests.experiments.test_evaluate_command import ASKED, trained
from tests.training import toys

BEST = "0_008"


@pytest.fixture
def config():
    instructions.tasks.cache_clear()
    found = configs.demo()
    found.pretrained = test_study.tiny()
    found.pretrained.base.data.vocab_size = found.pretrained.base.model.vocab_size = toys.V
    found.pretrained.match = "ideal"
    del found.pretrained.variants["e2_random"], found.pretrained.variants["dense_2x"]
    found.models = ("dense", "e2")
    yield found
    instructions.tasks.cache_clear()


def ended(runs, root, seeds, jobs, **how):
    """Records of a study that is not run; one rate is the best."""
    del root, jobs, how
    return [
        {"variant": name, "seed": seed, "learning_rate": run.optimizer.learning_rate,
         "executed_flops": 5.0, "curve_nll": [9.0, 1.0 if name.endswith(BEST) else 2.0]}
        for name, run in runs.items() for seed in seeds
    ]  # fmt: skip


def test_each_round_starts_where_the_one_before_ended(config, tmp_path, monkeypatch, capsys):
    rounds = []
    monkeypatch.setattr(
        study, "run", lambda runs, *how, **more: (rounds.append(runs), ended(runs, *how))[1]
    )
    monkeypatch.setattr(instruction_tuning, "measured", lambda *given: everything(config))
    instruction_tuning.main(config, str(tmp_path))
    before, first, last = rounds
    assert set(before) == set(config.pretrained.variants)
    assert len(first) == 2 * 2 * 3 and len(last) == 2 * 3 * 3
    said = {
        "e2_tuned": ("runs/scaling_demo/e2", config.held_in),
        "e2_direct_piqa": ("runs/scaling_demo/e2", config.single),
        "e2_then_piqa": (f"{tmp_path}/e2_tuned_lr_{BEST}", config.single),
    }
    for name, (start, tasks) in said.items():
        for rate in config.alone.rates:
            run = last[f"{name}_lr_{rate}".replace(".", "_")]
            assert run.init_from.workdir == f"{start}/seed{{seed}}"
            assert run.objective.options.tasks == tasks
            assert run.optimizer.learning_rate == rate
            assert run.model == before["e2"].model
    assert "| single | then |" in capsys.readouterr().out
    assert (tmp_path / "instruction_tuning.png").stat().st_size > 10_000


def found(model, cell, task, seed, nll):
    of = {"model": model, "cell": cell, "task": task, "seed": seed}
    return of | {"nll": nll, "scores": {"acc": {"mean": 0.5}}}


def everything(config):
    return [
        found(model, cell, task, 0, 1.0)
        for model in config.models
        for cell in tables.CELLS
        for tasks in instruction_tuning.groups(config).values()
        for task in tasks
    ]


def test_every_end_is_asked_once(config, tmp_path, monkeypatch):
    """Each in its folder; the loss is that of training's evaluation, and nothing is asked again."""
    words = tokenizer.train(["abc"], vocab_size=toys.V, max_bytes=3)
    monkeypatch.setattr(prepare, "prepare", lambda config: toys.data())
    monkeypatch.setattr(tokenizer, "load", lambda path: words)
    monkeypatch.setattr(questions, "read", lambda name, limit=0, split="all": ASKED)
    monkeypatch.setattr(study, "run", ended)
    config.models, config.held_in, config.held_out = ("dense",), ("copa",), ()
    starts = pretrained.starts(config)
    run = instruction_tuning.single(config, starts, "then")[f"dense_then_piqa_lr_{BEST}"]
    trained(run.replace(init_from={"workdir": ""}), tmp_path / "one")
    reader = opened.reader(tmp_path / "one")
    paths = []
    monkeypatch.setattr(opened, "reader", lambda path: (paths.append(path), reader)[1])
    monkeypatch.setattr(looks, "require_checkpoint", lambda path: None)
    monkeypatch.setattr(few_shot, "evaluate", answered)
    names = [f"dense_{name}" for name in ("tuned", "direct_piqa", "then_piqa")]
    given = config, starts, {name: f"{name}_best" for name in names}, tmp_path
    asked = instruction_tuning.measured(*given)
    assert [(one["cell"], one["task"]) for one in asked] == [
        ("pretrained", "piqa"), ("pretrained", "copa"), ("tuned", "piqa"),
        ("tuned", "copa"), ("direct", "piqa"), ("then", "piqa"),
    ]  # fmt: skip
    of_rounds = [tmp_path / f"{name}_best" / "seed0" for name in names]
    assert paths == [pathlib.Path("runs/scaling_demo/dense/seed0"), *of_rounds]
    want = held_out.loss(run, toys.data(), "test").evaluate(reader)["nll"]
    assert asked[-1]["nll"] == pytest.approx(float(want), rel=1e-6)
    assert asked[-1]["scores"] == {"acc": {"mean": 0.25, "error": 0.1}}
    assert instruction_tuning.measured(*given) == asked and len(paths) == 4


def answered(name, shots, asked, reader):
    assert (shots, asked) == (0, ASKED)
    mean = few_shot.Mean(0.25, 0.1)
    return few_shot.Result(name, shots, 4, 0.0, {"acc": mean}, mean, [])


def test_the_tables():
    """Experts are worse by 0.2 directly and better by 0.1 after, on both tasks and seeds alike."""
    losses = {"direct": (3.0, 3.2), "then": (2.9, 2.8)}
    asked = [
        found(model, cell, task, seed, nll + seed + (task == "b"))
        for cell, pair in losses.items()
        for model, nll in zip(("dense", "e8"), pair, strict=True)
        for task in "ab"
        for seed in range(3)
    ]
    rows = tables.cells_table(asked, {"a": "a", "both": "ab"}).splitlines()[2:]
    assert rows[0] == "| a | direct | 4.0000 | 50.0% | 4.2000 | 50.0% | +0.2000 ± 0.0000 |"
    assert rows[3] == "| both | then | 4.4000 | 50.0% | 4.3000 | 50.0% | -0.1000 ± 0.0000 |"
    moved = tables.changes_table(asked, {"both": "ab"}).splitlines()[2:]
    assert moved == ["| both | e8 |  | -0.3000 ± 0.0000 |"]


def test_the_best_rate_may_be_at_an_edge():
    def record(cell, rate, seed, nll):
        name = f"{cell}_lr_{rate}".replace(".", "_")
        of = {"variant": name, "seed": seed, "learning_rate": rate, "executed_flops": 1e6}
        return of | {"curve_nll": [0.0, nll]}

    records = [record("dense_tuned", r, s, 2 + s + r) for r in (0.1, 0.2, 0.4) for s in range(2)]
    records += [record("e8_tuned", r, 0, abs(r - 0.2)) for r in (0.1, 0.2, 0.4)]
    records += [record("e8_then_copa", r, 0, r) for r in (0.2, 0.4)]
    assert tables.best(records) == {
        "dense_tuned": "dense_tuned_lr_0_1",
        "e8_tuned": "e8_tuned_lr_0_2",
        "e8_then_copa": "e8_then_copa_lr_0_2",
    }
    rows = tables.rates_table(records).splitlines()[2:]
    assert rows[0] == "| dense_tuned | 2.6000 | 2.7000 | 2.9000 | 0.1, at the edge | 1e+06 |"
    assert rows[1].endswith("| 0.2 | 1e+06 |")
    assert rows[2] == "| e8_then_copa |  | 0.2000 | 0.4000 | 0.2, at the edge | 1e+06 |"


def test_runs_of_the_whole_size():
    """A tenth of the steps warms up; all held-out questions judge, and no example stands before."""
    config = configs.cpu()
    base = schema.from_config_dict(RunConfig, config.pretrained.base)
    made = instruction_tuning.single(config, {"dense": base}, "direct")
    assert len(made) == 2 * 4
    for run in made.values():
        assert (run.train.steps, run.optimizer.warmup_steps) == (120, 12)
        assert (run.train.test_batches, run.objective.options.shots) == (0, 0)
    made = instruction_tuning.tuned(config, {"dense": base})
    assert {run.train.steps for run in made.values()} == {600}


def test_what_cannot_be(config):
    kinds = {"single", "held in", "held out"}
    assert set(instruction_tuning.groups(configs.demo())) == kinds
    assert set(instruction_tuning.groups(configs.cpu())) == kinds | set(configs.cpu().single)
    config.held_out = config.single
    with pytest.raises(errors.UserError, match="held_out share piqa: keep each in one"):
        instruction_tuning.groups(config)
    config.seeds = 2
    with pytest.raises(errors.UserError, match=r"seeds \[0, 1\] start from pretrained ones"):
        pretrained.starts(config)
    config.seeds, config.models = 1, ("e7",)
    with pytest.raises(errors.UserError, match="models='e7' is not one of"):
        pretrained.starts(config)
