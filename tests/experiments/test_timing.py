"""Times taken side by side."""

import pytest

from experiments import timing


@pytest.mark.parametrize(("settled", "want"), [(False, [3.0, 1.0]), (True, [1.0, 1.0])])
def test_a_settled_time_is_of_a_second_call(monkeypatch, settled, want):
    """By a clock that moves with the calls: every other one is slow."""
    now = [0.0]
    number = [0]

    def call():
        number[0] += 1
        now[0] += 3.0 if number[0] % 2 else 1.0

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    found = timing.interleaved({"one": call, "other": call}, 3, "timing", settled)
    assert found == {"one": 3 * want[:1], "other": 3 * want[1:]}
