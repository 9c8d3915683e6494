"""Routers side by side, and claims judged by intervals."""

import numpy as np
import pytest

from moe.analysis import plots, routers
from tests.analysis import test_scaling_table as scaling_table

DOCUMENTS = 40


def record(name, loss, seed=0, spread=0.01, **changes):
    """A run whose documents all lose `loss` a token, but for noise of their own."""
    noise = spread * np.random.default_rng(sum(map(ord, name)) + seed).normal(size=DOCUMENTS)
    noise -= noise.mean()
    routing = {"dropped": 0.05, "unrouted": 0.02, "max_load": 1.5, "unused": 1.0, "realised_k": 2.0,
               "realised_capacity": 1.25}  # fmt: skip
    fields = {
        "experts": 8,
        "train_routing": routing,
        "test_documents_nll": list(10 * (loss + noise)),
        "test_documents_tokens": [10] * DOCUMENTS,
        "test_documents": list(range(DOCUMENTS)),
    }
    curve = [loss + 2.0, loss + 1.0, loss + 0.5, loss]
    return scaling_table.record(name, seed, curve, **fields | {"test_nll": loss} | changes)


RECORDS = [
    record("top_1", 3.0), record("better", 2.5), record("alike", 3.001, spread=0.2),
    record("dense", 3.5, experts=0, train_routing={}),
]  # fmt: skip


def rows(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()
            if line.startswith("|")]  # fmt: skip


def test_the_best_comes_first():
    slower = [{**r, "step_seconds": 0.2} if r["variant"] == "better" else r for r in RECORDS]
    head, _, *body = rows(routers.table(slower, "top_1"))
    assert [row[0] for row in body] == ["better", "top_1", "alike", "dense"]
    best = dict(zip(head, body[0], strict=True))
    assert best["test nats"] == "2.5000" and best["Δ nats (95%)"].startswith("-0.5")
    assert best["steps"] == "75%" and best["seconds"] == "150%"
    assert best["dropped"] == "5.0%" and best["realised K"] == "2.00"
    assert best["entropy"] == "-"  # of a router without probabilities
    own = dict(zip(head, body[1], strict=True))
    assert own["Δ nats (95%)"] == "" and own["steps"] == "100%"
    assert dict(zip(head, body[3], strict=True))["dropped"] == "-"


def test_several_seeds_have_both_intervals():
    """That over seeds knows all models' spread: t(0.975, 1) = 12.7062 times 0.1 / 2 for two."""
    more = [record(name, loss, seed=1) for name, loss in (("top_1", 3.1), ("better", 2.7))]
    text = routers.table(RECORDS[:2] + more, "top_1")
    assert "-0.4500 ± 0.0" in text and "(documents), ± 0.6353 (2 seeds)" in text
    said = [routers.Claim("somebody", "one beats the other", "better", "top_1")]
    assert rows(routers.claims(RECORDS[:2] + more, said))[2][3] == "open"
    # A third that has not finished its second seed leaves the interval of the two as it is.
    assert "(documents), ± 0.6353 (2 seeds)" in routers.table(RECORDS[:3] + more, "top_1")


def test_dense_says_nothing_of_the_spread_of_experts():
    quiet = [record("dense", 3.5, seed=s, experts=0, train_routing={}) for s in (0, 1)]
    more = [record(name, loss, seed=1) for name, loss in (("top_1", 3.1), ("better", 2.7))]
    assert "± 0.6353 (2 seeds)" in routers.table(RECORDS[:2] + more + quiet, "top_1")


def test_nothing_to_compare_with():
    assert "no finished run of 'top_1'" in routers.table(RECORDS[1:], "top_1")


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (("better", "top_1"), "yes"),
        (("top_1", "better"), "no"),
        (("alike", "top_1"), "open"),
        (("better", "top_1", 1.2), "yes"),
        (("better", "top_1", 2.0), "less so"),
        (("late", "top_1", 2.0), "no"),
    ],
)
def test_a_claim_is_judged_by_its_interval(claim, verdict):
    said = [routers.Claim("somebody", "one beats the other", *claim)]
    late = {"curve_nll": [9.0, 8.0, 7.0, 3.0], "curve_steps": [10, 20, 30, 60]}
    both = [r for s in (0, 1) for r in (
        *({**r, "seed": s} for r in RECORDS), record("late", 2.9, seed=s, **late))]  # fmt: skip
    (row,) = rows(routers.claims(both, said))[2:]
    assert row[:2] == ["somebody", "one beats the other"] and row[3] == verdict
    assert f"{claim[0]} less {claim[1]}" in row[2]
    if len(claim) == 3:
        assert f"{1.33 if claim[0] == 'better' else 0.67} times the speed" in row[2]
    assert "(5.0% against 5.0% dropped)" in row[2]


def test_one_seed_judges_nothing():
    said = [routers.Claim("somebody", "one beats the other", "better", "top_1")]
    assert rows(routers.claims(RECORDS, said))[2][3] == "one seed"


def test_a_claim_of_runs_that_are_missing_is_left_out():
    said = [routers.Claim("somebody", "x", "nobody", "top_1")]
    assert len(rows(routers.claims(RECORDS, said))) == len(rows(routers.claims([], said))) == 2


def test_figures(tmp_path):
    named = [record(f"top_{k}_factor_1", 3.0) for k in (1, 2)]
    load = [{"step": s, "load_LE": [[0.5, 0.5]]} for s in (1, 2)]
    for drawn in (
        plots.routers_figure(RECORDS, "top_1"),
        plots.capacity_figure(named + RECORDS[3:]),
        plots.balance_figure({"one": load}),
    ):
        plots.save(drawn, tmp_path / "x.png")
        assert (tmp_path / "x.png").stat().st_size > 5000
