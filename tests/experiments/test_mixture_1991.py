"""The study of 1991 on a few made-up vowels: what is trained, compared, drawn and told."""

import jax
import numpy as np
import pytest

from configs import mixture_1991 as configs
from experiments import mixture_1991
from experiments.mixture_parts import fitting, held_out, starts
from experiments.mixture_parts import vowels as learning
from moe.analysis import mixture_1991 as tables
from moe.analysis import mixture_fits
from moe.data import tables as sources
from moe.data import vowels
from moe.models.hierarchy import HierarchyConfig
from moe.models.mixture import MixtureConfig

MEANS = ((0.3, 2.5), (0.45, 2.1), (0.9, 1.1), (0.65, 1.3))


@pytest.fixture
def found():
    """Four vowels of two speakers to train with and one for tests, four times each."""
    rng = np.random.default_rng(0)
    vowel_R = np.tile(np.arange(4), 12)
    formant_RI = np.array(MEANS)[vowel_R] + 0.01 * rng.normal(size=(48, 2))
    return vowels.Vowels(formant_RI, vowel_R, np.repeat([1, 2, vowels.TRAINING + 1], 16))


@pytest.fixture
def config(monkeypatch):
    """Two seeds and a pilot; a table of 20 rows for each kind."""
    config = configs.demo()
    config.seeds, config.pilots = 2, 1
    v = config.vowels
    v.rates, v.most_epochs, v.criterion = (2.0, 1e-6), 300, 0.2
    del v.models["mixture_8"], v.models["network_12"], v.readings["four outputs"]
    config.tables.update(gradient_steps=4, em_steps=3, rates=(0.1,), hidden={"wine": 2})
    config.starts.update(gradient_steps=20, em_steps=8, rates=(0.1,), nudge=0.01)

    def read(name):
        rng = np.random.default_rng(0)
        x_RI = rng.normal(size=(20, 2))
        if name == "wine":
            return x_RI, np.eye(2)[(x_RI[:, 0] > 0).astype(int)]
        return x_RI, np.abs(x_RI[:, :1]) + 0.1 * rng.normal(size=(20, 1))

    monkeypatch.setattr(sources, "read", read)
    return config


def test_the_study(config, found, monkeypatch, tmp_path, capsys):
    """Every part is measured once, and the report has all of them."""
    monkeypatch.setattr(vowels, "read", lambda: found)
    mixture_1991.main(config, str(tmp_path))
    said = capsys.readouterr().out
    (mixture,) = (line for line in said.splitlines() if "| mixture_4 | competitive | 24 |" in line)
    cells = mixture.split(" | ")
    assert cells[4] == "2*" and cells[7] == "100%" and cells[9:11] == ["100.0%", "100.0%"]
    assert "| wine | hierarchy, EM |" in said and "| autompg | near | L-BFGS |" in said
    for name in ("mixture_1991.png", "regions.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    for part, work in ((learning, "_swept"), (held_out, "_scored"), (starts, "_of_table")):
        monkeypatch.setattr(part, work, lambda *args: pytest.fail("measured again"))
    records = learning.measured(config, tmp_path, found)
    assert len(records) == 4 and records[1]["reached"] == [False] * 3
    assert len(held_out.measured(config, tmp_path)) == 6
    assert [one["starts"] for one in starts.measured(config, tmp_path)] == ["random", "near"]


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
    """Each side its own; the common one is where the slower side is fastest."""
    sweeps = tables.sweeps(RECORDS)
    own, network = sweeps.values()
    assert tables.best_rate(own) == 2.0 and tables.best_rate(network) == 1.0
    assert tables.common_rate([own, network]) == 2.0
    assert (
        tables.best_rate({1.0: record("network_6", [1, 1, 1], 1.0) | {"reached": [0] * 3}}) is None
    )
    best, common = tables.table(RECORDS).split("\n\n")[:2]
    row = (
        "| one output | mixture_4 | competitive | 24 | 2 | 15 ± 64 | 7 | 100% | 0.50 (0.50 to 0.50)"
    )
    assert row in best and "| 1,124 (23) | 0.51 |" in best and "| 1* | 30 ± 127 |" in best
    assert "| mixture_4 | competitive | 2 | 15 ± 64 | 100% | 0.18 (" in common
    assert tables.ratio(RECORDS[2], RECORDS[0]) == "not all reach it"
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
    assert row.endswith("| 10.00 (10.00 to 10.00) | 90.00 (90.00 to 90.00) |")


def test_gradients_start_where_em_does():
    """The tree without bounds has the same objective, but for a variance at its floor."""
    c = HierarchyConfig(inputs=2, outputs=1, depth=1)
    x_RI, y_RO = np.ones((3, 2)), np.zeros((3, 1))
    free, bounded = fitting.by_gradient(c), fitting.by_em(c)
    key = jax.random.key(0)
    want = bounded.objective(bounded.init(key), x_RI, y_RO)
    np.testing.assert_allclose(free.objective(free.init(key), x_RI, y_RO), want, rtol=1e-4)


def test_a_run_that_never_reaches_it_ends(found):
    train, _ = learning.splits(found, (("i", "ɑ"),))
    model = MixtureConfig(inputs=2, outputs=1)
    done = learning.learned(model, "cooperative", train, np.array([0]), 1e-6, 0.08, 5)
    assert done.epochs.tolist() == [5] and done.error[0] > 0.08
