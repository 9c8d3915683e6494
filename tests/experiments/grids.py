"""An invented grid: the cells of `configs/laws.py:cpu`, as if they had been trained."""

import itertools

import numpy as np

from configs import laws as config_file
from experiments import grid, records
from moe import flops
from moe.analysis import cells, fitting
from moe.analysis.laws import LAWS


def runs_of(config) -> dict:
    """The runs of every part."""
    return {name: grid.runs(config, part) for name, part in config.parts.items()}


def invented() -> list[dict]:
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
                "part": part, "cell": records.variant_of(name), "seed": seed,
                "steps": run.train.steps, "d_model": run.model.d_model,
                "experts": experts.num_experts if experts else 1, "k": experts.k if experts else 1,
                "granularity": run.model.d_ff // experts.d_ff if experts else 1,
                "size": parameters.active, "total": parameters.total, "tokens": tokens,
                "unique_tokens": tokens // again, "ideal_flops": 6 * parameters.active,
                "executed_flops": (7 if experts else 6) * parameters.active,
                "step_seconds": 1e-8 * 2048 * (parameters.active + 0.05 * parameters.total),
            }  # fmt: skip
            one = cells.of([found | {"test_nll": 0}])
            (loss,) = fitting.predict(LAWS["ludziejewski"], truth, one)
            moved = 0.02 * again + 0.01 * seed  # a seed moves all cells alike
            rows.append(found | {"test_nll": loss + moved + 0.002 * rng.normal()})
    return rows
