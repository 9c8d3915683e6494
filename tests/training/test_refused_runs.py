"""Runs that are refused, and workdirs that belong to others."""

import dataclasses
import json
import shutil

import pytest

from moe import errors, sealed
from moe.training import (
    divergence,
    files,
    loop,
    metrics,
    workdirs,
)
from tests import tiny
from tests.training import toys

pytestmark = pytest.mark.usefixtures("programs")


def test_a_run_on_other_data_is_refused(whole, tmp_path, data, monkeypatch):
    """The same config, but the text behind it changed: no resuming, no pairing."""
    root = tmp_path / "other"
    shutil.copytree(whole.workdir, root)
    (root / "result.json").unlink()
    other = dataclasses.replace(data, meta={"files": {"train.npy": {"sha256": "other"}}})
    monkeypatch.setattr(loop.prepare, "prepare", lambda config: other)
    with pytest.raises(
        ValueError, match="another data.*\n.*train.npy: it has 'toy', you gave 'other'"
    ):
        loop.train(toys.run_config(), root)


def test_a_finished_run_of_another_config_is_refused(whole):
    other = toys.run_config(optimizer={"learning_rate": 0.5}, train={"seed": 3})
    with pytest.raises(ValueError, match="belongs to another config") as error:
        loop.train(other, whole.workdir)
    assert "optimizer.learning_rate: it has 0.01, you gave 0.5" in str(error.value)
    assert "train.seed: it has 0, you gave 3" in str(error.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"mesh": {"data": 3, "expert": 1}},
            "mesh data=3, expert=1, model=1 does not fit 8 devices",
        ),
        ({"train": {"batch_size": 12}}, "batch_size / accumulate=12 is not divisible .*=8"),
        (
            {"train": {"batch_size": 16, "accumulate": 4}},
            "batch_size / accumulate=4 is not divisible .*=8",
        ),
        ({"mesh": {"data": 1, "expert": 8}}, "num_experts=4 is not divisible .*expert=8"),
        (
            {"model": {"experts": tiny.moe_config(group_size=16)}},
            r"groups .*=4 is not divisible .*=8",
        ),
    ],
    ids=["devices", "batch", "micro-batch", "experts", "groups"],
)
def test_what_does_not_fit_the_mesh_is_refused_with_numbers(sections, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        loop.train(toys.run_config(**sections), tmp_path)


def test_a_config_of_older_code_is_still_known(whole, tmp_path):
    """A field that came later has its default; the mesh is not part of what a run is."""
    shutil.copytree(whole.workdir, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    config = sealed.read_json(path)
    assert "mesh" not in config and config["model"].pop("num_kv_heads") == 0
    path.write_text(json.dumps({**config, "mesh": {"data": -1, "expert": 1}}))
    assert loop.train(toys.run_config(mesh={"data": 8, "expert": 1}), tmp_path) == whole.result
    config["model"]["num_heads"] = 4
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="model.num_heads: it has 4, you gave 2"):
        loop.train(toys.run_config(), tmp_path)


def test_a_refused_run_leaves_its_workdir_free(tmp_path, monkeypatch):
    """Who mends the mesh may go on under the same name: nothing was computed there."""
    with pytest.raises(ValueError, match="does not fit"):
        loop.train(toys.run_config(mesh={"data": 3, "expert": 1}), tmp_path)
    with pytest.raises(ValueError, match="train split has 6 rows of 64 tokens, at least 8"):
        loop.train(toys.run_config(train={"seq_len": 64}), tmp_path)
    monkeypatch.setattr(loop, "_train", lambda *args: {"steps": 0})
    assert loop.train(toys.run_config(), tmp_path) == {"steps": 0}


def test_a_run_that_ended_before_its_first_checkpoint_may_be_changed(tmp_path, monkeypatch):
    """Say to model.remat, as the error of a step too large for the memory advises."""
    monkeypatch.setattr(loop, "_train", lambda *args: refused())
    with pytest.raises(errors.UserError, match="too large"):
        loop.train(toys.run_config(), tmp_path)
    assert sealed.read_json(tmp_path / "config.json")["model"]["remat"] is False
    monkeypatch.setattr(loop, "_train", lambda *args: {"steps": 0})
    assert loop.train(toys.run_config(model={"remat": True}), tmp_path) == {"steps": 0}
    assert sealed.read_json(tmp_path / "config.json")["model"]["remat"] is True


def test_what_a_run_left_that_never_saved_is_no_other_s(tmp_path):
    """Its rewinds would move the other's data; its own it goes on with."""
    run = toys.run_config(train={"on_divergence": "rewind"})
    workdirs.claim(run, tmp_path, toys.data())
    sealed.write_json(tmp_path / "rewinds.json", {"rewinds": [(0, 1)]})
    workdirs.claim(run, tmp_path, toys.data())
    assert divergence.rewinds(tmp_path) == [(0, 1)]
    workdirs.claim(run.replace(train={"seed": 7}), tmp_path, toys.data())
    assert divergence.rewinds(tmp_path) == []
    assert sealed.read_json(tmp_path / "config.json")["train"]["seed"] == 7


def refused():
    raise errors.UserError("too large")


def test_a_model_that_no_memory_holds_is_refused(tmp_path, monkeypatch):
    """From shapes alone, before the data is prepared."""
    monkeypatch.setattr(loop.prepare, "prepare", lambda config: pytest.fail("data was wanted"))
    experts = tiny.moe_config(d_ff=10_000_000)
    absurd = toys.run_config(model={"d_model": 1_000_000, "experts": experts})
    with pytest.raises(ValueError, match="needs [0-9,.]+ GiB a device .* share of the host has"):
        loop.train(absurd, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_do_not_train_in_one_workdir(tmp_path):
    message = f"another process is training in {tmp_path}: wait"
    with files.lock(tmp_path / "train.lock"), pytest.raises(ValueError, match=message):
        loop.train(toys.run_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.lock"]


def test_where_the_data_lies_is_not_what_a_run_is(tmp_path, monkeypatch):
    """Prepared elsewhere, carried here, and trained on in the same workdir."""
    result = {"steps": 0, "seconds": 0.0}
    monkeypatch.setattr(loop, "_train", lambda *args: result)
    loop.train(toys.run_config(), tmp_path)
    moved = toys.run_config(data={"prepared_dir": "/elsewhere", "cache_dir": "/else"})
    assert loop.train(moved, tmp_path) == result


def test_a_dense_model_without_eval_or_log_in_between(tmp_path):
    """Three steps, none of which is due: the end is evaluated and saved nevertheless."""
    never = {"log_every": 100, "eval_every": 100, "checkpoint_every": 100, "steps": 3}
    run = toys.run_config(model={"experts": None}, train=never, mesh={"data": 8, "expert": 1})
    result = loop.train(run, tmp_path)
    (record,) = metrics.read(tmp_path / "metrics.jsonl")
    assert (record["step"], record["split"]) == (3, "validation")
    assert result["test"].keys() == {"loss", "nll"}
    assert toys.Run(tmp_path, result).state(run).step == 3


def test_more_domains_than_experts_are_refused(tmp_path, data, monkeypatch):
    many = dataclasses.replace(data, domain_names=tuple("abcde"))
    monkeypatch.setattr(loop.prepare, "prepare", lambda config: many)
    run = toys.run_config(model={"experts": tiny.moe_config(router="domain")})
    with pytest.raises(ValueError, match="'domain' has experts for 4 domains, and the data has 5"):
        loop.train(run, tmp_path)
