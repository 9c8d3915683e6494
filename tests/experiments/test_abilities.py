"""Tasks and calibration of a study's runs: measured once, compared by seed, drawn."""

import pytest

from configs import abilities as config_file
from configs import encoder_decoder, precision
from experiments import calibration, few_shot, looks, opened, scaling
from experiments import precision as precision_experiment
from moe import errors, flops
from moe.analysis import abilities
from moe.data import questions, tokenizer
from moe.training import runs
from tests.experiments import test_study
from tests.experiments.test_evaluate_command import ASKED
from tests.training import toys


def tiny(config):
    """Two dense runs on the toy text, which take seconds."""
    small = test_study.tiny()
    config.jobs = 1
    config.seeds = 2
    config.base = small.base
    config.base.data.vocab_size = config.base.model.vocab_size = toys.V
    config.shorter = ()
    config.variants = {"dense": {}}
    config.tasks = ("piqa",)
    config.shots = (0, 5)
    config.questions = 3
    config.test_batches = 1
    return config


@pytest.fixture
def toy(monkeypatch, tmp_path):
    words = tokenizer.train(["abc"], vocab_size=toys.V, max_bytes=3)
    monkeypatch.setattr(runs.prepare, "prepare", lambda config: toys.data())
    monkeypatch.setattr(opened.tokenizer, "load", lambda path: words)
    monkeypatch.setattr(questions, "read", lambda name, limit: ASKED[:limit])
    monkeypatch.setattr("experiments.study._time_steps", lambda *args: None)
    return tmp_path


def test_both_look_at_the_same_runs_once(toy, monkeypatch, capsys):
    config = tiny(config_file.get_config("cpu"))
    few_shot.main(config, str(toy))
    said = capsys.readouterr().out
    assert "| dense | 4 | " in said and "| piqa | 5 | " in said
    assert len((toy / "few_shot.jsonl").read_text().splitlines()) == 2 * 2
    calibration.main(config, str(toy))
    assert "| dense | 4 | " in capsys.readouterr().out
    for name in ("few_shot", "calibration"):
        assert (toy / f"{name}.png").stat().st_size > 5000
    monkeypatch.setattr(opened, "reader", lambda path: pytest.fail("asked again"))
    monkeypatch.setattr(runs, "load_run", lambda path: pytest.fail("measured again"))
    few_shot.main(config, str(toy))
    calibration.main(config, str(toy))


def test_a_run_without_its_checkpoint_is_not_measured(tmp_path):
    with pytest.raises(errors.UserError, match="has no checkpoint, which is what is measured"):
        looks.require_checkpoint(tmp_path)


def test_what_was_measured_is_kept_and_damage_is_named(tmp_path):
    path = tmp_path / "looks.jsonl"
    asked = [({"seed": s}, lambda s=s: {"found": s * 2}) for s in range(3)]
    assert looks.measured(path, asked[:2]) == [{"seed": 0, "found": 0}, {"seed": 1, "found": 2}]
    asked[0] = ({"seed": 0}, lambda: pytest.fail("measured again"))
    assert looks.measured(path, asked)[2] == {"seed": 2, "found": 4}
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(errors.UserError, match=r"line 4 of .*looks.jsonl is damaged"):
        looks.measured(path, asked)


def result(variant, seed, bits, right, steps=10, ece=0.1):
    curve = {"number": [5, 5], "confidence": [0.2, 0.8], "accuracy": [0.1, 0.7]}
    return {
        "variant": variant, "seed": seed, "steps": steps, "task": "piqa", "shots": 0,
        "scores": {"acc": {"mean": right}}, "bits_per_byte": {"mean": bits},
        "reliability": curve, **dict.fromkeys(abilities.CALIBRATION, 0.5), "ece": ece,
    }  # fmt: skip


def test_differences_are_within_seeds():
    found = [result("dense", s, 2.0 + s, 0.5) for s in range(3)]
    found += [result("e8", s, 1.9 + s, 0.5 + 0.1 * s, ece=0.02) for s in range(3)]
    trained = [
        {"variant": v, "steps": 10, "executed_flops": 2.0, "tokens_per_step": 3}
        for v in ("dense", "e8")
    ]
    text = abilities.few_shot_table(found, trained)
    (row,) = (line for line in text.splitlines() if line.startswith("| e8 |"))
    assert row == "| e8 | 10 | 6.00e+01 | 60.0% | 2.900 | -0.1000 ± 0.0000 |"
    text = abilities.calibration_table(found, trained)
    assert "| 0.0200 |" in text and text.endswith("| -0.0800 ± 0.0000 |")


@pytest.mark.parametrize(
    "config",
    [
        config_file.get_config("cpu"), encoder_decoder.get_config("pilots"),
        precision.get_config("cpu"),
    ],
    ids=["abilities", "encoder_decoder", "precision"],
)  # fmt: skip
def test_models_cost_what_they_say(config):
    """All as much as dense, but for one of ten times as much."""
    found = scaling.variants(config)
    cost = {name: flops.of_run(run).total for name, run in found.items()}
    for name in cost:
        times = 10 if name.startswith("dense_10x") else 1
        assert cost[name] / cost["dense"] == pytest.approx(times, rel=0.01)
        for claim in precision_experiment.CLAIMS if "selective" in cost else ():
            assert {claim.better, claim.than} <= cost.keys()
