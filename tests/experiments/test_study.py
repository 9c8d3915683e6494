"""The study end to end on a corpus of a few hundred words."""

import dataclasses
import json

import pytest

from configs import scaling as config_file
from configs import train as train_config
from experiments import horizons, records, scaling, study
from moe import errors, schema, sealed
from moe.data import prepare
from moe.training import loop, metrics, signals, workdirs
from moe.training.config import MeshConfig, RunConfig

TINY = {"d_model": 8, "num_heads": 2, "d_head": 4, "d_ff": 64, "vocab_size": 300, "num_layers": 1}


def tiny():
    """The demo's config, made small enough for a test."""
    config = config_file.get_config("demo")
    config.jobs = 1
    config.base.model.update(TINY)
    config.base.data.vocab_size = 300
    config.base.train.update(
        steps=4, batch_size=8, seq_len=8, eval_every=2, eval_batches=1, log_every=1,
        test_batches=1, checkpoint_every=2, evaluators=("loss",),
    )  # fmt: skip
    config.base.optimizer.warmup_steps = 1
    config.experts.group_size = 8
    config.shorter = ()
    config.variants = {
        "dense": {},
        "e2": config_file.experts(2),
        "e2_random": config_file.experts(2, **config_file.RANDOM),
        "dense_2x": {"flops": 2.0},
    }
    return config


def test_study_runs_resumes_and_reports(data, root, monkeypatch, capsys):
    runs = scaling.variants(tiny())
    assert "residual mismatch" in capsys.readouterr().out
    runs = {name: runs[name] for name in ("dense", "e2_random")}
    train = loop.train
    monkeypatch.setattr(loop, "train", fails_at("e2_random", train))
    with pytest.raises(RuntimeError, match="power cut"):
        study.run(runs, root, range(1), 1)
    kept = [json.loads(line) for line in (root / "results.jsonl").read_text().splitlines()]
    assert [r["variant"] for r in kept] == ["dense"]

    trained = []
    monkeypatch.setattr(loop, "train", lambda *a, **k: (trained.append(a[2]), train(*a, **k))[1])
    records = study.run(runs, root, range(1), 1)
    assert [r["variant"] for r in records] == ["dense", "e2_random"]
    assert all(0 < r["step_seconds_least"] <= r["step_seconds"] for r in records)
    assert [{k: r[k] for k in before} for r, before in zip(records, kept, strict=False)] == kept
    scaling.report(records, root, 60.0)
    assert (root / "scaling.png").exists()
    assert "e2_random" in (root / "table.md").read_text()

    trained.clear()
    monkeypatch.setattr(prepare, "prepare", lambda config: pytest.fail("finished, yet data wanted"))
    monkeypatch.setattr(loop, "mesh_of", lambda run: pytest.fail("finished, yet devices wanted"))
    assert study.run(runs, root, range(1), 1) == records
    assert trained == []
    changed = {name: run.replace(train={"steps": 8}) for name, run in runs.items()}
    with pytest.raises(ValueError, match=r"train.steps: it has 4, you gave 8"):
        study.run(changed, root, range(1), 1)


def test_shorter_runs_share_their_first_steps(data, root, monkeypatch):
    """And every one ends as it would alone, its log and a router's state included."""
    config = tiny()
    config.variants = {"e2": config_file.experts(2, k=1, router="sigmoid")}
    config.shorter = (0.75,)
    config.base.optimizer.decay_fraction = 0.4
    runs = scaling.variants(config)
    assert list(runs) == ["e2@3", "e2"]
    trained = []
    advance = loop.batch
    monkeypatch.setattr(loop, "batch", lambda *args: (trained.append(args[2]), advance(*args))[1])
    monkeypatch.setattr(study, "_time_steps", lambda *args: None)
    records = study.run(runs, root, range(1), 1)
    # Batch 0 is made to compile for, too.
    assert sorted(i for i in trained if i) == [1, 2, 2, 3]
    assert [(r["variant"], r["steps"]) for r in records] == [("e2", s) for s in (3, 4)]
    for name, run in runs.items():
        loop.train(run, root / "alone" / name)
        here, alone = (metrics.read(p / "metrics.jsonl") for p in folders(root, name))
        assert [_untimed(r) for r in here] == [_untimed(r) for r in alone]
        here, alone = (json.loads((p / "result.json").read_text()) for p in folders(root, name))
        assert here["test"] == alone["test"]


def folders(root, name):
    return root / name / "seed0", root / "alone" / name


def _untimed(record):
    return {key: value for key, value in record.items() if key != "seconds"}


