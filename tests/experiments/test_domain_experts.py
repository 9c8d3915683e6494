"""Branches of a study at equal FLOPs in all, what every way says of a domain, and the table."""

import dataclasses

import numpy as np
import pytest

from configs import domain_experts as configs
from experiments import domain_experts, records
from moe import errors
from moe.adapt.banks import Trained
from moe.analysis import domain_experts as tables
from moe.data import prepare
from tests import tiny
from tests.adapt import cases
from tests.training import toys

SIZES = {"vocab_size": toys.V, "d_model": 8, "num_heads": 1, "d_head": 8, "d_ff": 16}


@pytest.fixture
def config(monkeypatch):
    data = toys.data()
    domain_X = (np.arange(400) >= 100).astype(np.uint8)  # a quarter is of the first domain
    data = dataclasses.replace(data, domains={"train": domain_X})
    monkeypatch.setattr(prepare, "prepare", lambda config: data)
    found = configs.cpu()
    found.base.model.update(num_layers=1, **SIZES)
    found.base.data.update(vocab_size=toys.V, source=("code", "cloud_docs"))
    found.experts.group_size = found.mixed.group_size = 64
    found.mixed.num_experts = 2
    found.match = "ideal"
    found.variants = {"dense": {}}
    return found


def test_branches_read_their_share(config, tmp_path):
    """Each starts from the seed phase of its seed, and all ways cost alike."""
    runs = domain_experts.general(config)
    assert runs["seed"].train.steps == 1000 and runs["dense"].train.steps == 6000
    runs |= domain_experts.branches(config, runs["seed"], tmp_path)
    steps = {name: runs[name].train.steps for name in ("code", "cloud_docs")}
    assert steps == {"code": 1250, "cloud_docs": 3750}
    assert runs["code_short"].train.steps < 1250
    code = records.seeded(runs["code"], 3)
    assert code.data.source == ("code",) and code.data.tokenizer.endswith("tokenizer.json")
    assert code.init_from.workdir == str(tmp_path / "seed" / "seed3")
    runs |= domain_experts.mixing(config, runs["seed"], tmp_path)
    assert runs["mix"].data.source == ("code", "cloud_docs") and runs["mix"].model.experts.k == 2
    found = domain_experts.total_flops(config, runs)
    assert found["branches"] == pytest.approx(found["dense"])
    assert found["mix"] == pytest.approx(found["dense"], rel=1e-3)
    dear = runs | {"mix": runs["mix"].replace(train={"steps": 6000})}
    with pytest.raises(errors.UserError, match="ways of training cost unlike"):
        domain_experts.total_flops(config, dear)
    config.steps.mix = 5000
    with pytest.raises(errors.UserError, match="lower seed or mix, or raise whole"):
        domain_experts.lengths(config, runs["seed"])


def dense(seed):
    model = tiny.model(num_layers=2, experts=None)
    return Trained(model, tiny.params(model, seed), {})


def test_every_way_is_measured(config):
    """Branches of one model are that model, however they are mixed."""
    config.variants = {"dense": {}, "demix": {}}
    same, other = (dense(seed) for seed in range(2))
    told = cases.trained(experts={"router": "domain", "k": 1, "num_experts": 2})
    models = {"seed": other, "mix": other, "dense": same, "demix": told, "code": same, "docs": same}
    text = {split: [tiny.inputs(seed=i)] for i, split in enumerate(("validation", "test"))}
    found = domain_experts.losses(config, ["code", "docs"], 1, models.__getitem__, text)
    merged = [x for name, x in found.items() if name.startswith(("branch", "average"))]
    assert len(merged) == 6 and np.ptp(merged) < 1e-5
    assert merged[0] == pytest.approx(found["dense"], rel=1e-5) != found["seed"]
    assert {"demix", "demix uniform", "demix updating", "demix cached"} < set(found)
    assert found["demix"] != found["demix uniform"]


FOUND = [
    {"domain": domain, "seed": seed, "nll": {"dense": 2.0 + n + seed, "mix": 1.8 + n + seed}}
    for seed in range(3)
    for n, domain in enumerate(("code", "docs"))
]


def test_the_table(tmp_path):
    rows = tables.table(FOUND).splitlines()[2:4]
    assert rows[0] == "| mix | 3.3000 | -0.2000 ± 0.0000 | 2.8000 | 3.8000 |"
    assert rows[1] == "| dense | 3.5000 |  | 3.0000 | 4.0000 |"
    tables.drawn(FOUND).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000
