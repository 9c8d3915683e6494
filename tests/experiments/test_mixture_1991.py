"""The study of 1991 on a few made-up vowels: what is trained, compared, drawn and told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mixture_1991 as configs
from experiments import mixture_1991
from experiments.mixture_parts import fitting, held_out, starts
from experiments.mixture_parts import vowels as learning
from moe.analysis import mixture_1991 as tables
from moe.analysis import mixture_fits
from moe.data import vowels
from moe.models.hierarchy import HierarchyConfig

MEANS = ((0.3, 2.5), (0.45, 2.1), (0.9, 1.1), (0.65, 1.3))


@pytest.fixture
def found():
    """Four vowels of two speakers to train with and one for tests, four times each."""
    rng = np.random.default_rng(0)
    vowel_R = np.tile(np.arange(4), 12)
    formant_RI = np.array(MEANS)[vowel_R] + 0.01 * rng.normal(size=(48, 2))
    return vowels.Vowels(formant_RI, vowel_R, np.repeat([1, 2, vowels.TRAINING + 1], 16))


@pytest.fixture
def config():
    """Two models, two seeds and a pilot."""
    config = configs.demo()
    config.seeds, config.pilots = 2, 1
    v = config.vowels
    v.rates, v.most_epochs, v.criterion = (16.0, 1e-6), 1000, 0.1
    del v.models["mixture_8"], v.models["network_12"], v.readings["four outputs"]
    return config


HELD_OUT = [
    {"table": "wine", "model": model, "weights": 9, "loss": [0.1, loss], "wrong": [0.0, 0.5]}
    for model, loss in (("network, gradient", 0.1), ("mixture, EM", 0.2))
]


def test_the_study(config, found, monkeypatch, tmp_path, capsys):
    """Vowels are learned once, and the report has every part."""
    monkeypatch.setattr(vowels, "read", lambda: found)
    monkeypatch.setattr(held_out, "_looks", lambda config: [])
    monkeypatch.setattr(starts, "_looks", lambda config: [])
    mixture_1991.main(config, str(tmp_path))
    said = capsys.readouterr().out
    (mixture,) = (line for line in said.splitlines() if "| mixture_4 | competitive | 24 |" in line)
    cells = mixture.split(" | ")
    assert cells[4] == "16*" and cells[7] == "100%" and cells[9:11] == ["100.0%", "100.0%"]
    for name in ("mixture_1991.png", "regions.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    monkeypatch.setattr(learning, "_swept", lambda *args: pytest.fail("measured again"))
    records = learning.measured(config, tmp_path, found)
    assert len(records) == 4 and records[1]["reached"] == [False] * 3
    assert "| wine | mixture, EM | 9 | 0.1500 | +0.0500 ± 0.6353 | 25.0% |" in (
        mixture_fits.held_out(HELD_OUT)
    )


def parabola(em_step=None):
    """A model of one number whose objective is highest, at 0, where it is 2."""

    def objective(w, x_RI, y_RO):
        return -jnp.square(w - 2).sum()

    def predict(w, x_RI):
        return jnp.full((len(x_RI), 1), w[0])

    return fitting.Model(1, lambda key: jnp.zeros(1), objective, predict, em_step)


def test_validation_chooses_the_step():
    """Of a number that grows by 1 a step, the one that is nearest to the validation rows' 3."""
    model = parabola(lambda w, x_RI, y_RO: w + 1)
    x = jnp.zeros((2, 1))
    parts = [(x, x), (x, x + 3), (x, x + 5)]
    loss, test_M = held_out.best_step(model, "gaussian", 6, jax.random.key(0), parts, 0.0)
    assert loss == 0 and test_M.tolist() == [4, 4]


def test_gradient_methods_climb():
    cases = (jnp.zeros((1, 1)),) * 2
    _, curve_ST = starts.fitted(parabola(), 60, cases, jnp.array([[0.0], [5.0]]), 0.2)
    assert curve_ST[:, 0].tolist() == [-4, -9] and (curve_ST.max(1) > -0.01).all()
    curve = starts.lbfgs(parabola(), cases, jnp.array([0.0]), 50)
    assert curve[0] == -4 and curve[-1] > -1e-8 and len(curve) < 10