def test_an_interrupted_handing_on_is_made_up_for(data, root, monkeypatch):
    """A run that was killed between its checkpoint and the handing on hands on when it goes on."""
    config = tiny()
    config.variants = {"dense": {}}
    config.shorter = (0.5,)
    config.base.optimizer.decay_fraction = 0.5
    runs = scaling.variants(config)
    paths = [root / name / "seed0" for name in runs]
    with pytest.raises(signals.Stopped):
        loop.train(runs["dense@2"], paths[0], stop=lambda step: step == 1)
    paths[1].mkdir(parents=True)
    heir = horizons.Heir(runs["dense"], paths[1])
    with monkeypatch.context() as patched, pytest.raises(OSError, match="killed"):
        patched.setattr(horizons.shutil, "copytree", killed)
        horizons.train(runs["dense@2"], paths[0], "short", 0, loop.never, heir)
    begun = {path.name for path in paths[1].iterdir()}
    assert not begun & {"checkpoints", "checksums"}  # the heir may start, or be handed to again
    horizons.train(runs["dense@2"], paths[0], "short", 0, loop.never, heir)
    assert [path.name for path in (paths[1] / "checkpoints").iterdir()] == ["1"]
    with pytest.raises(signals.Stopped, match="at step 3"):
        horizons.train(runs["dense"], paths[1], "long", 0, lambda step: step == 3, None)


def killed(*paths):
    raise OSError("killed")


def test_a_study_can_grow_by_a_variant(data, root):
    """Of runs too short for a log line, which have no routing to report."""
    runs = {n: r.replace(train={"log_every": 9}) for n, r in scaling.variants(tiny()).items()}
    (first,) = study.run({"dense": runs["dense"]}, root, range(1), 1)
    both = study.run({name: runs[name] for name in ("dense", "e2_random")}, root, range(1), 1)
    assert [r["variant"] for r in both] == ["dense", "e2_random"]
    assert all(r["step_seconds"] > 0 and r["train_routing"] == {} for r in both)
    assert both[0]["test_nll"] == first["test_nll"]

    (root / "dense" / "seed0" / "data.json").unlink()
    with pytest.raises(ValueError, match=r"dense.seed0 has a result.json but no data.json"):
        study.run({name: runs[name] for name in ("dense", "e2")}, root, range(1), 1)


def test_a_study_goes_on_elsewhere_from_its_records_alone(data, root, monkeypatch):
    """A line says by which config, on which data; one of another is refused, none is lost."""
    runs = {name: run for name, run in scaling.variants(tiny()).items() if name != "dense_2x"}
    dense = {"dense": runs["dense"]}
    (before,) = study.run(dense, root / "here", range(1), 1)
    there = root / "there"
    there.mkdir()
    (there / "earlier.jsonl").write_text((root / "here" / "results.jsonl").read_text())
    trained = []
    train = loop.train
    monkeypatch.setattr(loop, "train", lambda *a, **k: (trained.append(a[2]), train(*a, **k))[1])
    monkeypatch.setattr(study, "_time_steps", lambda *args: None)
    some = {name: runs[name] for name in ("dense", "e2_random")}
    both = study.run(some, there, range(1), 1, documents=False)
    assert trained == ["e2_random seed 0"]
    known = [{k: v for k, v in r.items() if k not in records.TIMED} for r in (before, both[0])]
    documents = [k for k in before if k.startswith("test_documents")]
    assert len(documents) == 3
    assert known[1] == {k: v for k, v in known[0].items() if k not in documents}
    changed = {"dense": runs["dense"].replace(optimizer={"learning_rate": 0.5})}
    with pytest.raises(errors.UserError, match=r"learning_rate: it has 0.016, you gave 0.5"):
        study.run(changed, there, range(1), 1)
    (there / "earlier.jsonl").write_text(json.dumps(before | {"data": {}}) + "\n")
    with pytest.raises(errors.UserError, match="dense with seed 0 on other data"):
        study.run(runs, there, range(1), 1)
    with pytest.raises(errors.UserError, match="dense with seed 1 on other data"):
        one, two = {("dense", 0): {"data": 1}}, {("dense", 1): {"data": 2}}
        records.require_data(one | two, None)
    (there / "earlier.jsonl").write_text("{")
    with pytest.raises(errors.UserError, match="earlier.jsonl is damaged"):
        study.run(runs, there, range(1), 1)


def test_an_earlier_run_that_started_from_that_of_its_seed(tmp_path):
    run = scaling.variants(tiny())["dense"].replace(init_from={"workdir": "in/seed{seed}"})
    workdirs.claim(records.seeded(run, 2), tmp_path)
    config = sealed.read_json(tmp_path / "config.json")
    assert config["init_from"]["workdir"] == "in/seed2"
    record = {"variant": "x", "seed": 2, "config": config, "data": {}}
    records._require_same(record, run, tmp_path)
    with pytest.raises(errors.UserError, match="x with seed 3 is of another config"):
        records._require_same(record | {"seed": 3}, run, tmp_path)


