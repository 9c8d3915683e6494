"""The table of tasks for a run's folder, and for a published checkpoint."""

import contextlib
import json
import pathlib
import shutil

import jax.numpy as jnp
import pytest
import tokenizers

from experiments import evaluate, opened
from moe import errors
from moe.data import questions, tokenizer
from moe.evaluation import tasks
from moe.training import checkpoint, runs, workdirs
from tests import tiny
from tests.objectives import test_span_corruption as span_corruption
from tests.training import toys

GOLDENS = pathlib.Path(__file__).parents[1] / "interop" / "goldens"
ASKED = [
    questions.Question((f"Q{i}\nAnswer:",) * 2, (" yes", " no"), i % 2, ("Q\nAnswer: no",) * 5)
    for i in range(4)
]


@pytest.fixture
def words(monkeypatch):
    """A tokenizer that knows bytes alone, and questions that need no package."""
    found = tokenizer.train(["abc"], vocab_size=toys.V, max_bytes=3)
    monkeypatch.setattr(runs.prepare, "prepare", lambda config: toys.data())
    monkeypatch.setattr(opened.tokenizer, "load", lambda path: found)
    monkeypatch.setattr(questions, "read", lambda name, limit, split="all": ASKED[: limit or None])


def trained(run, workdir):
    workdirs.claim(run, workdir, toys.data())
    with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
        checkpoints.save(3, tiny.state(run.model, run.tx)._replace(step=jnp.int32(3)), 1.0)


@pytest.mark.usefixtures("words")
def test_a_run_is_asked(tmp_path, capsys):
    trained(toys.run_config(), tmp_path / "run")
    evaluate.main(str(tmp_path / "run"), ["piqa"], [0, 5], 3, 0, str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "| piqa | 3 | " in said and "Calibration of the choices" in said
    assert (
        f"more than {toys.run_config().train.seq_len} tokens lose their beginning: at most 100%"
        in said
    )
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]
    assert [(one["shots"], one["questions"]) for one in found] == [(0, 3), (5, 3)]
    assert (tmp_path / "out" / "evaluation.md").read_text().strip() in said
    assert (tmp_path / "out" / "calibration.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("words")
def test_a_model_is_asked_while_it_trains(tmp_path, monkeypatch):
    """Every task with choices, in the loop as by the command."""
    monkeypatch.setattr(tasks.tokenizer, "load", opened.tokenizer.load)
    run = toys.run_config(train={"evaluators": ("tasks:3",), "steps": 3})
    trained(run, tmp_path)
    data, state = toys.data(), tiny.state(run.model, run.tx)
    found = tasks.tasks(run, data).evaluate(state)
    assert len(found["tasks"]) == 10 and 0 <= found["tasks_right"] <= 1
    reader = opened.reader(tmp_path)
    (piqa,) = evaluate.results(reader, ["piqa"], [0], 0)
    assert found["tasks"]["piqa"] == [piqa.scores["acc"].mean, piqa.bits_per_byte.mean]
    both = span_corruption.run_config()
    with pytest.raises(errors.UserError, match="leave it out of train.evaluators"):
        tasks.tasks(both, data)


@pytest.mark.usefixtures("words")
def test_what_cannot_be_asked_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match="--tasks='chess' is not one of 'triviaqa', "):
        evaluate.main("", ["chess"], [0], 1, 0, "")
    with pytest.raises(errors.UserError, match="none of lambada, coqa has 1 or 5 examples"):
        evaluate.main("", ["lambada", "coqa"], [1, 5], 1, 0, "")
    with pytest.raises(errors.UserError, match=r"--shots=0,6: expected numbers from 0 to 5"):
        evaluate._shots(["0", "6"])
    with pytest.raises(errors.UserError, match="has no config.json"):
        opened.reader(tmp_path)
    domains = tiny.moe_config(router="domain", capacity_factor=4.0)
    trained(toys.run_config(model={"experts": domains}), tmp_path / "run")
    with pytest.raises(errors.UserError, match="router='domain' reads domains, and questions"):
        evaluate.main(str(tmp_path / "run"), ["piqa"], [0], 1, 0, str(tmp_path / "out"))


def test_sentinels_of_a_published_checkpoint_are_shown(tmp_path):
    """They are special tokens, as what ends a text is."""
    shutil.copytree(GOLDENS / "t5", tmp_path, dirs_exist_ok=True)
    ids = {"a": 5, "</s>": 1, "?": 7, "<extra_id_0>": 40}
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="?"))
    found.add_special_tokens(["</s>", "<extra_id_0>"])
    found.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "config.json"
    content = json.loads(path.read_text()) | {"decoder_start_token_id": 0, "eos_token_id": 1}
    path.write_text(json.dumps(content))
    words = opened.reader(tmp_path).words
    assert (words.start, words.end) == ([0], 1)
    assert words.decode(words.encode("<extra_id_0>")) == "<extra_id_0>"
    del content["decoder_start_token_id"]
    path.write_text(json.dumps(content))
    with pytest.raises(errors.UserError, match="lacks decoder_start_token_id or eos_token_id"):
        opened.reader(tmp_path)


def test_a_published_checkpoint_is_asked(tmp_path):
    """The tokenizer says what a text begins with, else the token after which another begins."""
    shutil.copytree(GOLDENS / "olmoe", tmp_path, dirs_exist_ok=True)
    with pytest.raises(errors.UserError, match="has no tokenizer.json"):
        opened.reader(tmp_path)
    found = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"a": 5, "<s>": 1, "?": 7}, unk_token="?")
    )
    found.save(str(tmp_path / "tokenizer.json"))
    reader = opened.reader(tmp_path, 64)
    assert reader.words.start == [
        json.loads((tmp_path / "config.json").read_text())["eos_token_id"]
    ]
    assert reader.longest == 64 and reader.model.vocab_size == 48
    found.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $0", special_tokens=[("<s>", 1)]
    )
    found.save(str(tmp_path / "tokenizer.json"))
    assert opened.reader(tmp_path).words.start == [1]
