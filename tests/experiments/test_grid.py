"""The grid: its configs, its runs, and the rows that the law reads."""

import re

import pytest

from configs import laws as config_file
from experiments import grid, horizons, laws, records, study
from moe import errors, flops
from moe.analysis import cells, fitting
from tests.experiments import grids

MAIN = ("small", "between", "middle", "large")


def test_the_grid_is_as_large_as_it_says():
    """A hundred cells and more, four sizes, four lengths and more, 1 to 64 experts and 256."""
    config = config_file.get_config("cpu")
    parts = grids.runs_of(config)
    main = [run for name in MAIN for run in parts[name].values()]
    assert len(main) == 101 and len(set(main)) == 101
    numbers = {run.model.experts.num_experts if run.model.experts else 1 for run in main}
    assert numbers == {1, 2, 4, 8, 16, 32, 64, 128, 256}
    assert len({run.model.d_model for run in main}) == 4
    assert {run.train.steps for run in main} == {375, 750, 1500, 3000, 6000}
    assert config.parts.corners.first_seed == 2 and config.parts.small.seeds == 2
    with pytest.raises(
        ValueError, match="is not one of 'demo', 'cpu', 'pilots', 'foretold', 'gpu'"
    ):
        config_file.get_config("huge")


@pytest.mark.parametrize("size", ["demo", "cpu", "pilots", "foretold", "gpu"])
def test_every_cell_is_read_once_and_handed_on(size):
    """Longer runs are heirs of shorter ones; none reads text twice but those that say so."""
    epoch = 24_000_000  # tokens of the packaged text, at least
    for runs in grids.runs_of(config_file.get_config(size)).values():
        for name, run in runs.items():
            assert ("@" in name) == (horizons.heir_of(name, runs) is not None)
            tokens = run.train.steps * run.train.batch_size * run.train.seq_len
            assert tokens < epoch
            if "seen" in name:
                assert tokens // run.train.unique_tokens == int(name[-1])


def test_active_sizes_do_not_depend_on_experts():
    """But for the router's: experts are as wide as the dense feed-forward, or K of a K-th of it."""
    parts = grids.runs_of(config_file.get_config("cpu"))
    runs = parts["small"] | parts["between"]
    sizes = {name: flops.parameters(run.model).active for name, run in runs.items()}
    for number in (2, 64, 256):
        router = run_of(runs, f"s_e{number}").num_layers * 64 * number
        assert sizes[f"s_e{number}"] == sizes["s_e1"] + router
    assert sizes["s_e64_k4"] == sizes["s_e64"] and sizes["s_e256_k16"] == sizes["s_e256"]


def run_of(runs, name):
    return runs[name].model


def test_the_report_answers_every_question(tmp_path, capsys):
    """On invented runs: laws find the noise, gains and optima are tables, figures are drawn."""
    laws.report(grids.invented(), tmp_path, 4)
    text = capsys.readouterr().out
    for title in ("Laws", "Coefficients", "The best number", "What experts gain", "Text that is"):
        assert f"## {title}" in text
    for name in ("experts", "best", "gains", "fits"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    forms = text.partition("## Coefficients")[0].splitlines()
    (joint,) = (line for line in forms if line.startswith("| ludziejewski | "))
    runs, coefficients, rmse, held_out, noise = map(float, joint.split("|")[2:-1])
    assert coefficients == 11 and runs > 150
    assert 0.0015 < noise < 0.0025 and rmse < 0.0025 and held_out < 0.01
    (chinchilla,) = (line for line in forms if line.startswith("| chinchilla | "))
    assert float(chinchilla.split("|")[4]) > 5 * rmse  # it knows no experts
    gains = next(line for line in text.splitlines() if line.startswith("| 192 | 64 |"))
    assert gains.count("±") == 3 and gains.rstrip().endswith("|  |  |")  # no longer runs
    optima = [line.split("|") for line in text.splitlines() if line.startswith("| executed FLOPs")]
    assert all(re.fullmatch(r" \d+, \d+ to \d+ ", line[4]) for line in optima) and len(optima) == 8


def test_a_run_is_foretold(tmp_path, monkeypatch):
    """From an invented grid, before and after it was run; how well laws fit is tested elsewhere."""
    monkeypatch.setattr(laws, "ROOT", tmp_path)
    monkeypatch.setattr(fitting, "STARTS", 2)
    config = config_file.get_config("foretold")
    with pytest.raises(errors.UserError, match="must be the cells.csv of a grid"):
        laws.foretell(config, tmp_path / "own", draws=2)
    config.recorded = "cells.csv"
    rows = grids.invented()
    blank = dict.fromkeys(grid.COLUMNS, "")
    (tmp_path / "cells.csv").write_text(grid.table([blank | row for row in rows]))
    before = laws.foretell(config, tmp_path / "own", draws=4).splitlines()[2:]
    asked = [cell for part in config.parts.values() for cell in part.variants]
    assert [line.split("|")[2].strip() for line in before] == 3 * asked and "l_e16" in asked
    assert all(line.endswith("|  |  |") for line in before)
    said = float(before[1].split("|")[4])
    planned = grid.planned(config)
    (tmp_path / "own").mkdir()
    text = grid.table([{**planned[1], "test_nll": said + 0.25}])
    (tmp_path / "own" / "cells.csv").write_text(text)
    after = laws.foretell(config, tmp_path / "own", draws=4).splitlines()[2:]
    assert after[1].rstrip(" |").endswith("+0.2500") and after[0].endswith("|  |  |")


def finished(runs, root, seeds, timed_in, documents):
    """In place of `records.collect`: what it says of every run and seed."""
    del root, timed_in
    assert not documents
    return [
        {
            "variant": records.variant_of(name), "seed": seed, "steps": run.train.steps,
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
    monkeypatch.setattr(study, "run", lambda *args, timed, documents: None)
    monkeypatch.setattr(study, "time_steps", lambda *args: None)
    monkeypatch.setattr(records, "collect", finished)
    config = config_file.get_config("cpu")
    config.parts = {name: config.parts[name] for name in ("small", "between", "repeated")}
    config.draws = 0
    laws.main(config, str(tmp_path), "", 0)
    assert str(tmp_path / "cells.csv") in capsys.readouterr().out
    rows = {(r["cell"], r["steps"], r["seed"]): r for r in cells.read(tmp_path / "cells.csv")}
    assert len(rows) == 2 * (45 + 28 + 9)
    fine = rows["s_e64_k4", 3000, 1]
    assert (fine["experts"], fine["k"], fine["granularity"]) == (64, 4, 4)
    assert (fine["test_nll"], fine["dropped"], fine["train_seconds"]) == (3.0, 0.05, 9.9)
    dense = rows["s_e1", 375, 0]
    assert (dense["experts"], dense["k"], dense["granularity"]) == (1, 1, 1)
    assert dense["size"] == dense["total"] == 229_696 - 1024 * 64
    assert fine["total"] == 1_220_928 - 1024 * 64 and fine["size"] == 237_888 - 1024 * 64
    assert dense["tokens"] == dense["unique_tokens"] == 375 * 2048
    again = rows["s_e16_seen_8", 3000, 0]
    assert again["tokens"] == 8 * again["unique_tokens"] and again["part"] == "repeated"