def test_a_diverging_run_does_not_keep_the_others_from_training(root, monkeypatch):
    runs = scaling.variants(tiny())
    trained = []

    def train(run, path, name, *args):
        if name.startswith("dense "):
            raise errors.NotFiniteError(f"{name}: validation loss is nan")
        trained.append(name)

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(records, "collect", lambda *args, **kwargs: [])
    for name in runs:
        (root / name / "seed0").mkdir(parents=True)
    with pytest.raises(FloatingPointError, match="^dense seed 0: validation loss is nan$"):
        study._work(0, runs, root, range(1))
    assert trained == ["dense_2x seed 0", "e2 seed 0", "e2_random seed 0"]


def fails_at(variant, train):
    def failing(run, path, name, *args):
        if name.startswith(variant + " "):
            raise RuntimeError("power cut")
        return train(run, path, name, *args)

    return failing


def test_costs_are_matched_and_honest(data):
    runs = scaling.variants(tiny())
    costs = {name: records.cost(run) for name, run in runs.items()}
    dense = costs["dense"]["executed_flops"]
    assert abs(costs["e2"]["executed_flops"] / dense - 1) < 0.01
    assert abs(costs["e2_random"]["executed_flops"] / dense - 1) < 0.01
    assert abs(costs["dense_2x"]["executed_flops"] / dense - 2) < 0.01
    assert costs["e2"]["ideal_flops"] < costs["e2"]["executed_flops"]
    assert sum(costs["e2"]["executed_parts"].values()) == costs["e2"]["executed_flops"]


@pytest.mark.parametrize("size", ["ladder", "gpu"])
def test_every_size_matches_at_full_size(size):
    """The largest of the experts, and the dense models."""
    config = config_file.get_config(size)
    most = "e64_top1" if size == "ladder" else "e256_top2"
    doubled = config_file.DOUBLED.keys() & config.variants.keys()
    assert len(doubled) == (1 if size == "ladder" else 3)
    some = ("dense", *doubled, most)
    config.variants = {name: config.variants[name] for name in some}
    config.shorter = ()
    costs = {name: records.cost(run) for name, run in scaling.variants(config).items()}
    for name, cost in costs.items():
        times = 2 if name in config_file.DOUBLED else 1
        for count in ("executed_flops", "eval_flops"):
            assert abs(cost[count] / costs["dense"][count] / times - 1) < 0.01, name


def test_the_configs_run_on_eight_devices():
    """The commands of the docs: train.py on 2 x 4, and models of :gpu over all devices."""
    run = schema.from_config_dict(RunConfig, train_config.get_config())
    assert loop.mesh_of(dataclasses.replace(run, mesh=MeshConfig(data=2, expert=4))).size == 8
    config = config_file.get_config("gpu")
    config.variants = {name: config.variants[name] for name in ("dense", "e4_top1", "e256_top2")}
    for run in scaling.variants(config).values():
        assert loop.mesh_of(run).size == 8


def test_unknown_size_and_variant_are_refused():
    with pytest.raises(ValueError, match="'demo', 'cpu', 'ladder', 'pilots', 'gpu'"):
        config_file.get_config("huge")
    config = tiny()
    config.variants = {"dense": {}, "odd": {"layers": 3}}
    with pytest.raises(ValueError, match=r"variants.odd has \['layers'\]"):
        scaling.variants(config)
    config.variants = {"dense": {}, "odd": {"flops": 2.0, "experts": {"num_experts": 4}}}
    with pytest.raises(ValueError, match=r"variants.odd has \['experts', 'flops'\]: keep one"):
        scaling.variants(config)
    config.variants = {"dense": {}, "odd": {"parameters_of": "e3"}}
    with pytest.raises(ValueError, match="variants.odd.parameters_of='e3' is not one of 'dense'"):
        scaling.variants(config)
    config.variants = {"dense": {}, "odd": {"experts": {"num_experts": 4, "jiter": 0.1}}}
    with pytest.raises(ValueError, match="variants.odd.experts.jiter: did you mean .*jitter"):
        scaling.variants(config)
    config.variants = {"dense": {}, "odd": {"experts": {"num_experts": 4.0}}}
    with pytest.raises(ValueError, match="variants.odd.experts.num_experts=4.0 must be a int"):
        scaling.variants(config)


def test_a_study_that_cannot_run_is_refused_at_once(data, root):
    runs = scaling.variants(tiny())
    for seeds, jobs in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="there must be seeds and jobs"):
            study.run(runs, root, range(seeds), jobs)
    root.mkdir()
    with study._alone(root), pytest.raises(ValueError, match="run by another process"):
        study.run(runs, root, range(1), 1)


def test_train_config_is_complete():
    """Every field stands in the config, so that every field can be overridden by a flag."""
    config = train_config.get_config()
    run = schema.from_config_dict(RunConfig, config)
    assert json.dumps(schema.to_dict(run), sort_keys=True) == json.dumps(
        json.loads(config.to_json()), sort_keys=True
    )
