"""`experiments.plan` as it is called: mesh and topology read, report printed and kept."""

import json

import pytest
from absl import flags

from experiments import plan as command
from moe import plan
from moe.training.config import MeshConfig


@pytest.fixture(autouse=True)
def arithmetic(monkeypatch):
    """As on a machine without libtpu."""
    monkeypatch.setattr(plan, "has_compiler", lambda: False)


def report(capsys, *given):
    ask = flags.FlagValues()
    command.define(ask)
    ask(["plan", *given])
    command.main(ask)
    return capsys.readouterr().out


def test_a_report_with_its_dense_twin(tmp_path, capsys):
    out = tmp_path / "plans.jsonl"
    given = "--model=glam_8b_64e", "--topology=v5p:4x4x8", "--mesh=data=2,expert=64", "--zero"
    text = report(capsys, *given, f"--out={out}")
    assert "|  | glam_8b_64e | glam_8b |" in text and "| by | arithmetic | arithmetic |" in text
    assert "143.9B (published 143B)" in text and "all-to-all | expert |" in text
    experts, dense = map(json.loads, out.read_text().splitlines())
    assert experts["mesh"] == {"data": 2, "expert": 64, "model": 1} and experts["batch_size"] == 128
    assert dense["mesh"] == {"data": 128, "expert": 1, "model": 1}
    assert experts["memory"]["short"] == 0


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        (("--topology=v5e:4x8", "--mesh=data=2,expert=8,model=-1"), False),
        (("--topology=v5p:8x8x8", "--mesh=data=8,expert=64"), True),
    ],
)
def test_a_twin_that_does_not_fit_its_mesh_does_not_stop_the_report(given, left_out, capsys):
    """D = 768 does not divide by 512 devices, over which the dense twin is spread."""
    text = report(capsys, "--model=glam_0.1b_64e", *given)
    assert "2.08B (published 1.9B)" in text
    assert ("glam_0.1b is left out: model.d_model=768" in text) == left_out
    assert ("|  | glam_0.1b_64e | glam_0.1b |" in text) != left_out


def test_what_does_not_fit_says_what_to_change(capsys):
    text = report(capsys, "--model=mixtral_8x22b", "--topology=h200:8", "--mesh=expert=8")
    assert "mixtral_8x22b is short by" in text and "--zero" in text


def test_reading_the_mesh():
    assert command.parse_mesh("expert=64") == MeshConfig(data=-1, expert=64)
    assert command.parse_mesh("data=2,expert=-1,model=4") == MeshConfig(data=2, expert=-1, model=4)
    for text in ("expert", "experts=4", "expert=a", ""):
        with pytest.raises(ValueError, match="expected data=-1,expert=64"):
            command.parse_mesh(text)


def test_reading_the_topology():
    assert command.device_count("v5p:8x8x16") == 1024 and command.device_count("h200:64") == 64
    for text in ("v5p", "v5p:", "v5p:axb"):
        with pytest.raises(ValueError, match="expected v5p:8x8x16 or h200:64"):
            command.device_count(text)
