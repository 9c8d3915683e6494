"""The soak itself: what it finds it says, what is done it does not do again, and it can lose."""

import json

import pytest

from experiments import soak
from experiments.soak_parts import draw, fuzz, memory, problems
from experiments.soak_parts.victims import Row
from moe.dispatch import gather
from moe.errors import NotFiniteError, UserError
from moe.training import loop


def test_rows_table_and_what_is_done(tmp_path, monkeypatch):
    calls = []

    def rows(out, times):
        calls.append(times)
        yield from [Row("a fault", "survived")] * (times - 1)
        yield Row("a fault", "lost", "why")

    monkeypatch.setattr(soak, "PARTS", {"some": soak.Part("some faults", 40, rows)})
    for _ in range(2):
        with pytest.raises(UserError, match="1 lost: see outcome 'lost'"):
            soak.main(str(tmp_path), ["some"], 0.1)
    assert calls == [4]
    lines = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["survived"] * 3 + ["lost"]
    assert "| some | some faults | 4 | 3 | 0 | 1 | 0 |" in (tmp_path / "table.md").read_text()
    with pytest.raises(UserError, match="1 lost"):
        soak.main(str(tmp_path), ["some"], 0.2)  # more than were done
    assert calls == [4, 8]
    with pytest.raises(UserError, match="--parts='others' is not one of 'some'"):
        soak.main(str(tmp_path), ["others"], 1.0)


@pytest.mark.parametrize(
    ("slope", "outcome"), [(0.0, "survived"), (0.0004, "survived"), (0.001, "lost")]
)
def test_memory_that_grows_is_seen(slope, outcome):
    looks = [(step, 500 + slope * step, 30) for step in range(50, 5001, 50)]
    assert memory.verdict(looks, 5000).outcome == outcome


def test_arrays_that_stay_are_seen():
    looks = [(step, 500.0, 30 + step // 1000) for step in range(50, 5001, 50)]
    row = memory.verdict(looks, 5000)
    assert row.outcome == "lost" and "30 live arrays after step 550 and 35" in row.said


def test_a_dispatcher_that_is_wrong_is_seen(tmp_path, monkeypatch):
    """The first layers that are drawn, with one that forgets a token."""
    fields = {"num_experts": 4, "d_ff": 8, "k": 2, "router": "top_k", "dispatcher": "gather"}
    monkeypatch.setattr(draw, "experts", lambda rng: dict(fields))
    monkeypatch.setattr(problems, "EACH", 6)
    combine = gather.combine
    monkeypatch.setattr(gather, "combine", lambda *a, **k: combine(*a, **k).at[:, 0].set(0))
    rows = list(problems.problems(tmp_path, 6))
    assert {"lost"} <= {row.outcome for row in rows} and any("error" in row.said for row in rows)
    problems._compiled.cache_clear()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "trained"),
        (UserError("lower it"), "refused"),
        (NotFiniteError("diverged"), "diverged"),
        (TypeError("foreign"), "lost"),
    ],
)
def test_what_becomes_of_a_config(error, outcome, monkeypatch):
    def train(run, workdir):
        if error:
            raise error

    good = next(seed for seed in range(50) if _is_good(seed))
    monkeypatch.setattr(loop, "train", train)
    assert fuzz.one(good)[0] == outcome


def _is_good(seed):
    try:
        fuzz.schema.from_config_dict(fuzz.RunConfig, draw.run(seed))
        return True
    except UserError:
        return False
