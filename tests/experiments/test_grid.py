"""The grid: its configs, its runs, and the rows that the law reads."""

import pytest

from configs import laws as config_file
from experiments import grid, horizons, laws, study
from moe import flops
from moe.analysis import cells


def runs_of(config):
    return {name: grid.runs(config, part) for name, part in config.parts.items()}


def test_the_grid_is_as_large_as_it_says():
    """A hundred cells and more, four sizes, four lengths and more, 1 to 64 experts and 256."""
    config = config_file.get_config("cpu")
    parts = runs_of(config)
    main = [run for name in ("small", "middle", "large") for run in parts[name].values()]
    assert len(main) == 121 and len(set(main)) == 121
    numbers = {run.model.experts.num_experts if run.model.experts else 1 for run in main}
    assert numbers == {1, 2, 4, 8, 16, 32, 64, 128, 256}
    assert len({run.model.d_model for run in main}) == 4
    assert {run.train.steps for run in main} == set(config_file.LENGTHS)
    assert config.parts.corners.first_seed == 2 and config.parts.small.seeds == 2
    with pytest.raises(ValueError, match="use demo, cpu, pilots, gpu"):
        config_file.get_config("huge")


@pytest.mark.parametrize("size", ["demo", "cpu", "pilots", "gpu"])
def test_every_cell_is_read_once_and_handed_on(size):
    """Longer runs are heirs of shorter ones; none reads text twice but those that say so."""
    epoch = 24_000_000  # tokens of the packaged text, at least
    for runs in runs_of(config_file.get_config(size)).values():
        for name, run in runs.items():
            assert ("@" in name) == (horizons.heir_of(name, runs) is not None)
            tokens = run.train.steps * run.train.batch_size * run.train.seq_len
            repeated = "seen" in name and tokens // run.train.unique_tokens
            assert repeated == int(name[-1]) if repeated else tokens < epoch


def test_active_sizes_do_not_depend_on_experts():
    """But for the router: experts are as wide as the dense feed-forward, or K of a K-th of it."""
    runs = runs_of(config_file.get_config("cpu"))["small"]
    sizes = {name: flops.parameters(run.model).active for name, run in runs.items()}
    assert all(abs(sizes[f"s_e{n}"] / sizes["s_e1"] - 1) < 0.15 for n in (2, 64, 256))
    assert sizes["s_e64_k4"] == sizes["s_e64"] and sizes["s_e256_k4"] == sizes["s_e256"]


def finished(runs, root, seeds, jobs):
    """In place of `study.run`: what it says of every run and seed."""
    del root, jobs
    return [
        {
            "variant": study.variant_of(name), "seed": seed, "steps": run.train.steps,
            "active_parameters": flops.parameters(run.model).active,
            "total_parameters": flops.parameters(run.model).total, "tokens_per_step": 2048,
            "learning_rate": run.optimizer.learning_rate, "ideal_flops": 6e5,
            "executed_flops": 7e5, "step_seconds": 0.1, "step_bytes": 1e6, "temporary_bytes": 2e6,
            "seconds": 9.87654, "test_nll": 3.25 - 0.25 * seed,
            "train_routing": {"dropped": 0.05} if run.model.experts else {},
        }
        for seed in seeds
        for name, run in runs.items()
    ]  # fmt: skip


def test_cells_have_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "run", finished)
    config = config_file.get_config("cpu")
    config.parts = {name: config.parts[name] for name in ("small", "repeated")}
    config.draws = 0
    laws.main(config, str(tmp_path), "", 0)
    assert str(tmp_path / "cells.csv") in capsys.readouterr().out
    rows = {(r["cell"], r["steps"], r["seed"]): r for r in cells.read(tmp_path / "cells.csv")}
    assert len(rows) == 2 * (85 + 9)
    fine = rows["s_e64_k4", 6000, 1]
    assert (fine["experts"], fine["k"], fine["granularity"]) == (64, 4, 4)
    assert (fine["test_nll"], fine["dropped"], fine["train_seconds"]) == (3.0, 0.05, 9.9)
    dense = rows["s_e1", 375, 0]
    assert (dense["experts"], dense["k"], dense["granularity"]) == (1, 1, 1)
    assert dense["size"] == dense["total"] == 229_696 - 1024 * 64
    assert fine["total"] == 1_220_928 - 1024 * 64 and fine["size"] == 237_888 - 1024 * 64
    assert dense["tokens"] == dense["unique_tokens"] == 375 * 2048
    again = rows["s_e16_seen_8", 6000, 0]
    assert again["tokens"] == 8 * again["unique_tokens"] and again["part"] == "repeated"
