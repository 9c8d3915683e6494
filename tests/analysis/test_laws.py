"""Laws are their papers' formulas, and the fitter finds the coefficients that made the runs."""

import gzip

import numpy as np
import pytest

from experiments import laws as program
from moe.analysis import fitting, published
from moe.analysis.laws import LAWS, Cells, saturated


def one_run(**fields):
    """A run of a known size; every field is an array of one."""
    known = {"loss": 3.0, "size": 1e8, "total": 5e8, "tokens": 1e10, "experts": 8.0, "k": 1.0}
    return Cells(**{k: np.array([v]) for k, v in (known | {"granularity": 4.0} | fields).items()})


def test_experts_saturate():
    """One expert counts as `start`, many as nearly `most`, and the rest lie between."""
    got = saturated(np.array([1.0, 2, 1e9]), 1.847, 314.478)
    np.testing.assert_allclose(got, [1.847, 2.831, 314.478], rtol=1e-3)


@pytest.mark.parametrize(
    ("experts", "m", "mu", "n", "nu"),
    [(1, 30.364, -0.1817, 53.984, -0.1965), (8, 21.833, -0.1676, 119.913, -0.2338),
     (32, 16.542, -0.1557, 234.673, -0.2652)],
)  # fmt: skip
def test_the_joint_law_is_the_papers_law_of_each_e(experts, m, mu, n, nu):
    """Ludziejewski et al. 2025: L = m N^mu + n D^nu + c for each number of experts."""
    cells = one_run(experts=float(experts))
    (got,) = fitting.predict(LAWS["ludziejewski"], published.TRUTHS["ludziejewski"], cells)
    want = m * 1e8**mu + n * 1e10**nu + 1.3637
    assert got == pytest.approx(want, rel=1e-3)


def test_the_other_laws_by_hand():
    def predicted(name, **fields):
        return fitting.predict(LAWS[name], published.TRUTHS[name], one_run(**fields))[0]

    e = np.log10(saturated(np.array(8.0), 1.847, 314.478))
    assert np.log10(predicted("clark")) == pytest.approx(1.104 - 0.082 * 8 + (0.072 - 0.108) * e)
    want = 1.69 + 406.4 / 1e8**0.34 + 410.7 / 1e10**0.28
    assert predicted("chinchilla") == pytest.approx(want)
    want = 0.47 + (18.1 + 2.1 / 4**0.58) / 5e8**0.115 + 30.8 / 1e10**0.147
    assert predicted("krajewski") == pytest.approx(want)
    by_size = 16612.5 / 5e8**0.5962 + 17.26 * 8**0.1603 / 5e8**0.1595
    want = by_size + 5455.67 / 1e10**0.3954 + 0.4598 * 8**-0.1666 + 0.94
    assert predicted("abnar") == pytest.approx(want)


def test_kaplan_without_what_experts_do():
    """Kaplan et al. 2020, table 2 and equation 1.5."""
    dense = published.TRUTHS["kaplan"] | dict.fromkeys(("gamma", "delta", "zeta", "omega"), 0.0)
    want = ((8.8e13 / 1e8) ** (0.076 / 0.095) + 5.4e13 / 1e10) ** 0.095
    assert fitting.predict(LAWS["kaplan"], dense, one_run())[0] == pytest.approx(want)


@pytest.mark.parametrize("name", LAWS)
def test_without_noise_the_fit_says_what_the_truth_says(name):
    """Also where it was not fitted: at ten times the largest size and length."""
    law = LAWS[name]
    truth = published.TRUTHS[name]
    cells = published.synthetic(law, truth, 0, runs=80)
    cells = cells._replace(loss=fitting.predict(law, truth, cells))
    found = fitting.fit(law, cells)
    assert found.rmse < 2e-4
    beyond = cells._replace(size=10 * cells.size, total=10 * cells.total, tokens=10 * cells.tokens)
    got, want = (fitting.predict(law, c, beyond) for c in (found.coefficients, truth))
    np.testing.assert_allclose(got, want, rtol=1e-2)


def test_intervals_hold_the_truth():
    """In nearly all of ten studies; `experiments.laws --synthetic=100` has more, of every law."""
    truth = published.TRUTHS["chinchilla"]
    found = published.coverage(LAWS["chinchilla"], truth, 10, 40)
    assert all(n >= 8 for n in found.values()) and sum(found.values()) >= 0.9 * 10 * len(found)


def test_a_draw_keeps_cells_together():
    """Cells are drawn with replacement, and seeds inside each; a seed's lengths come together."""
    draw = fitting.of_cells(["a", "b", "a", "a", "c"], [0, 0, 1, 2, 0])
    rng = np.random.default_rng(0)
    drawn = [draw(rng).tolist() for _ in range(200)]
    assert {3, 5, 7, 9} == {len(numbers) for numbers in drawn}
    assert all(sum(n in (0, 2, 3) for n in numbers) % 3 == 0 for numbers in drawn)
    assert any(len({0, 2, 3} & set(numbers)) == 2 for numbers in drawn)
    lengths = fitting.of_cells(["a", "a", "b", "b"], [0, 0, 1, 1])
    numbers = lengths(rng).tolist()
    assert numbers.count(0) == numbers.count(1) and numbers.count(2) == numbers.count(3)


def write(path, rows):
    """A file as Clark's."""
    with gzip.open(path, "wt") as file:
        for row in rows:
            file.write(",".join(map(str, row)) + "\n")


HEAD = ("hyper_id", "step", "loss_validation", "num_experts", "k", "router_type", "seed",
        "routing_frequency", "total_parameter_count", "dense_parameter_count")  # fmt: skip


def test_of_their_runs_the_last_evaluations_are_read(tmp_path):
    rows = [
        (0, 1000, 3.5, 1, 1, "Dense", 42, 0.5, 1e7, 1e7),
        (0, 9000, 2.5, 1, 1, "Dense", 42, 0.5, 1e7, 1e7),
        (1, 9000, 2.25, 8, 1, "Hash", 42, 0.5, 9e7, 1e7),
        (2, 9000, 2.0, 8, 2, "Hash", 42, 0.5, 9e7, 1e7),  # two experts a token
        (3, 9000, 2.0, 8, 1, "Hash", 1, 0.5, 9e7, 1e7),  # another seed
    ]
    write(tmp_path / "curves.csv.gz", [HEAD, *rows])
    found = published.clark(tmp_path / "curves.csv.gz")
    assert found["HASH"].loss.tolist() == [2.5, 2.25]
    assert found["HASH"].experts.tolist() == [1, 8] and found["RL-R"].loss.tolist() == [2.5]
    write(tmp_path / "other.csv.gz", [("step", "loss"), (1, 2)])
    with pytest.raises(ValueError, match="lacks the columns dense_parameter_count, hyper_id"):
        published.clark(tmp_path / "other.csv.gz")


def test_the_table_sets_theirs_beside_ours(monkeypatch):
    """Runs made from the published coefficients give them back."""
    found = {
        router: published.synthetic(LAWS["clark"], truth, 1, runs=40)
        for router, truth in published.CLARK.items()
    }
    monkeypatch.setattr(published, "clark", lambda path: found)
    text = program.clark_table("curves.csv.gz", draws=30)
    assert text.count("| yes |") >= 15 and "of 18 inside (30 draws of cells)." in text
