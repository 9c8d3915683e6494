"""The best size and number of experts for a budget, against closed forms."""

import numpy as np
import pytest

from moe.analysis import cells, fitting, laws, optima, published

LAW = laws.LAWS["chinchilla"]
TRUTH = published.TRUTHS["chinchilla"]


def rows(experts=(1, 8), sizes=(1e6, 1e8, 1e10)):
    """Tokens cost 6 N FLOPs, 8 experts twice that, and have four times the parameters."""
    return [
        {
            "experts": e,
            "size": n,
            "executed_flops": 6 * n * (1 if e == 1 else 2),
            "total": n * (1 if e == 1 else 4),
        }
        for e in experts
        for n in sizes
    ]


PRICE, TOTAL = (optima.lines(rows(), field) for field in ("executed_flops", "total"))


def budget(amount, **limits):
    return optima.Budget(amount, PRICE, TOTAL, **limits)


def test_lines_are_straight_in_logarithms():
    got = PRICE.at(8, np.array([1e6, 1e7, 1e9]))
    np.testing.assert_allclose(got, [12e6, 12e7, 12e9])


def test_the_optimum_is_that_of_the_closed_form():
    """Hoffmann et al. 2022, equation 4: N = G (C / 6)^(beta / (alpha + beta))."""
    a, b, alpha, beta = (TRUTH[name] for name in ("a", "b", "alpha", "beta"))
    C = 1e20
    ratio = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    want = ratio * (C / 6) ** (beta / (alpha + beta))
    found = optima.best(LAW, TRUTH, 1, budget(C))
    assert found.size == pytest.approx(want, rel=0.05) and not found.limit
    assert found.tokens == pytest.approx(C / (6 * found.size))
    assert 0 <= found.loss - (1.69 + a / want**alpha + b / (C / 6 / want) ** beta) < 1e-4


def test_what_is_no_optimum_says_so():
    def limit(amount, **limits):
        return optima.best(LAW, TRUTH, 8, budget(amount, **limits)).limit

    assert limit(1e28) == "largest size" and limit(1e12) == "smallest size"
    assert limit(1e20) == "" and limit(1e20, memory=1e8) == "memory"
    assert limit(1e20, longest=1e9) == "more tokens than any run"
    assert limit(1e20, text=1e9) == "text" and limit(1e20, text=1e14) == ""


def test_scarce_text_makes_models_larger():
    """Until the budget is spent on reading it once."""
    found = optima.best(LAW, TRUTH, 1, budget(1e20, text=3e9))
    assert found.size == pytest.approx(1e20 / 6 / 3e9, rel=0.1)
    assert found.size > 2 * optima.best(LAW, TRUTH, 1, budget(1e20)).size


def test_memory_leaves_out_models():
    free = optima.best(LAW, TRUTH, 8, budget(1e20))
    tight = optima.best(LAW, TRUTH, 8, budget(1e20, memory=free.size))
    assert tight.size == pytest.approx(free.size / 4, rel=0.05) and tight.loss > free.loss
    assert optima.best(LAW, TRUTH, 8, budget(1e20, memory=1e6)) is None
    limited = optima.over_experts(LAW, TRUTH, budget(1e20, memory=2e6))
    assert [one.experts for one in limited] == [1]


def test_experts_that_do_nothing_but_cost_lose():
    """Chinchilla knows no experts: the dense model is best under every draw."""
    found = optima.over_experts(LAW, TRUTH, budget(1e20))
    assert [one.experts for one in found] == [1, 8] and found[0].loss < found[1].loss

    def choose(coefficients):
        return optima.over_experts(LAW, coefficients, budget(1e20))

    assert optima.best_experts([TRUTH] * 3, choose) == (1, 1, 1)


def test_the_table_is_read_back(tmp_path):
    head = "part,cell,seed,steps,experts,k,granularity,size,total,tokens,unique_tokens,test_nll,x"
    lines = [
        "small,a,0,10,1,1,1,100,100,20480,20480,3.5,",
        "small,a,1,10,1,1,1,100,100,20480,20480,3.6,1",
        "small,b,0,10,4,1,1,100,400,20480,20480,3.0,1",
        "small,b,1,10,4,1,1,100,400,20480,20480,3.12,1",
        "small,c,0,10,4,4,4,100,400,20480,20480,3.0,1",
        "again,d,0,10,4,1,1,100,400,20480,10240,3.2,1",
    ]
    (tmp_path / "cells.csv").write_text("\n".join([head, *lines]) + "\n")
    found = cells.read(tmp_path / "cells.csv")
    assert [row["cell"] for row in cells.plain(cells.once(found))] == ["a", "a", "b", "b"]
    assert np.isnan(found[0]["x"]) and found[1]["x"] == 1
    assert cells.of(found).loss.tolist() == [3.5, 3.6, 3.0, 3.12, 3.0, 3.2]
    assert cells.of(found).granularity[4] == 4
    # 0.10 and 0.12 differ by 0.02 / sqrt(2) in standard deviation, of which each loss has half.
    moved = [row["test_nll"] for row in cells.centred(found)]
    np.testing.assert_allclose(moved, [3.555, 3.545, 3.055, 3.065, 3.055, 3.255])
    assert cells.noise(found) == pytest.approx(0.02 / np.sqrt(2) / np.sqrt(2))
    assert fitting.fit(LAW, cells.of(found)).rmse < 1
