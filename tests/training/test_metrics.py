"""metrics.jsonl: late, complete, and without a step that stands twice."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from moe.training import metrics


def steps(path):
    return [record["step"] for record in metrics.read(path)]


def test_a_record_is_written_when_the_next_one_comes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = metrics.Writer(path, 0)
    assert writer.write({"step": 1, "loss": jnp.float32(2)}) is None
    assert path.read_text() == ""
    assert writer.write({"step": 2, "loss": jnp.float32(3)}) == {"step": 1, "loss": 2}
    assert steps(path) == [1]
    writer.close()
    assert steps(path) == [1, 2]


def test_flush_writes_what_is_kept_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = metrics.Writer(path, 0)
    writer.write({"step": 1})
    writer.flush()
    writer.flush()
    assert steps(path) == [1]
    writer.close()
    assert steps(path) == [1]


def test_what_came_after_the_last_checkpoint_is_forgotten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(f'{{"step": {n}, "run": "old"}}\n' for n in range(1, 6)) + '{"step": 6, "lo'
    )
    writer = metrics.Writer(path, 3)
    assert steps(path) == [1, 2, 3]
    writer.write({"step": 4, "run": "new"})
    writer.close()
    assert [r["run"] for r in metrics.read(path)] == ["old"] * 3 + ["new"]


def test_a_damaged_line_is_an_error_but_a_cut_last_one_is_not(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2\n{"step": 3}\n')
    with pytest.raises(ValueError, match="metrics.jsonl line 2 is no record"):
        metrics.read(path)
    for line in (b"\xff\xfe{}", b"7", b"[" * 10**5):
        path.write_bytes(line + b"\n{}\n")
        with pytest.raises(ValueError, match="metrics.jsonl line 1 is no record"):
            metrics.read(path)
    path.write_text('{"step": 1}\n{"step": 2')
    assert steps(path) == [1]


def test_plain_values():
    record = {
        "step": 3,
        "split": "train",
        "loss": jnp.float32(1.23456789),
        "load_LE": jnp.array([[0.25, 1 / 3]]),
        "count": np.int64(7),
        "large": 123456789.0,
    }
    assert metrics.plain(record) == {
        "step": 3,
        "split": "train",
        "loss": 1.23457,
        "load_LE": [[0.25, 0.333333]],
        "count": 7,
        "large": 123457000.0,
    }
    assert json.loads(json.dumps(metrics.plain(record))) == metrics.plain(record)


def test_numbers_that_are_not_finite_are_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for first in (0, 1):  # the second writer repeats what the first wrote
        writer = metrics.Writer(path, first)
        writer.write({"step": 1 + first, "loss": jnp.float32(np.nan), "load_L": [1.0, np.inf]})
        writer.close()
    lines = path.read_text().splitlines()
    assert lines[0] == '{"step": 1, "loss": null, "load_L": [1.0, null]}' and len(lines) == 2
    assert all(np.isnan(r["loss"]) and np.isnan(r["load_L"][1]) for r in metrics.read(path))


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    writer = metrics.Writer(tmp_path / "metrics.jsonl", 0)
    writer.write({"step": 1})
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_nested_metrics_are_plain_too():
    """As the evaluator "text" gives them."""
    found = metrics.plain({"validation": {"load": np.float32([0.25, 0.75])}, "nll": 1.0})
    assert found == {"validation": {"load": [0.25, 0.75]}, "nll": 1.0}
