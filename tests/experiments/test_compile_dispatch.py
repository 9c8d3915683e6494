"""The compiled cells of the benchmark, on a CPU in the place of a TPU."""

import json

import jax
import pytest

from configs import bench_dispatch as file
from experiments import compile_dispatch
from moe import plan


def test_a_product_of_every_row_with_every_expert_is_seen(monkeypatch, tmp_path):
    monkeypatch.setattr(plan, "tpu_devices", lambda topology: jax.devices())
    config = file.get_config("gpu")
    config.cells = (file.cell(8, 2, tokens=512, d_model=64, d_ff=128),)
    compile_dispatch.main(config, "v5e:2x2", tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    times = {row["program"]: row["flops_over_ideal"] for row in rows}
    expected = {"dense": 1.0, "gather": 1.25, "grouped": 1.2, "grouped_ragged_dot": 8.0}
    assert times == pytest.approx(expected, rel=0.15)
    assert "| 8 | 2 | 64 | 128 | 512 | float32 | dense | 1." in (tmp_path / "table.md").read_text()
