"""The rounds of the study, what every way chooses, and the report."""

import math

import numpy as np
import pytest

from configs import blender as configs
from experiments import records, scaling
from experiments.blender_parts import measured, trained, written
from moe import errors, models, paths, schema
from moe.analysis import blender as tables
from moe.data import candidates
from moe.ensemble import blender
from moe.evaluation import chrf
from moe.initialisation import mapping
from moe.training.config import RunConfig
from tests.objectives import pairs
from tests.training import toys


@pytest.fixture
def config():
    found = configs.cpu()
    found.base.model.update(vocab_size=toys.V, num_layers=1, d_model=8, num_heads=1, d_head=8)
    found.base.model.update(d_ff=16)
    found.base.data.vocab_size = toys.V
    found.experts.group_size = 64
    found.match = "ideal"
    found.variants = {name: found.variants[name] for name in ("dense", "e8_top2")}
    return found


def shapes(model):
    return paths.named(models.parameter_shapes(model))


def test_what_ranker_and_fusers_begin_with(config, tmp_path):
    """All of it, but for what is said to be new; and each reads the candidates of its seed."""
    base = schema.from_config_dict(RunConfig, config.base, "base.")
    first = trained.starts(config, base)
    rankers = trained.rankers(config, base, tmp_path)
    assert list(rankers) == ["ranker_lr_0_001", "ranker_lr_0_004"]
    ranker = records.seeded(rankers["ranker_lr_0_004"], 7)
    assert ranker.objective.options.folder == str(tmp_path / "candidates" / "seed7")
    assert ranker.init_from.workdir == str(tmp_path / "encoder" / "seed7")
    assert ranker.optimizer.learning_rate == 0.004 and ranker.train.steps == 1000
    origins = mapping.origins(
        ranker.init_from, shapes(ranker.model), shapes(first["encoder"].model)
    )
    fresh = {path for path, origin in origins.items() if origin.saved is None}
    assert fresh == {"marks", "pair", "score"}
    fusers = trained.fusers(config, base, tmp_path, {"fuser": "there/seed{seed}"})
    fuser = records.seeded(fusers["fuser_lr_0_002"], 7)
    assert fuser.objective.options.folder == "there/seed7"
    origins = mapping.origins(fuser.init_from, shapes(fuser.model), shapes(first["reader"].model))
    assert all(origin.rule == "take" for origin in origins.values())
    runs = scaling.variants(config)
    assert runs["dense"].train.unique_tokens > 0 == fuser.train.unique_tokens
    assert records.seeded(runs["dense"], 7).objective == runs["dense"].objective


def test_what_lies_between_the_rounds(config, tmp_path, monkeypatch):
    """Inputs for training are of text that no model reads; fusers read the best three, in order."""
    config.inputs = {"length": 4, "written": 2, "of_document": 2, "train": 5}
    config.base.train.update(unique_tokens=256, batch_size=4, seq_len=64)
    base = schema.from_config_dict(RunConfig, config.base, "base.")
    monkeypatch.setattr(blender, "continued", lambda one, input_XZ, *_: input_XZ[:, :2] + one)
    monkeypatch.setattr(written, "quality", lambda data, made, _: made[:, 1].astype(float))
    data = toys.data()
    found = written.of_models(config, base, data, [0, 1, 2, 3], "train")
    assert found.candidate_XNY.shape == (5, 4, 2) and found.reference_XY.shape == (5, 2)
    begins = np.flatnonzero(data.tokens["train"] == 0)
    assert begins[found.document_X].min() > 256
    assert (found.quality_XN == found.input_XZ[:, 1:2] + np.arange(4)[None]).all()
    for split in written.SPLITS:
        candidates.write(tmp_path / "candidates" / "seed0", split, found)
    M_XNN = np.zeros((5, 4, 4)) + np.array([1, 3, 0, 2])[:, None]  # who comes first, by row
    monkeypatch.setattr(written, "ranked", lambda *_: M_XNN)
    folders = written.write_chosen(config, tmp_path, "ranker_lr_1", range(1))
    best = candidates.read(folders["fuser"].replace("{seed}", "0"), "test")
    assert (best.quality_XN - best.input_XZ[:, 1:2]).tolist() == [[1, 3, 0]] * 5
    random = candidates.read(folders["fuser_random"].replace("{seed}", "0"), "test")
    assert len({tuple(row) for row in random.quality_XN - random.input_XZ[:, 1:2]}) > 1


