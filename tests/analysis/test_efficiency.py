"""Speed-ups where they are known, and what cannot be read off."""

import math

import pytest

from moe.analysis import efficiency, scaling

MACHINE = {
    "devices": ["cpu"], "processor": "a", "cores": 1, "python": "3", "jax": "0", "commit": "1",
}  # fmt: skip


def invented(faster):
    """Losses that fall by one a factor of e in tokens; a variant is so many times faster."""
    return [
        {
            "variant": name, "seed": seed, "steps": steps, "tokens_per_step": 2000,
            "test_nll": 9 - math.log(steps * times) + 0.1 * seed, "executed_flops": 1e6,
            "machine": MACHINE, "seconds": 1.0,
        }
        for name, of_seeds in (("dense", (1.0, 1.0)), *faster.items())
        for seed, times in enumerate(of_seeds)
        for steps in (100, 200, 400)
    ]  # fmt: skip


def test_a_known_speedup_is_found():
    runs = scaling.by_variant(invented({"fast": (1.6, 1.6), "noisy": (1.5, 1.9)}))
    found = efficiency.speedup(runs["fast"], runs["dense"], 400)
    assert found.mean == pytest.approx(1.6) and found.low == pytest.approx(1.6)
    assert not found.at_least and found.reached
    noisy = efficiency.speedup(runs["noisy"], runs["dense"], 400)
    assert noisy.mean == pytest.approx(math.sqrt(1.5 * 1.9)) and noisy.low < 1.5 < 1.9 < noisy.high
    shortest = efficiency.speedup(runs["fast"], runs["dense"], 100)
    assert shortest.at_least and shortest.mean == pytest.approx(1.0)
    assert f"{shortest}".startswith("≥ 1.00")


def test_what_is_not_reached_is_said():
    runs = scaling.by_variant(invented({"slow": (0.5, 1.2)}))
    assert f"{efficiency.speedup(runs['slow'], runs['dense'], 400)}" == "not reached"
    slow = efficiency.speedup(runs["slow"], runs["dense"], 100)
    assert slow.mean == pytest.approx(math.sqrt(0.5 * 1.0)) and slow.at_least


def test_the_table_and_the_figure(tmp_path):
    records = invented({"fast": (1.6, 1.6)})
    text = efficiency.table(records)
    assert "| fast | ≥ 1.00 | 1.60 (1.60 to 1.60) | 1.60 (1.60 to 1.60) |" in text
    assert "at 0.8M tokens" in text
    assert efficiency.table(records[6:]).startswith("no finished run of 'dense'")
    drawn = efficiency.figure_of(records)
    (axis,) = drawn.axes
    assert [line.get_label() for line in axis.get_lines()][::3] == ["dense", "fast"]
