"""Three ways to train one model, tiny."""

import dataclasses
import json

import numpy as np
import pytest

from configs import hosted as configs
from experiments import hosted
from moe import errors
from moe.data import prepare
from tests.training import toys

SIZES = {"vocab_size": toys.V, "d_model": 8, "num_heads": 1, "d_head": 8, "d_ff": 16}
SHORT = {"steps": 16, "batch_size": 4, "seq_len": 16, "checkpoint_every": 16, "eval_every": 16}


@pytest.fixture
def config(monkeypatch):
    data = toys.data()
    domains = dict(data.domains)
    domains["train"] = (np.arange(len(data.tokens["train"])) % 4 > 0).astype(np.uint8)
    data = dataclasses.replace(data, domains=domains, domain_names=("code", "cloud_docs"))
    monkeypatch.setattr(prepare, "prepare", lambda config: data)
    found = configs.cpu()
    found.seeds = 1
    found.round = 2
    found.base.model.update(num_layers=1, **SIZES)
    found.base.data.update(vocab_size=toys.V, source=("code", "cloud_docs"))
    found.base.train.update(test_batches=1, **SHORT)
    found.base.optimizer.warmup_steps = 1
    found.experts.update(num_experts=4, d_ff=16)
    found.experts.options.groups = 2
    return found


def test_three_ways(config, tmp_path, capsys):
    """Less lies on the device, as much in all, and the loss is the same to the bit."""
    hosted.main(config, str(tmp_path))
    said = capsys.readouterr().out
    assert "Where experts rest makes no difference in 1 of 1 seeds" in said
    lines = (tmp_path / "hosted.jsonl").read_text().splitlines()
    mixed, here, away = (json.loads(line)["found"] for line in lines)
    assert away["device"] < here["device"] == mixed["device"]
    assert away["host"] > here["host"] == mixed["host"] == 0
    assert (tmp_path / "hosted.png").exists()
    hosted.main(config, str(tmp_path))  # nothing is trained again
    assert capsys.readouterr().out == said


def test_rounds_that_do_not_fit(config, tmp_path):
    config.round = 3
    with pytest.raises(errors.UserError, match="config.round=3 must divide train.steps=16"):
        hosted.main(config, str(tmp_path))