def test_candidates_of_other_inputs_are_refused(config, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(written, "opened", lambda root, name, seed: asked.append(name))
    monkeypatch.setattr(written, "of_models", lambda *_: pairs.found(3))
    monkeypatch.setattr(written.prepare, "prepare", lambda data: toys.data())
    runs = scaling.variants(config)
    for _ in range(2):
        written.write_candidates(config, runs, tmp_path, range(1))
    assert asked == ["dense", "e8_top2"]
    config.inputs.written = 3
    with pytest.raises(errors.UserError, match="seed0 was made with .*'written': 16.*delete it"):
        written.write_candidates(config, runs, tmp_path, range(1))


def test_what_every_way_chooses():
    """Three candidates: the ranker holds 2 for the best, each model its own, all of them 0."""
    found = pairs.found(4)._replace(quality_XN=np.tile([10.0, 40.0, 20.0], (4, 1)))
    M_XNN = np.tile(np.array([[0, -1, -3], [0, 0, -1], [2, 1, 0]]), (4, 1, 1))
    log_p_NN = np.array([[-1.0, -9, -9], [0, -1.5, -9], [0, -9, -0.5]])
    got = measured.of_choices(found, M_XNN, np.repeat(log_p_NN[..., None], 4, -1), seed=0)
    assert {way: set(x.tolist()) for way, x in got.items()} == {
        "oracle": {40.0}, "random": {70 / 3}, "likelihood": {20.0}, "likelihood of all": {10.0},
        "ranker": {20.0}, "ranker, wins": {20.0}, "ranker, bubble": {20.0},
    }  # fmt: skip
    told = measured.by_document(np.array([3, 3, 5, 9]), {"way": np.array([1.0, 2, 3, 4])})
    assert told == {"inputs": [2, 1, 1], "sums": {"way": [3.0, 3.0, 4.0]}}


def found(seed, **means):
    """Of 40 documents of two inputs; the noise is common to all ways but for a little."""
    rng = np.random.default_rng(seed)
    common_X = rng.normal(40, 5, 40)
    sums = {
        way.replace("_", " "): (common_X + 2 * mean + rng.normal(0, 0.1, 40)).tolist()
        for way, mean in means.items()
    }
    validation = {"dense": 20.0, "e8": 21.0}
    return {
        "seed": seed, "validation": validation, "best": {"dense": 0.5, "e8": 0.75},
        "inputs": [2] * 40, "sums": sums,
    }  # fmt: skip


WAYS = {"dense": 2.0, "e8": 1.0, "oracle": 9, "likelihood": 1, "ranker": 3, "fuser": 1}
FOUND = [
    found(s, **WAYS) | {} for s in range(3)
]  # the model that is the best of validation inputs is not that of test inputs
for one in FOUND:
    one["sums"]["ranker, bubble"] = one["sums"]["ranker"]
    one["sums"]["fuser_random"] = one["sums"]["fuser"]


def test_the_report():
    rows = tables.ways_table(FOUND).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows[:2]] == ["| oracle", "| ranker"]
    assert any(row.startswith("| e8 (best single) | ") and "| 75% |" in row for row in rows)
    apart = tables.difference(FOUND, "ranker", tables.BEST)
    assert apart.mean == pytest.approx(2, abs=0.02) and 0 < apart.documents < apart.half < 0.2
    claims = tables.claims_table(FOUND).splitlines()[2:]
    verdicts = [row.split(" | ")[-1].strip(" |") for row in claims]
    assert verdicts == ["agrees", "agrees", "open", "does not agree", "open", "open"]
    assert tables.verdict(tables.difference(FOUND[:1], "ranker", "e8")) == "one seed"
    assert math.isnan(tables.difference(FOUND[:1], "ranker", "e8").seeds)
    lines = [{"variant": "ranker_lr_0_1", "curve_nll": [0.7, 0.5]}, {"variant": "dense"}]
    assert tables.text(FOUND, lines).endswith("| ranker_lr_0_1 | 0.5000 |")


def test_the_figure(tmp_path):
    tables.drawn(FOUND).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def test_quality_is_of_text_without_its_end(monkeypatch):
    """What stands after the end has no text."""
    seen = []

    class Words:
        def decode_batch(self, ids):
            return [" ".join(map(str, one)) for one in ids]

    monkeypatch.setattr(written.tokenizer, "load", lambda path: Words())
    monkeypatch.setattr(chrf, "chrf", lambda *given: seen.append(given))
    written.quality(toys.data(), np.array([[5, 0, -1]]), np.array([[5, 6, 7]]))
    assert seen == [(["5 0"], ["5 6 7"])]
