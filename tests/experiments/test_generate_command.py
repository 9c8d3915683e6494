"""Text from the folder of a run."""

import contextlib
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import agreement, generate, opened
from moe import sampling, schema
from moe.data import tokenizer
from moe.evaluation.few_shot import Reader
from moe.evaluation.likelihood import Words
from moe.training import checkpoint, runs, workdirs
from tests import tiny
from tests.objectives import test_span_corruption as span_corruption
from tests.training import toys


@pytest.fixture
def run(monkeypatch):
    """A run on the toy corpus whose tokenizer knows bytes alone."""
    words = tokenizer.train(["abc"], vocab_size=toys.V, max_bytes=3)
    monkeypatch.setattr(runs.prepare, "prepare", lambda config: toys.data())
    monkeypatch.setattr(opened.tokenizer, "load", lambda path: words)
    return toys.run_config()


def trained(run, workdir):
    """A checkpoint of random parameters, in a folder as a run leaves it."""
    workdirs.claim(run, workdir, toys.data())
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
    workdirs.claim(run, tmp_path, toys.data())
    written = json.loads((tmp_path / "config.json").read_text())["model"]
    assert written | {"scan_unroll": 0} == schema.to_dict(run.model)  # but for a choice of speed
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        runs.load_run(tmp_path)


def test_domains_are_named_where_they_are_read(run, tmp_path):
    trained(run, tmp_path / "plain")
    with pytest.raises(ValueError, match="no router reads it"):
        generate.main(str(tmp_path / "plain"), ["ab"], 1, "toy")
    experts = tiny.moe_config(router="domain", capacity_factor=4.0)
    trained(run.replace(model={"experts": experts}), tmp_path / "reading")
    reader = opened.reader(tmp_path / "reading")
    assert generate.domains(reader, "toy", 2).tolist() == [0, 0]
    with pytest.raises(ValueError, match="--domain=None is not one of 'toy'"):
        generate.domains(reader, None, 2)


def test_lines_are_continued_as_they_are_typed(run, tmp_path, monkeypatch, capsys):
    """With the text that a prompt would get, piece by piece, whole characters only."""
    trained(run, tmp_path)
    how = {"how": sampling.Sampling(temperature=2.0), "seed": 3}
    generate.main(str(tmp_path), ["ab"], 12, **how)
    want = capsys.readouterr().out.split("\n\n")[0].removeprefix("ab")
    monkeypatch.setattr("sys.stdin", io.StringIO("ab\n"))
    generate.main(str(tmp_path), [], 12, **how)
    said = capsys.readouterr().out.removesuffix("\n\n")
    assert said == want.rstrip("\ufffd") and len(said) > 3
    parts = [bytes([b]) for b in "aé".encode()]
    words = Words(None, lambda ids: b"".join(parts[i] for i in ids).decode(errors="replace"), [])
    reader = Reader(None, {}, {}, words, 1)
    tokens = [np.array([i]) for i in range(3)]
    assert list(generate.pieces(reader, tokens)) == ["a", "é"]


def test_experts_are_shown_on_request(run, tmp_path, capsys):
    trained(run, tmp_path / "moe")
    generate.main(str(tmp_path / "moe"), ["ab"], 3, experts=True)
    lines = capsys.readouterr().out.splitlines()
    chosen = [line for line in lines if line.startswith("  ") and line.rstrip()[-1] in "0123"]
    assert len(chosen) == 3
    trained(run.replace(model={"experts": None}), tmp_path / "dense")
    with pytest.raises(ValueError, match="no token of this model chooses any"):
        generate.main(str(tmp_path / "dense"), ["ab"], 3, experts=True)
    with pytest.raises(ValueError, match="--experts and --beams go with --prompt"):
        generate.main(str(tmp_path / "dense"), [], 3, experts=True)
    with pytest.raises(ValueError, match="--beams needs a token that ends a text"):
        generate.main(str(tmp_path / "dense"), ["ab"], 3, width=2)


def test_an_encoder_reads_the_prompt(tmp_path, monkeypatch, capsys):
    """And the decoder writes what the sentinels stand for, with beams or without."""
    run = span_corruption.run_config()
    words = tokenizer.train(["abc"], vocab_size=toys.V, max_bytes=3)
    monkeypatch.setattr(runs.prepare, "prepare", lambda config: toys.data())
    monkeypatch.setattr(opened.tokenizer, "load", lambda path: words)
    trained(run, tmp_path)
    top = run.model.vocab_size - 1
    reader = opened.reader(tmp_path)
    ids = reader.words.encode("a<extra_id_0>b")
    assert ids == [words.token_to_id("a"), top, words.token_to_id("b")]
    assert reader.words.decode([*ids, top]) == "a<extra_id_0>b<extra_id_0>"
    with pytest.raises(ValueError, match="<extra_id_1>: this model knows those from 0 to 0"):
        reader.words.encode("a<extra_id_1>")
    given = generate.asked(reader, ["ab", "c<extra_id_0>"], None)
    assert given["prompts"] == [[0], [0]] and [i[-1] for i in given["inputs"]] == [0, 0]
    generate.main(str(tmp_path), ["ab<extra_id_0>"], 4)
    assert "ab<extra_id_0>" in capsys.readouterr().out
    generate.main(str(tmp_path), ["ab<extra_id_0>"], 4, width=3)
    scores = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()[1:4]]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(ValueError, match="--beams draws nothing: use it with --temperature=0"):
        generate.main(str(tmp_path), ["ab"], 4, width=3, how=sampling.Sampling())
