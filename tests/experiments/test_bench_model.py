"""The benchmark of whole models on tiny ones."""

import json

import pytest

from configs import bench_model as file
from configs import scaling
from experiments import bench_model, timing
from moe.analysis import dispatching

TINY = {
    "d_model": 8,
    "num_heads": 2,
    "d_head": 4,
    "d_ff": 64,
    "vocab_size": 300,
    "num_layers": 1,
    "moe_every": 1,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    root = tmp_path_factory.mktemp("bench")
    config = file.get_config()
    small = config.training.small
    config.rounds = 1
    small.variants = {"dense": {}, "e4": scaling.experts(4)}
    small.base.model.update(TINY)
    small.base.data.vocab_size = 300
    small.base.train.update(batch_size=4, seq_len=8)
    small.experts.group_size = 8
    config.training = {"small": small}
    config.decoding.base.update(TINY)
    config.decoding.experts = {"e8_top2": (8, 2)}
    config.decoding.batches = (1,)
    config.decoding.length = 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "LARGE", {"cpu": 64})
        bench_model.main(config, root)
    assert "| decoding | batch 1 | e8_top2 |" in (root / "table.md").read_text()
    return [json.loads(line) for line in (root / "rows.jsonl").read_text().splitlines()]


def test_training_is_set_beside_dense_and_its_own_products(rows):
    dense, experts = rows[:2]
    assert (dense["variant"], dense["ratio_to_dense"]) == ("dense", 1)
    assert experts["executed_flops"] == pytest.approx(dense["executed_flops"], rel=0.02)
    D = 8
    F = 64
    V = 300
    tokens = 4 * 8
    matrices = 4 * D * D + 2 * D * F + D * V
    assert 1 < dense["executed_flops"] / (6 * tokens * matrices) < 1.1  # and attention's scores
    for row in (dense, experts):
        assert row["floor_seconds"] > 1e-6  # tens of products, each a call
        assert row["ratio_to_floor"] == row["seconds"] / row["floor_seconds"] > 0


def test_targets_judge_the_models_they_mean():
    row = {"what": "decoding", "model": "batch 1", "variant": "e64_top1", "ratio_to_dense": 1.3}
    others = [{**row, "model": "batch 16"}, {**row, "variant": "e8_top2"}]
    lines = dispatching.models_targets([row, *others]).splitlines()[2:]
    assert lines == ["| decoding, batch 1: over dense | e64_top1 | 1.25 | 1.30 | no |"]


def test_decoding_is_of_equal_active_size(rows):
    dense, experts = rows[2:]
    assert [dense["variant"], experts["variant"]] == ["dense", "e8_top2"]
    router = 8 * TINY["d_model"]  # in one layer of two
    assert experts["active_parameters"] == dense["active_parameters"] + router
    assert experts["total_parameters"] > 3 * dense["total_parameters"] / 2
    assert experts["ratio_to_dense"] == experts["seconds"] / dense["seconds"]
