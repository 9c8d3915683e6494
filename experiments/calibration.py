"""Are models with experts better calibrated than dense ones, at equal and at ten times the FLOPs?

    python -m experiments.calibration --config=configs/abilities.py:demo

Trains the models of the config, as `experiments.scaling` does, and compares the confidence of their
forecasts of test tokens with how often they are right. Resumable.
"""

import pathlib
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict

from experiments import command, looks, records, scaling, study
from moe.analysis import abilities
from moe.evaluation import next_tokens
from moe.training import runs as folders


def measured(config: ConfigDict, runs: records.Runs, root: pathlib.Path) -> list[dict]:
    """The calibration of every run's forecasts of test tokens."""
    return looks.measured(root / "calibration.jsonl", _looks(config, runs, root))


def _looks(config, runs, root) -> Iterator[looks.Look]:
    for of, path in looks.folders(runs, root, study.seeds_of(config)):

        def look(path=path) -> dict:
            looks.require_checkpoint(path)
            run, data, state = folders.load_run(path)
            run = run.replace(train={"test_batches": config.test_batches})
            return next_tokens.tokens(run, data, "test").evaluate(state)

        yield of | {"batches": config.test_batches}, look


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study, measures, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    runs = scaling.variants(config)
    trained = study.run(runs, root, study.seeds_of(config), config.jobs)
    found = measured(config, runs, root)
    text = abilities.calibration_table(found, trained)
    looks.report(root, "calibration", text, abilities.reliability_figure(found))


if __name__ == "__main__":
    CONFIG = command.config("configs/abilities.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
