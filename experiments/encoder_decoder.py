"""How many times fewer steps does Switch need than T5, at equal executed FLOPs?

    python -m experiments.encoder_decoder --config=configs/encoder_decoder.py:demo

A study as those of `experiments.scaling`, resumable. The paper's "7x" has no interval; here it has.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from experiments import command, data_efficiency, scaling, study


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    records = study.run(scaling.variants(config), root, study.seeds_of(config), config.jobs)
    data_efficiency.report(records, root)


if __name__ == "__main__":
    CONFIG = command.config("configs/encoder_decoder.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
