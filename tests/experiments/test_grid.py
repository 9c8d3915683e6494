"""The grid: its configs, its runs, and the rows that the law reads."""

import csv
import io
import itertools
import json

import numpy as np
import pytest

from configs import laws as config_file
from experiments import grid, horizons, laws, study
from moe import flops, schema
from moe.analysis import cells, fitting
from moe.analysis.laws import LAWS


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


def tiny():
    config = config_file.get_config("demo")
    config.jobs = 1
    config.base.data.vocab_size = config.base.model.vocab_size = 300
    config.base.train.update(
        batch_size=8, seq_len=8, eval_every=9, eval_batches=1, log_every=1, test_batches=1
    )
    config.base.optimizer.warmup_steps = 1
    config.experts.group_size = 64
    part = config_file.part(config_file.cells("xs", (1, 16)), (2, 4), 1)
    for variant in part["variants"].values():
        variant["model"] = {"d_model": 8, "num_heads": 1, "d_head": 8, "d_ff": 16}
    part["variants"]["xs_e16"]["experts"].update(d_ff=8, k=2, num_experts=4)
    config.parts = {"demo": part}
    return config


def invented():
    """Rows of the grid as the joint law with noise would have them, two seeds."""
    rng = np.random.default_rng(0)
    config = config_file.get_config("cpu")
    truth = {"a": 20.0, "b": 200.0, "c": 1.5, "alpha": -0.25, "gamma": 0.002, "delta": -0.1}
    truth |= {"beta": -0.35, "zeta": 0.004, "omega": 0.03, "start": 2.0, "most": 300.0}
    rows = []
    for part, runs in runs_of(config).items():
        for (name, run), seed in itertools.product(runs.items(), range(2)):
            parameters = flops.parameters(run.model)
            tokens = run.train.steps * 2048
            again = tokens / (run.train.unique_tokens or tokens)
            experts = run.model.experts
            found = {
                "part": part, "cell": study.variant_of(name), "seed": seed,
                "steps": run.train.steps, "d_model": run.model.d_model,
                "experts": experts.num_experts if experts else 1, "k": experts.k if experts else 1,
                "granularity": run.model.d_ff // experts.d_ff if experts else 1,
                "size": parameters.active, "total": parameters.total, "tokens": tokens,
                "unique_tokens": tokens // again, "ideal_flops": 6 * parameters.active,
                "executed_flops": (7 if experts else 6) * parameters.active,
                "step_seconds": 1e-8 * 2048 * (parameters.active + 0.05 * parameters.total),
            }  # fmt: skip
            (loss,) = fitting.predict(
                LAWS["ludziejewski"], truth, cells.of([found | {"test_nll": 0}])
            )
            rows.append(found | {"test_nll": loss + 0.02 * again + 0.002 * rng.normal()})
    return rows


def test_the_report_answers_every_question(tmp_path, capsys):
    """On invented runs: laws find the noise, gains and optima are tables, figures are drawn."""
    laws.report(invented(), tmp_path, 4)
    text = capsys.readouterr().out
    for title in ("Laws", "Coefficients", "The best number", "What experts gain", "Text that is"):
        assert f"## {title}" in text
    for name in ("experts", "best", "gains", "fits"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    (joint,) = (line for line in text.splitlines() if line.startswith("| ludziejewski | 2"))
    runs, coefficients, rmse, held_out, noise = map(float, joint.split("|")[2:-1])
    assert coefficients == 11 and runs > 150
    assert 0.001 < noise < 0.003 and rmse < 0.003 and held_out < 0.01
    (chinchilla,) = (line for line in text.splitlines() if line.startswith("| chinchilla | 2"))
    assert float(chinchilla.split("|")[4]) > 5 * rmse  # it knows no experts


def test_cells_have_rows(data, root, capsys):
    laws.main(tiny(), str(root), "", 0)
    assert str(root / "cells.csv") in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((root / "cells.csv").read_text())))
    assert [(r["cell"], r["steps"]) for r in rows] == [
        (cell, steps) for steps in "24" for cell in ("xs_e1", "xs_e16")
    ]
    dense, experts = rows[2:]
    assert (experts["experts"], experts["k"], experts["granularity"]) == ("4", "2", "2")
    assert (dense["experts"], dense["k"], dense["granularity"]) == ("1", "1", "1")
    assert int(dense["size"]) == int(dense["total"]) < int(experts["size"]) < int(experts["total"])
    assert int(dense["tokens"]) == int(dense["unique_tokens"]) == 4 * 64
    assert float(dense["step_seconds"]) > 0 and float(experts["temporary_bytes"]) > 0
    assert all(np.isfinite(float(r["test_nll"])) for r in rows)
    config = json.loads((root / "demo" / "xs_e16" / "seed0" / "config.json").read_text())
    assert config["optimizer"]["schedule"] == "wsd"
    assert schema.to_dict(grid.runs(tiny(), tiny().parts.demo)["xs_e16"])["train"]["steps"] == 4
