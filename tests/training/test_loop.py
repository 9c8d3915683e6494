"""Whole runs: a resumed one is one that never stopped; what cannot run says why at once."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from moe import compat, sealed
from moe.evaluation import text
from moe.training import (
    checkpoint,
    loop,
    metrics,
    observing,
    signals,
)
from tests import tiny
from tests.training import toys
from tests.training.toys import EVERY, STEPS

pytestmark = pytest.mark.usefixtures("programs")


class Interrupted(Exception):
    """What stops a run in these tests."""


@contextlib.contextmanager
def interruption(patch, at):
    """The batch of step `at` never comes."""
    batch = loop.batch

    def failing(run, data, i):
        if i == at:
            raise Interrupted
        return batch(run, data, i)

    with patch.context() as inner:
        inner.setattr(loop, "batch", failing)
        with pytest.raises(Interrupted):
            yield


def without_time(record):
    return {k: v for k, v in record.items() if k != "seconds"}


def test_a_run_that_was_asked_to_stop_goes_on(whole, tmp_path):
    """From a checkpoint of that very step, though none was due; after the last nobody asks."""
    with pytest.raises(signals.Stopped, match="stopped at step 2"):
        loop.train(toys.run_config(), tmp_path, stop=lambda n: n == 2)
    assert not (tmp_path / "result.json").exists()
    result = loop.train(toys.run_config(), tmp_path, stop=lambda n: n in (1, 2, STEPS))
    assert result["test_nll"] == whole.result["test_nll"]
    resumed = [without_time(r) for r in metrics.read(tmp_path / "metrics.jsonl")]
    assert resumed == [without_time(r) for r in whole.records]


@pytest.mark.parametrize("at", [2, 3, 5], ids="before step {}".format)
def test_a_resumed_run_never_stopped(whole, tmp_path, monkeypatch, at):
    """Bit for bit: parameters, moments, every metric and the result; before and after step 3."""
    with interruption(monkeypatch, at):
        loop.train(toys.run_config(), tmp_path)
    assert not (tmp_path / "result.json").exists()
    steps = []
    batch = loop.batch
    monkeypatch.setattr(
        loop, "batch", lambda run, data, i: (steps.append(i), batch(run, data, i))[1]
    )
    resumed = toys.Run(tmp_path, loop.train(toys.run_config(), tmp_path))
    begin = EVERY if at >= EVERY else 0
    assert [i for i in steps if i] == [i for i in range(begin, STEPS) if i]
    assert list(map(without_time, resumed.records)) == list(map(without_time, whole.records))
    assert without_time(resumed.result) == without_time(whole.result)
    tiny.assert_equal(resumed.state(toys.run_config()), whole.state(toys.run_config()))


def test_a_resumed_run_never_stopped_on_one_device(tmp_path, monkeypatch):
    """Every metric and the result, as on a machine without a mesh."""
    one = loop.sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "mesh_of", lambda run: one)
    never_stopped = toys.Run(tmp_path / "a", loop.train(toys.run_config(), tmp_path / "a"))
    with interruption(monkeypatch, 5):
        loop.train(toys.run_config(), tmp_path / "b")
    resumed = toys.Run(tmp_path / "b", loop.train(toys.run_config(), tmp_path / "b"))
    assert list(map(without_time, resumed.records)) == list(
        map(without_time, never_stopped.records)
    )
    assert without_time(resumed.result) == without_time(never_stopped.result)


def test_the_state_is_that_of_the_last_step(whole):
    state = whole.state(toys.run_config())
    assert state.step == STEPS
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    bias_LE = state.router_state["bias"]  # six moves of 0.001 each
    assert bias_LE.any() and np.abs(bias_LE).max() < 0.0061
    np.testing.assert_allclose(bias_LE * 1000, np.round(bias_LE * 1000), atol=1e-3)


def test_what_is_logged(whole):
    by_split = {
        split: [r["step"] for r in whole.records if r["split"] == split]
        for split in ("train", "validation")
    }
    assert by_split == {"train": [1, 2, 3, 4, 5, 6], "validation": [2, 4, 6]}
    train = whole.records[0]
    validation = whole.records[2]
    statistics = {"loss", "nll", "balance", "dropped", "entropy", "load_LE", "router_z", "gate"}
    assert statistics | {"grad_norm"} <= train.keys()
    assert statistics | {"seconds"} <= validation.keys()
    assert train["nll"] == pytest.approx(np.log(toys.V), abs=1)
    assert sum(train["load_LE"][0]) == pytest.approx(1, abs=1e-4)
    assert len(train["dropped_LK"][0]) == 2 and len(train["unused_L"]) == 1


def test_training_learns(whole):
    losses = [r["nll"] for r in whole.records if r["split"] == "train"]
    assert losses[-1] < losses[0]
    seconds = [r["seconds"] for r in whole.records if r["split"] == "validation"]
    assert 0 < seconds[0] < seconds[1] < seconds[2] <= float(f"{whole.result['seconds']:.6g}")


def test_the_result(whole):
    result = whole.result
    assert sealed.read_json(whole.workdir / "result.json") == result
    nll = result["test_documents_nll"]
    tokens = result["test_documents_tokens"]
    assert sum(tokens) == 16 * toys.run_config().train.seq_len
    assert len(nll) == len(tokens) == len({*result["test_documents"]}) > 5
    assert result["test_nll"] == pytest.approx(sum(nll) / sum(tokens), rel=1e-4)
    assert result["steps"] == STEPS and result["test"]["nll"] == pytest.approx(
        result["test_nll"], rel=1e-4
    )


def test_rows_of_one_document_are_added_up():
    nothing = dict.fromkeys(text.Score._fields, 0.0) | {"metrics": {}, "domain_nll": {}}
    rows = {"nll_R": [1.0, 2.0, 4.0], "tokens_R": [10, 10, 5], "document_R": [7, 2, 7]}
    result = text.summary(text.Score(**nothing | rows))
    assert result["test_documents"] == [2, 7]
    assert result["test_documents_nll"] == [2.0, 5.0]
    assert result["test_documents_tokens"] == [10, 15]


def test_a_finished_run_is_not_run_again(whole, monkeypatch):
    monkeypatch.setattr(loop, "_train", None)
    before = (whole.workdir / "metrics.jsonl").read_text()
    assert loop.train(toys.run_config(), whole.workdir) == whole.result
    assert (whole.workdir / "metrics.jsonl").read_text() == before


def test_hidden_tokens_are_learned_both_ways(tmp_path):
    """Evaluated on some 15% of the tokens, the same ones every time."""
    one = loop.sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    run = toys.run_config(
        model={"causal": False, "mask_embedding": True},
        objective={"name": "masked_token", "options": None},
        mesh={"data": 1, "expert": 1},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "mesh_of", lambda run: one)
        result = loop.train(run, tmp_path)
    judged = sum(result["test_documents_tokens"])
    assert 0.08 < judged / (16 * run.train.seq_len) < 0.25
    assert result["test_nll"] == pytest.approx(sum(result["test_documents_nll"]) / judged, rel=1e-3)


def watched(monkeypatch):
    """The steps whose records a monitor of collapses sees, on one device."""
    seen = []
    monkeypatch.setattr(
        observing.routing.CollapseMonitor,
        "update",
        lambda self, record: seen.append(record["step"]),
    )
    one = loop.sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "mesh_of", lambda run: one)
    return seen


def test_a_collapse_is_seen_when_logs_and_evaluations_coincide(tmp_path, monkeypatch):
    """A record is looked at one write later, and that may be an evaluation's."""
    seen = watched(monkeypatch)
    both = {"log_every": 2, "evaluators": ("loss", "agreement", "calibration")}
    loop.train(toys.run_config(train=both, mesh={"data": 1, "expert": 1}), tmp_path)
    assert seen == [2, 4, 6]
    records = metrics.read(tmp_path / "metrics.jsonl")
    (*_, last) = (r for r in records if r["split"] == "validation")
    assert 0.5 < last["agreement_L"][0] <= 1  # one small step changes few choices
    assert 0 <= last["accuracy"] <= 1 and last["ece_by_chance"] < 0.2 and last["brier_all"] <= 2
    assert sum(last["reliability"]["number"]) == last["predictions"] > 0


