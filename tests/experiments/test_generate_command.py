"""Text from the folder of a run."""

import contextlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import agreement, generate
from moe import schema
from moe.data import tokenizer
from moe.training import checkpoint, loop, runs
from tests import tiny
from tests.training import toys


@pytest.fixture
def run(monkeypatch):
    """A run on the toy corpus whose tokenizer knows bytes alone."""
    words = tokenizer.train(["abc"], vocab_size=toys.V, max_bytes=3)
    monkeypatch.setattr(runs.prepare, "prepare", lambda config: toys.data())
    monkeypatch.setattr(generate.tokenizer, "load", lambda path: words)
    return toys.run_config()


def trained(run, workdir):
    """A checkpoint of random parameters, in a folder as a run leaves it."""
    loop.claim_workdir(run, workdir, toys.data())
    with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
        checkpoints.save(3, tiny.state(run.model, run.tx)._replace(step=jnp.int32(3)), 1.0)


def test_every_prompt_is_continued(run, tmp_path, capsys):
    trained(run, tmp_path)
    generate.main(str(tmp_path), ["ab", "hello"], 5)
    said = capsys.readouterr().out
    assert said.startswith("ab") and "\n\nhello" in said and "10 tokens in" in said


def test_what_a_router_does_in_training_is_set_beside_what_it_is_judged_by(run, tmp_path):
    """Top-1 does the same, BASE does not."""
    found = {}
    for name in ("top_k", "base"):
        experts = tiny.moe_config(router=name, capacity_factor=4.0, eval_capacity_factor=4.0)
        one = run.replace(model={"experts": experts, "allow_noncausal": True})
        trained(one, tmp_path / name)
        agreement.main(str(tmp_path / name), batches=2)
        found[name] = json.loads((tmp_path / name / "agreement.json").read_text())
    same = found["top_k"]
    other = found["base"]
    assert same["agreement"] == 1 and same["batches"] == 2
    np.testing.assert_allclose(same["nll_by_training_rule"], same["nll_by_evaluation_rule"])
    assert 0.2 < other["agreement"] < 0.95
    assert other["nll_by_training_rule"] != other["nll_by_evaluation_rule"]


def test_what_is_missing_is_named(run, tmp_path):
    with pytest.raises(ValueError, match="has no config.json"):
        runs.load_run(tmp_path)
    loop.claim_workdir(run, tmp_path, toys.data())
    written = json.loads((tmp_path / "config.json").read_text())["model"]
    assert written | {"scan_unroll": 0} == schema.to_dict(run.model)  # but for a choice of speed
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        runs.load_run(tmp_path)


def test_domains_are_named_where_they_are_read(run):
    with pytest.raises(ValueError, match="no router reads it"):
        generate.domains(run, toys.data(), "toy", 2)
    experts = tiny.moe_config(router="domain", capacity_factor=4.0)
    reading = run.replace(model={"experts": experts})
    assert generate.domains(reading, toys.data(), "toy", 2).tolist() == [0, 0]
    with pytest.raises(ValueError, match="--domain=None is not one of 'toy'"):
        generate.domains(reading, toys.data(), None, 2)
