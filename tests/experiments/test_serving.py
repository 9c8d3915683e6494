"""Models that write side by side: whole and pruned, timed and counted; the tables."""

import numpy as np
import pytest

from configs import serving as configs
from experiments import compression, looks, scaling, serving, study
from moe.adapt import observing
from moe.adapt.banks import Trained
from moe.analysis import serving as tables
from tests import tiny
from tests.training import toys


@pytest.fixture
def config():
    found = configs.demo()
    found.update(batches=(2,), prompts=(2, 4), sets=2, rounds=2, tokens=3, pruned_by=(2,))
    found.variants = {"dense": {}}
    return found


@pytest.fixture
def found(config, monkeypatch, tmp_path):
    """The models of a study of one variant with 4 experts in one layer."""
    model = tiny.model(num_layers=1, moe_every=1, experts=tiny.moe_config(k=2))
    trained = Trained(model, tiny.params(model), {})
    monkeypatch.setattr(looks, "require_checkpoint", lambda path: None)
    monkeypatch.setattr(compression, "trained_of", lambda path, config: (trained, [], []))
    monkeypatch.setattr(observing, "observe", lambda made, seen, measure: use(made))
    monkeypatch.setattr(observing, "loss", lambda made, judge: float(made.model.experts.dropless))
    return serving.models(config, {"e4": None}, tmp_path, seed=0)


def use(made):
    return observing.Use(*[np.ones((1, made.model.experts.num_experts))] * 3)


def test_models_write_side_by_side(config, found):
    """A pruned one is smaller; every step is timed, and its choices are counted."""
    assert list(found) == ["e4", "e4_pruned2"]
    whole, pruned = (one.known for one in found.values())
    assert whole["total"] > pruned["total"] and whole["active"] > pruned["active"]
    assert pruned["of"] == "e4" and pruned["experts"] == 2 and pruned["nll"] == 1.0
    assert found["e4_pruned2"].device_LE == {} != found["e4"].device_LE
    (numbers,) = serving.side_by_side(
        config, 1, {"e4": found["e4"]}, [[1, 2, 3, 4], [5, 6, 7, 8]]
    ).values()
    assert numbers.items() >= whole.items()
    assert numbers["mean"] == 2 / 4 and numbers["largest"] == 2
    assert numbers["busiest_device"] == {"in_turn": 2, "even": 2}  # of 4: one token on each of 2
    assert numbers["turns"] == 2 and numbers["follows"] is None  # one a choice
    assert numbers["tokens_per_second"] > 0 and numbers["p99"] >= numbers["p95"] > 0


def test_prompts_are_test_text(config, monkeypatch):
    monkeypatch.setattr(serving.prepare, "prepare", lambda config: toys.data())
    runs = {"toy": toys.run_config()}
    ids = toys.data().tokens["test"].tolist()
    texts = serving.rows(config, runs)
    assert len(texts) == 4 and all(text in [ids[i : i + 4] for i in range(200)] for text in texts)
    (first, second) = serving.prompts(config, texts, 2)
    assert first == [texts[0], texts[1][:3]] and second == [texts[2], texts[3][:3]]
    config.sets = 1
    assert [len(text) for text in serving.prompts(config, texts, 4)[0]] == [4, 3, 2, 4]
    config.sets = 100
    with pytest.raises(ValueError, match="has 49 prompts of 4 tokens, 200 are needed: lower sets"):
        serving.rows(config, runs)


def test_a_batch_is_measured_once(config, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(study, "run", lambda *args, timed: None)
    monkeypatch.setattr(serving, "models", lambda config, runs, root, seed: {})
    monkeypatch.setattr(serving, "rows", lambda config, runs: [])
    monkeypatch.setattr(serving, "side_by_side", lambda *args: NUMBERS)
    serving.main(config, str(tmp_path))
    assert "| 2 | e8 | 300 | 75% |  | 1.200 |" in capsys.readouterr().out
    assert (tmp_path / "serving.png").stat().st_size > 10_000
    monkeypatch.setattr(serving, "side_by_side", lambda *args: pytest.fail("measured again"))
    again = serving.measured(config, scaling.variants(config), tmp_path)
    assert [one["model"] for one in again] == list(NUMBERS) and again[1]["nll"] == 2.5


def numbers(of, experts, speed, nll, p95, **more):
    return {
        "of": of, "experts": experts, "total": 10 * experts, "active": 10, "nll": nll,
        "tokens_per_second": speed, "p95": p95, "p99": p95, "repeated_p95": 1.0, **more,
    }  # fmt: skip


LOADS = dict.fromkeys(("mean", "largest", "varies", "read", "unused", "turns", "turns_p95"), 0.5)
NUMBERS = {
    "dense": numbers("dense", 0, 400.0, 3.0, 1.1),
    "e8": numbers(
        "e8", 8, 300.0, 2.5, 1.2, **LOADS, follows=0.5, busiest_device={"in_turn": 2.0, "even": 1.5}
    ),
    "e8_pruned2": numbers("e8", 2, 360.0, 2.8, 1.1, **LOADS, follows=None, busiest_device={}),
}


def test_the_tables_pair_seeds():
    found = [
        {"seed": seed, "batch": 4, "model": name, **one, "nll": one["nll"] + seed}
        for seed in range(3)
        for name, one in NUMBERS.items()
    ]
    lines = tables.table(found).splitlines()
    assert "| e8 | 8 | 80 | 10 | 3.5000 | -0.5000 ± 0.0000 |" in lines
    speed = "| 4 | e8 | 300 | 75% ± 0% |  | 1.200 | +0.1000 ± 0.0000 | 1.200 | 1.000 |"
    assert any(line.startswith(speed) for line in lines)
    (pruned,) = (line for line in lines if line.startswith("| 4 | e8_pruned2 | 360"))
    assert "| 90% ± 0% | 120% ± 0% |" in pruned and pruned.endswith("|  |")
    assert any(line.endswith("| 2.00 | 1.50 | -0.5000 ± 0.0000 |") for line in lines)


def test_a_spread_that_repeats_is_told_from_one_that_does_not():
    turn_T = np.arange(100)
    steady_RT = np.tile(1 + turn_T / 100, (3, 1))
    noise_RT = np.ones((3, 100))
    noise_RT[0, ::2] = 2.0
    steady, noise = (tables.spread(x_RT, 8) for x_RT in (steady_RT, noise_RT))
    assert steady["repeated_p95"] == pytest.approx(steady["p95"]) and steady["p95"] > 1.2
    assert noise["repeated_p95"] == 1 and noise["p95"] == 2
    assert steady["tokens_per_second"] == pytest.approx(8 / 1.495)
    assert tables.follows(steady_RT, turn_T) == pytest.approx(1)
    assert tables.follows(steady_RT, np.ones(100)) is None
