"""The weak-scaling study on up to four devices: what must stay flat does."""

import json

import pytest

from configs import expert_parallel as file
from experiments import expert_parallel


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    config = file.get_config()
    config.axes = (2, 4)
    config.base.model.update(num_layers=1, moe_every=1)
    config.base.train.seq_len = 32
    expert_parallel.study(config, root)
    table = (root / "table.md").read_text()
    assert (root / "scaling.png").exists() and "| simulated | 4 | 16 | 4 |" in table
    return [json.loads(line) for line in (root / "rows.jsonl").read_text().splitlines()]


def test_bytes_a_token_stay_flat_as_experts_and_devices_grow(rows):
    two, four = (r for r in rows if r["by"] == "simulated")
    assert (two["experts"], four["experts"]) == (8, 16) and two["all_to_alls_per_layer"] == 4
    ring = (3 / 4) / (1 / 2)
    sent = [r["all_to_all_bytes_per_token"] for r in (two, four)]
    assert sent[1] == pytest.approx(sent[0] * ring, rel=1e-6) and sent[0] > 0
    assert four["parameters"] == pytest.approx(two["parameters"], rel=0.02)
    assert abs(two["loss"] - four["loss"]) < 0.5


def test_arithmetic_says_what_the_compiler_does(rows):
    by = {way: [r for r in rows if r["by"] == way] for way in ("simulated", "arithmetic")}
    for a, b in zip(*by.values(), strict=True):
        for key in ("all_to_alls_per_layer", "all_to_all_bytes_per_token", "parameters"):
            assert a[key] == pytest.approx(b[key])
        assert a["other_bytes_per_token"] == pytest.approx(b["other_bytes_per_token"], rel=0.05)