def test_a_run_that_goes_on_sees_a_collapse_that_began_before(tmp_path, monkeypatch):
    """The monitor of the second part has seen the records of the first."""
    seen = watched(monkeypatch)
    run = toys.run_config(mesh={"data": 1, "expert": 1})
    with pytest.raises(signals.Stopped):
        loop.train(run, tmp_path, stop=lambda step: step == 4)
    seen.clear()
    loop.train(run, tmp_path)
    assert seen == [1, 2, 3, 4, 5, 6]


def spoil(monkeypatch, after):
    """Parameters are NaN after a step."""
    made = loop.compiled

    def compiled(run, state, data):
        advance = made(run, state, data)

        def spoiled(state, inputs):
            state, measured = advance(state, inputs)
            if state.step == after:
                state = state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
            return state, measured

        return spoiled

    monkeypatch.setattr(loop, "compiled", compiled)


def test_a_run_that_diverges_stops_and_says_so(tmp_path, monkeypatch):
    spoil(monkeypatch, after=4)
    message = "train: validation loss is nan at step 4. Lower optimizer.learning_rate"
    with pytest.raises(FloatingPointError, match=message):
        loop.train(toys.run_config(), tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_a_state_that_is_not_finite_replaces_no_checkpoint(whole, tmp_path, monkeypatch):
    """No evaluation comes before the checkpoint of step 6, and that of step 3 stays."""
    run = toys.run_config(train={"eval_every": 100, "steps": 7})
    with monkeypatch.context() as patch:
        spoil(patch, after=5)
        message = "step 6 diverged, its loss is nan .*Lower optimizer.learning_rate"
        with pytest.raises(FloatingPointError, match=message):
            loop.train(run, tmp_path)
    with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints.latest == 3
    assert loop.train(run, tmp_path)["steps"] == 7


def test_the_clock_counts_only_while_it_runs(monkeypatch):
    now = iter([10.0, 13.0, 100.0, 101.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = observing.Clock(2.0)
    clock.start()
    assert clock.stop(()) == 5.0
    assert clock.stop(()) == 5.0  # it stands
    clock.start()
    assert clock.stop(()) == 6.5


def test_the_batch_is_that_of_the_step(data):
    run = toys.run_config()
    with tiny.on("2x4"):
        first, again, second = (loop.batch(run, data, i) for i in (0, 0, 1))
        assert first.tokens_BT.sharding.spec == loop.sharding.spec("B")
    tiny.assert_equal(tiny.host(first), tiny.host(again))
    assert (np.asarray(first.tokens_BT) != np.asarray(second.tokens_BT)).any()
    other = dataclasses.replace(run, train=dataclasses.replace(run.train, seed=1))
    assert (np.asarray(loop.batch(other, data, 0).tokens_BT) != np.asarray(first.tokens_BT)).any()


@pytest.mark.parametrize(
    ("fast", "dtype", "said"), [(0, "bfloat16", 1), (0, "float32", 0), (1, "bfloat16", 0)]
)
def test_slow_bfloat16_is_advised_against(fast, dtype, said, monkeypatch):
    monkeypatch.setattr(compat, "FAST_BFLOAT16", bool(fast))
    run = toys.run_config()
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, dtype=dtype))
    assert bool(said) == ("use model.dtype=float32" in loop.advice(run))
