"""`experiments.plan` as it is called: mesh and topology read, report printed and kept."""

import json

import pytest
from absl import flags

from experiments import plan as command
from experiments import plan_search
from moe import chips, plan, presets
from moe.analysis import planning
from moe.training.config import MeshConfig
from tests import test_plan, tiny


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


def test_fewer_slots_are_another_model_and_say_so(capsys):
    given = "--model=glam_8b_64e", "--topology=v5p:4x4x8", "--mesh=data=2,expert=64", "--zero"
    text = report(capsys, *given, "--capacity_factor=1")
    assert "| capacity factor | 1, not 1.25: more tokens are dropped |  |" in text
    assert "| capacity factor | 1.25 |  |" in report(capsys, *given)


@pytest.mark.parametrize(
    ("experts", "wants"),
    [
        (None, "wants experts, and this model is dense"),
        ({"dispatcher": "grouped"}, "wants slots, and the model is dropless"),
        ({"expert_capacity": 64}, "wants a factor, and an expert has 64 slots"),
    ],
)
def test_what_has_no_capacity_factor(experts, wants):
    none = {"capacity_factor": 0.0, "eval_capacity_factor": 0.0}
    experts = experts and tiny.moe_config(**none, **experts)
    run = test_plan.run_config(tiny.model(vocab_size=test_plan.V, experts=experts))
    with pytest.raises(ValueError, match=f"--capacity_factor=1.1 {wants}: leave it out"):
        plan_search.with_slots(run, 1.1)


def test_a_factor_that_leaves_as_many_slots():
    """Of 4 tokens for 8 experts each has one slot, whatever the factor."""
    network = tiny.model(
        vocab_size=test_plan.V, experts=tiny.moe_config(num_experts=8, capacity_factor=1.25)
    )
    run = test_plan.run_config(network, length=4)
    assert not plan_search.with_fewer_slots(run, "v5e", 1)
    with pytest.raises(ValueError, match="leaves an expert as many slots as 1.25: leave it out"):
        plan_search.with_slots(run, 1.1)
    assert plan_search.with_slots(run, 3.0).model.experts.capacity_factor == 3.0


@pytest.mark.parametrize("idle", ["mesh=data=2", "zero", "remat_policy=full", "tokens=1", "out=x"])
def test_a_search_refuses_what_it_would_not_heed(idle, capsys):
    name = idle.split("=")[0]
    with pytest.raises(ValueError, match=f"--{name} does nothing with --search.*: leave it out"):
        report(capsys, "--search", f"--{idle}")


def test_without_a_search_nothing_is_chosen_to_be_compiled(capsys):
    with pytest.raises(ValueError, match="--compile does nothing without --search"):
        report(capsys, "--compile=1")


def test_a_search_shows_fewer_slots_apart(capsys, monkeypatch):
    """The rows of 1.1 and 1.0 are faster, and not among the best."""
    experts = tiny.moe_config(capacity_factor=1.25)
    network = tiny.model(vocab_size=test_plan.V, experts=experts)
    preset = presets.Preset(model=network, total=1e6, length=64, source="a test")
    monkeypatch.setattr(presets, "preset", lambda name: preset)
    monkeypatch.setattr(plan_search, "runs", lambda run, *given: [run])
    given = "--search", "--topology=h100:1"
    best, fewer = report(capsys, *given).split("so it is another model")
    assert "dropped" not in best and "| 1.25 | 1 x 64 |" in best
    assert [line.split(" | ")[3] for line in fewer.splitlines() if "one device" in line] == [
        f"{factor:g}, not 1.25: more tokens are dropped" for factor in plan_search.FEWER
    ]
    only = report(capsys, *given, "--capacity_factor=1.1")
    assert "| 1.1, not 1.25: more tokens are dropped |" in only and "another model" not in only


def test_a_search_tries_meshes_and_ways_to_recompute_and_puts_the_best_first():
    run = test_plan.run_config()
    choices = list(plan_search.runs(run, (2, 2), 16))
    meshes = {(one.mesh.data, one.mesh.expert, one.mesh.model) for one in choices}
    assert meshes == {(4, 1, 1), (2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)}
    kinds = {(one.mesh.zero, one.model.remat, one.mesh.remat_policy) for one in choices}
    assert len(choices) == len(meshes) * len(kinds) == 6 * 6
    some = [one for one in choices if one.mesh.expert == 2]
    found = plan_search.search(some, "v5e", 4)
    seconds = [planned.seconds["serial"] for _, planned in found]
    assert len(found) == len(some) and seconds == sorted(seconds) and seconds[0] < seconds[-1]
    preset = presets.Preset(model=run.model, total=1e6, length=64, source="a test")
    text = planning.choices(found, [], preset, "v5e:2x2")
    assert "data=2, expert=2, zero | products" in text and "| nothing | 1 | 16 x 64 |" in text
    assert planning.mesh_text({"data": 1, "expert": 1}, zero=False) == "one device"


def test_what_no_memory_holds_is_not_found(monkeypatch):
    small = chips.CHIPS["v5e"]._replace(memory=2.0**10)
    monkeypatch.setitem(chips.CHIPS, "v5e", small)
    assert not plan_search.search([test_plan.run_config()], "v5e", 1)


@pytest.mark.parametrize(
    ("axes", "sides", "fill"),
    [
        ((16, 64, 1), (8, 8, 16), True),
        ((8, 16, 8), (8, 8, 16), True),
        ((4, 64, 4), (8, 8, 16), False),  # would have to cut the side of 16
        ((4, 64, 4), (1024,), True),
    ],
)
def test_axes_fill_whole_sides(axes, sides, fill):
    assert plan_search._fills(axes, sides) == fill