def test_one_output_is_one_for_its_vowels(found):
    train, test = learning.splits(found, (("i", "ɑ"),))
    assert train.target_RO[:4, 0].tolist() == [1, 0, 1, 0]
    assert (len(train.x_RI), len(test.x_RI)) == (32, 16)
    four, _ = learning.splits(found, (("i",), ("ɪ",), ("ɑ",), ("ʌ",)))
    assert four.target_RO[:4].tolist() == np.eye(4).tolist()


def record(model, epochs, rate, reached=True, loss="competitive"):
    """Two seeds and one pilot."""
    return {
        "reading": "one output", "model": model, "loss": loss, "rate": rate, "seeds": 2,
        "weights": 24, "epochs": epochs, "reached": [True, reached, True], "train": [0.9] * 3,
        "test": [0.8] * 3,
    }  # fmt: skip


RECORDS = [
    record("mixture_4", [50, 50, 100], 1.0), record("mixture_4", [10, 20, 40], 2.0),
    record("mixture_4", [99, 99, 99], 4.0, reached=False),
    record("network_6", [20, 40, 30], 1.0), record("network_6", [80, 80, 80], 2.0),
    record("network_6", [70, 70, 70], 4.0),
]  # fmt: skip


def test_pilots_choose_the_rates():
    """Each side its own; then both sides have the same."""
    sweeps = tables.sweeps(RECORDS)
    own, network = sweeps.values()
    assert tables.best_rate(own) == 2.0 and tables.best_rate(network) == 1.0
    assert (
        tables.best_rate({1.0: record("network_6", [1, 1, 1], 1.0) | {"reached": [0] * 3}}) is None
    )
    best, each = tables.table(RECORDS).split("\n\n")[:2]
    row = (
        "| one output | mixture_4 | competitive | 24 | 2 | 15 ± 64 | 7 | 100% | 0.50 (0.50 to 0.50)"
    )
    assert row in best and "| 1,124 (23) | 0.51 |" in best and "| 1* | 30 ± 127 |" in best
    assert "| 1 | 2 | 4 |" in each and "| 0.18 (0.0022 to 14.45) | 75% |" in each
    assert tables.epochs(RECORDS[2]) == "≥ 99 ± 0"


def test_passes_are_counted_to_the_lower_end():
    em = [np.array([0.0, 5.0, 9.0, 10.0])]
    found = starts.against(em, 9, [np.array([0.0, 4.0, 8.0, np.nan, 7.0])], (0.5,))
    assert found == {"em_end": [10.0], "end": [8.0], "to": {"0.5": {"em": [18], "other": [3]}}}


def test_the_table_of_starts():
    passes = {"1e-06": {"em": [90, 180], "other": [900, 1800]}}
    found = {"em_end": [1.0, 2.0], "end": [1.0, 3.0], "to": passes}
    one = {"table": "t", "starts": "near", "passes": 9, "rate": 0.1, "methods": {"Adam": found}}
    row = mixture_fits.starts([one]).splitlines()[2]
    assert row.startswith("| t | near | Adam | 0.1 | +0.5000 ± 6.3531 | 50% | 1e-06 | 15 | 135 |")
    assert row.endswith("| 10.00 (10.00 to 10.00) | 10.00 | 90.00 (90.00 to 90.00) |")


def test_gradients_start_where_em_does():
    c = HierarchyConfig(inputs=2, outputs=1, depth=1)
    cases = np.ones((3, 2), np.float32), np.zeros((3, 1), np.float32)
    values = [
        jax.jit(lambda key, model=model: model.objective(model.init(key), *cases))
        for model in (fitting.by_gradient(c), fitting.by_em(c))
    ]
    free, bounded = (value(jax.random.key(0)) for value in values)
    np.testing.assert_allclose(free, bounded, rtol=1e-4)
