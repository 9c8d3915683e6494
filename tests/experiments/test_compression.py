"""What a smaller model costs in bytes, and the table of what it loses."""

import pytest

from configs import compression as configs
from experiments import compression, distillation
from moe import adapt
from moe.analysis import compression as tables
from tests import tiny
from tests.adapt import cases
from tests.training import toys


@pytest.fixture(scope="module")
def trained():
    return cases.trained()


def test_every_method_is_applied(trained):
    """Each makes a model of the size that is said."""
    seen = [tiny.inputs()]
    numbers = 2 * 8 * 2 * 8 * 8  # of all experts
    whole = compression.stored_bytes(trained, None)
    rest = whole - 2 * numbers
    half = compression.changed(trained, seen, "prune_reap", 4)
    assert compression.stored_bytes(half, None) == pytest.approx(whole - numbers - 2 * 2 * 8 * 4)
    for how, bits in (("int8", 8), ("int4", 4)):
        made = compression.changed(trained, seen, how)
        size = compression.stored_bytes(made, compression.expert_bytes(made, how))
        assert rest + numbers * bits / 8 < size < rest + numbers * (bits + 4) / 8
    ternary = compression.changed(trained, seen, "qmoe")
    size = compression.expert_bytes(ternary, "qmoe")
    assert 0.1 * numbers < size < numbers
    assert compression.expert_bytes(half, "prune_reap") is None
    assert set(adapt.METHODS) > {"prune_reap", "int8", "int4", "qmoe"}


def test_dense_ones_stay_as_they_are(tmp_path):
    """The baseline and the student beside every method of the model with experts."""
    config = configs.demo()
    sparse = toys.run_config(mesh={"data": 1, "expert": 1}, model={"experts": tiny.moe_config(k=2)})
    dense = sparse.replace(model={"experts": None})
    runs = {"dense": dense, "e32_top2": sparse}
    runs |= distillation.students(config, runs, tmp_path)
    found = [of["method"] for of, _ in compression._looks(config, runs, tmp_path, None)]
    assert found == ["dense", "whole", *config.methods, "e32_top2_student"]


def test_writing_is_timed(trained):
    found = compression.tokens_per_second({"whole": trained, "again": trained}, 2)
    assert list(found) == ["whole", "again"] and min(found.values()) > 0


def found(method, seed, nll, size, **more):
    return {"method": method, "seed": seed, "nll": nll, "bytes": size * 2.0**20, **more}


FOUND = [
    *(found("whole", s, 2.0 + s / 10, 8, tokens_per_second=100.0) for s in range(3)),
    *(found("dense", s, 2.4 + s / 10, 2, tokens_per_second=300.0) for s in range(3)),
    *(found("half", s, 2.1 + s / 10 + s / 100, 4) for s in range(3)),
]


def test_the_table():
    rows = tables.table(FOUND).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:5]] == ["| whole", "| half", "| dense"]
    assert rows[2] == "| whole | 8.00 MiB | 100.0% | 2.1000 |  | 100% ± 0% | 100 |"
    assert rows[3].startswith("| half | 4.00 MiB | 50.0% | 2.2100 | +0.1100 ± 0.0248 | 72% ± 6% |")
    assert "| +0.4000 ± 0.0000 | 0% ± 0% | 300 |" in rows[4]
    worse = [one | {"nll": 1.0} if one["method"] == "dense" else one for one in FOUND]
    assert tables.table(worse).count("no gain") == 3


def test_the_figure(tmp_path):
    tables.drawn(FOUND).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
