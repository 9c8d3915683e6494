"""The page of a run's folder, and of two."""

import contextlib
import dataclasses
import json

import jax.numpy as jnp
import pytest

from experiments import report
from moe import sealed
from moe.data import tokenizer
from moe.errors import UserError
from moe.training import checkpoint, runs, workdirs
from tests import tiny
from tests.training import toys


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """Toy data, whose tokenizer knows bytes alone."""
    found = tokenizer.train(["abc"], vocab_size=toys.V, max_bytes=3)
    monkeypatch.setattr(runs.prepare, "prepare", lambda config: toys.data())
    monkeypatch.setattr(report.tokenizer, "load", lambda path: found)


def trained(workdir, **changes):
    """Random parameters in a folder as a run leaves it."""
    run = toys.run_config(**changes)
    workdirs.claim(run, workdir, toys.data())
    with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
        checkpoints.save(3, tiny.state(run.model, run.tx)._replace(step=jnp.int32(3)), 1.0)
    return str(workdir)


def test_a_run_and_another_beside_it(tmp_path, capsys):
    folders = [trained(tmp_path / name) for name in ("a", "b")]
    line = {"step": 1, "split": "train", "loss": 5.0, "load_LE": [[0.1, 0.2, 0.3, 0.4]]}
    (tmp_path / "a" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    result = {"seconds": 60.0, "test_nll": 5.25, "test_bits_per_byte": 7.5, "test": {"unused": 0.5}}
    sealed.write_json(tmp_path / "a" / "result.json", result)
    out = tmp_path / "new" / "page.html"
    report.main(*folders, str(out), 128)
    text = out.read_text("utf-8")
    assert str(out) in capsys.readouterr().out
    for found in ("5.2500", "7.5000", "test: experts unused", "not finished", "4, top-2, sigmoid"):
        assert f">{found}<" in text
    assert "Loads of experts, MoE layer 0" in text
    content = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert [one["expert"]["shape"] for one in content["runs"]] == [[1, 2, 128]] * 2
    ends = [f"{tmp_path.name}/a", f"{tmp_path.name}/b"]
    assert [one["name"] for one in content["runs"]] == ends
    assert "<doc>" in content["text"]["shown"]


def test_a_dense_run_gets_no_explorer(tmp_path, capsys):
    dense = trained(tmp_path / "dense", model={"experts": None})
    report.main(dense, "", str(tmp_path / "page.html"), 64)
    assert "no explorer" in capsys.readouterr().out
    assert "no explorer" in (tmp_path / "page.html").read_text("utf-8")
    sparse = trained(tmp_path / "sparse")
    with pytest.raises(UserError, match="dense: this model is dense"):
        report.main(sparse, dense, str(tmp_path / "page.html"), 64)
    with pytest.raises(UserError, match="must be the name of an .html file"):
        report.main(sparse, "", str(tmp_path / "page"), 64)


def test_runs_on_other_tokens_are_refused(tmp_path):
    loaded = runs.load_run(trained(tmp_path / "run"))
    meta = {"files": {"tokenizer.json": {"sha256": "another"}}}
    other = loaded._replace(data=dataclasses.replace(loaded.data, meta=meta))
    with pytest.raises(UserError, match="different tokenizers"):
        report.require_same_words([tmp_path, tmp_path], [loaded, other])
    demix = toys.run_config(model={"experts": tiny.moe_config(router="domain", num_experts=2)})
    data = dataclasses.replace(loaded.data, domain_names=("one", "two"))
    with pytest.raises(UserError, match="different domains"):
        report.require_same_words(
            [tmp_path, tmp_path], [loaded, loaded._replace(run=demix, data=data)]
        )
