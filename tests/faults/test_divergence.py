"""A step that diverges is seen at once, and stopped at, skipped, or left out with its data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import sealed
from moe.training import divergence, folders, loop, metrics, processes, signals
from tests import tiny
from tests.training import toys
from tests.training.toys import EVERY, STEPS

pytestmark = pytest.mark.usefixtures("programs")


@pytest.fixture(scope="module")
def worst(whole):
    """The step whose gradient is the largest, and a norm between it and that of all others."""
    norms = [r["grad_norm"] for r in whole.records if r["split"] == "train"]
    second, first = sorted(norms)[-2:]
    return 1 + norms.index(first), (first + second) / 2


def run_config(worst, policy):
    return toys.run_config(
        train={"on_divergence": policy, "largest_grad_norm": worst[1]},
        mesh={"data": 2, "expert": 4},
    )


POISON = 4  # the batch after which a gradient is infinite


@pytest.fixture
def batches(monkeypatch):
    """Which batches were trained on; one of them has no finite gradient."""
    seen = []
    batch = loop.batch
    compiled = loop.compiled

    def poisoned(*args):
        train_step = compiled(*args)
        seen.pop()  # it was made to compile for

        def advance(state, batch):
            state, measured = train_step(state, batch)
            return state, measured | ({"grad_norm": np.inf} if seen[-1] == POISON else {})

        return advance

    monkeypatch.setattr(loop, "batch", lambda *args: (seen.append(args[2]), batch(*args))[1])
    monkeypatch.setattr(loop, "compiled", poisoned)
    return seen


def test_stopped_at_the_step(worst, tmp_path):
    step, _ = worst
    with pytest.raises(divergence.Diverged, match=f"train: step {step} diverged, its loss is") as e:
        loop.train(run_config(worst, "stop"), tmp_path)
    assert e.value.step == step and isinstance(e.value, FloatingPointError)
    assert all(saved < step for saved in folders.steps_in(tmp_path))
    assert {r["step"] for r in metrics.read(tmp_path / "metrics.jsonl")} <= set(range(1, step + 2))


def test_skipped(worst, whole, tmp_path):
    """Losses are as before up to this step, and others after it."""
    step, _ = worst
    loop.train(run_config(worst, "skip"), tmp_path / "skip")
    records = metrics.read(tmp_path / "skip" / "metrics.jsonl")
    (found,) = (r for r in records if r["split"] == divergence.SPLIT)
    assert found["step"] == step and found["grad_norm"] > worst[1]
    assert sealed.read_json(tmp_path / "skip" / "result.json")["skipped"] == 1
    losses = {r["step"]: r["loss"] for r in records if r["split"] == "train"}
    before = {r["step"]: r["loss"] for r in whole.records if r["split"] == "train"}
    assert [losses[n] == before[n] for n in range(1, STEPS + 1)] == [
        n <= step for n in range(1, STEPS + 1)
    ]


@pytest.mark.parametrize("loss", [np.nan, np.inf, 1.0])
def test_nothing_is_kept_of_a_step_that_is_not_finite(loss):
    good = divergence.sound(jnp.float32(loss), jnp.float32(2.0), 0.0)
    new = divergence.keep(good, {"w": jnp.full(2, jnp.nan)}, {"w": jnp.ones(2)})
    assert bool(good) == np.isfinite(loss) and jnp.isnan(new["w"]).all() == good
    assert not divergence.sound(np.float32(1), np.float32(np.nan), 0.0, np)
    assert divergence.sound(np.float32(1), np.float32(3), 3.0, np)
    assert not divergence.sound(np.float32(1), np.float32(3.1), 3.0, np)


def test_rewound_past_the_data(tmp_path, batches):
    """And a run that is asked to end after that ends as if it had not been."""
    run = toys.run_config(train={"on_divergence": "rewind"}, mesh={"data": 2, "expert": 4})
    loop.train(run, tmp_path / "whole")
    assert divergence.rewinds(tmp_path / "whole") == [(EVERY, POISON + 1)]
    assert batches == [0, 1, 2, 3, POISON, 5, 5, 6, 7]  # it is seen while the next step runs
    records = metrics.read(tmp_path / "whole" / "metrics.jsonl")
    assert [r["step"] for r in records if r["split"] == "train"] == [*range(1, STEPS + 1)]
    with pytest.raises(signals.Stopped):
        loop.train(run, tmp_path / "parts", stop=lambda n: n == EVERY + 1 and 5 in batches[10:])
    loop.train(run, tmp_path / "parts")
    again, want = (toys.Run(tmp_path / name, None).state(run) for name in ("parts", "whole"))
    tiny.assert_equal(again, want)
    (tmp_path / "whole" / "result.json").unlink()
    divergence.path(tmp_path / "whole").unlink()
    with pytest.raises(ValueError, match="rewinds.json is not what it was when the checkpoint of"):
        loop.train(run, tmp_path / "whole")


def test_skips_are_counted_over_a_stop():
    skipped = [{"step": n, "split": divergence.SPLIT} for n in (2, 5, 6)]
    assert divergence.last_in_a_row([{"step": 4, "split": "train"}, *skipped], 6) == 2
    assert divergence.last_in_a_row(skipped, 7) == 0  # a step that left no line is sound
    assert divergence.last_in_a_row([], 3) == 0


@pytest.mark.parametrize("after", [2, STEPS])
def test_rewound_where_an_evaluation_is_due(tmp_path, monkeypatch, after):
    """The parameters are NaN by then: the step is looked at before the evaluation."""
    compiled = loop.compiled
    spoiled = []

    def once(*args):
        train_step = compiled(*args)

        def advance(state, batch):
            state, measured = train_step(state, batch)
            if state.step == after and not spoiled:
                spoiled.append(True)
                params = jax.tree.map(lambda x: x * np.nan, state.params)
                return state._replace(params=params), measured | {"grad_norm": np.nan}
            return state, measured

        return advance

    monkeypatch.setattr(loop, "compiled", once)
    run = toys.run_config(train={"on_divergence": "rewind"}, mesh={"data": 2, "expert": 4})
    assert np.isfinite(loop.train(run, tmp_path)["test_nll"])
    assert divergence.rewinds(tmp_path) == [((after - 1) // EVERY * EVERY, after)]


def test_a_run_rewinds_so_often_and_no_more(worst, tmp_path, monkeypatch):
    monkeypatch.setattr(divergence, "MOST", 2)
    hopeless = run_config(worst, "rewind").replace(train={"largest_grad_norm": 1e-9})
    with pytest.raises(divergence.Diverged, match="after 2 rewinds, train: step 1 diverged"):
        loop.train(hopeless, tmp_path)
    assert divergence.rewinds(tmp_path) == [(0, 1), (0, 1)]


def test_what_the_first_process_reads_holds_for_all(tmp_path, monkeypatch):
    """The disk of the others may be late, and they must go on with the same data."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sent = []
    for index, known in enumerate(([divergence.Rewind(3, 5), divergence.Rewind(0, 9)], [])):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        monkeypatch.setattr(divergence, "rewinds", lambda workdir, known=known: known)
        send = processes.multihost_utils
        monkeypatch.setattr(send, "broadcast_one_to_all", lambda x: (sent.append(x), sent[0])[1])
        assert divergence.agreed(tmp_path) == [(3, 5), (0, 9)]
    assert sent[0].shape == sent[1].shape and not sent[1].any()


def test_a_run_that_diverged_goes_on_by_another_policy(worst, tmp_path):
    """As its error advises, in its own workdir, from its last checkpoint."""
    with pytest.raises(divergence.Diverged, match="go on with train.on_divergence='skip'"):
        loop.train(run_config(worst, "stop"), tmp_path)
    result = loop.train(run_config(worst, "skip"), tmp_path)
    assert result["skipped"] == 1 and result["steps"] == STEPS


def test_a_run_skips_so_many_in_a_row_and_no_more(worst, tmp_path, monkeypatch):
    monkeypatch.setattr(divergence, "MOST", 2)
    hopeless = run_config(worst, "skip").replace(train={"largest_grad_norm": 1e-9})
    with pytest.raises(divergence.Diverged, match="step 3 is number 3 in a row that diverged"):
        loop.train(hopeless, tmp_path)


def test_batches_before_a_rewind_are_where_they_were():
    known = [divergence.Rewind(3, 5), divergence.Rewind(4, 6)]
    assert [divergence.position(known, i) for i in range(6)] == [0, 1, 2, 5, 8, 9]
