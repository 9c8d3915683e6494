"""The benchmark of dispatchers on a tiny cell, and the tables made of its rows."""

import json

import numpy as np
import pytest

from configs import bench_dispatch as file
from experiments import baselines, bench_dispatch, timing
from moe.analysis import dispatching
from moe.dispatch import grouped

TINY = {"tokens": 64, "d_model": 8, "d_ff": 16}
NAMES = ("dense", "gather", "grouped", "grouped_ragged_dot", "einsum_16")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """As on a device that has another kernel, too."""
    root = tmp_path_factory.mktemp("bench")
    config = file.get_config()
    config.rounds = 1
    config.cells = (file.cell(4, 2, einsum_groups=(16,), **TINY),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped, "fit", lambda: ["blocks", "ragged_dot", "hopper"])
        patch.setattr(timing, "LARGE", {"cpu": 64})
        patch.setattr(bench_dispatch, "COPIED", 2**10)
        bench_dispatch.main(config, root, with_peers=False)
    assert (root / "dispatch.png").exists()
    table = (root / "table.md").read_text()
    assert "| 4 | 2 | gelu | learned | 64 | float32 | 1.25 | training | gather |" in table
    return [json.loads(line) for line in (root / "rows.jsonl").read_text().splitlines()]


def test_every_program_both_ways(rows):
    assert [(r["way"], r["program"]) for r in rows] == [
        (way, name) for way in ("forward", "training") for name in NAMES
    ]
    assert all(r["seconds"] > 0 and r["compile_seconds"] > 0 for r in rows)


def test_flops_are_those_of_the_rows_that_are_computed(rows):
    forward = rows[: len(NAMES)]
    training = rows[len(NAMES) :]
    dense = forward[0]["executed_flops"]
    assert dense == 2 * 2 * 64 * 8 * 2 * 16
    for one, both in zip(forward, training, strict=True):
        factor = one.get("realised_capacity", 1.0)
        if one["program"] != "einsum_16":  # which pays for its one-hot products, too
            assert one["executed_flops"] == pytest.approx(dense * factor)
            assert both["executed_flops"] == pytest.approx(3 * dense * factor)
            wasted = one["compiled_flops"] / one["executed_flops"]
            dense_product = one["program"] == "grouped_ragged_dot"  # on CPUs: all four experts
            assert wasted == 4 if dense_product else 1 <= wasted < 1.3


def test_ratios_are_what_they_say(rows):
    dense, gather = rows[len(NAMES) :][:2]
    assert gather["program"] == "gather" and gather["realised_capacity"] == 40 * 4 / 128
    assert gather["ratio_to_dense"] == gather["seconds"] / dense["seconds"]
    assert gather["ratio_over_capacity"] == gather["ratio_to_dense"] / 1.25
    assert gather["ratio_to_floor"] == gather["seconds"] / gather["floor_seconds"]
    for one in (dense, gather):
        at_speed = one["executed_flops"] / one["large_product_flops_per_second"]
        assert one["ratio_to_products"] == pytest.approx(one["seconds"] / at_speed)


@pytest.mark.parametrize("loads", ["uniform", "learned", "skewed"])
def test_choices_are_distinct_and_as_uneven_as_they_say(loads):
    cell = bench_dispatch.Cell(**file.cell(16, 2, loads=loads))
    choice = bench_dispatch.choices(cell)
    expert_SK = np.asarray(choice.expert_GSK[0])
    assert expert_SK.shape == (4096, 2) and (expert_SK[:, 0] != expert_SK[:, 1]).all()
    load_E = np.bincount(expert_SK.ravel(), minlength=16)
    worst = load_E.max() / load_E.mean()
    low, high = {"uniform": (1, 1), "learned": (1.3, 2.2), "skewed": (2.5, 16)}[loads]
    assert low <= worst <= high
    np.testing.assert_allclose(choice.gate_GSK.sum(-1), 1, rtol=1e-6)


def test_targets_judge_the_rows_they_mean():
    usual = {**dispatching.USUAL, "k": 1, "activation": "gelu", "ratio_over_capacity": 1.2}
    programs = {
        "dense": (1.0, 100),
        "gather": (1.3, 150),
        "grouped": (2.0, 0),
        "einsum_64": (2.5, 0),
    }
    rows = [
        {**usual, "experts": 64, "program": name, "seconds": s, "temporary_bytes": m,
         "ratio_to_dense": s, "ratio_to_floor": s / 1.2}
        for name, (s, m) in programs.items()
    ]  # fmt: skip
    lines = dispatching.targets(rows).splitlines()[2:]
    assert lines == [
        "| gather over its floor | 64 | 1 | 1.15 | 1.08 | yes |",
        "| gather over dense and capacity | 64 | 1 | 1.35 | 1.20 | yes |",
        "| gather over dense, vmoe's better | 64 | 1 | 2.90 | 1.30 | yes |",
        "| gather over the best einsum | 64 | 1 | 0.50 | 0.52 | no |",
        "| temporary memory, gather over dense | 64 | 1 | 2.00 | 1.50 | yes |",
        "| grouped over its floor | 64 | 1 | 1.40 | 1.67 | no |",
    ]
    assert len(dispatching.targets([{**row, "way": "forward"} for row in rows]).splitlines()) == 2


def test_targets_on_an_accelerator_are_of_its_own_cells():
    """A token's own FLOPs a second, of dense's: at 0.6 of it a layer takes 1.67 of its time."""
    cell = {**dispatching.USUAL, **file.gpu()[1], "way": "training"}
    seconds = {"dense": 1.0, "gather": 1.7, "grouped_hopper": 1.6, "mixtral_grouped_mm": 2.0}
    rows = [
        {**cell, "program": name, "seconds": s, "ratio_to_dense": s} for name, s in seconds.items()
    ]
    assert dispatching.targets(rows).splitlines()[2:] == [
        "| gather over dense, for an H200 | 64 | 8 | 1.67 | 1.70 | no |",
        "| gather over grouped_mm, for an H200 | 64 | 8 | 1.00 | 0.85 | yes |",
        "| grouped_hopper over dense, for an H200 | 64 | 8 | 1.67 | 1.60 | yes |",
        "| grouped_hopper over grouped_mm, for an H200 | 64 | 8 | 1.00 | 0.80 | yes |",
    ]
    assert dispatching.MIXTRAL.items() <= file.gpu()[0].items()


def test_peers_that_are_not_installed_are_asked_for(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install torch transformers"):
        baselines.require()


def test_peers_answer_for_what_their_experts_compute(monkeypatch):
    for name in ("_mixtral", "_switch", "_call"):
        monkeypatch.setattr(baselines, name, lambda *args: args)

    def calls(**changes):
        return set(baselines.calls(bench_dispatch.Cell(**file.cell(8, **changes)), None, True))

    assert calls(activation="swiglu") == {"mixtral_eager", "mixtral_grouped_mm"}
    assert calls(activation="relu") == {"switch_eager"}
    assert calls(activation="gelu") == calls(activation="relu", k=2) == set()
