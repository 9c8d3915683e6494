"""Which arithmetic does a router need? Float32, bfloat16, and Switch's mixture of the two.

    python -m experiments.precision --config=configs/precision.py:demo

A study as those of `experiments.scaling`, resumable, with the paper's claims beside.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from experiments import command, routers, scaling, study
from moe.analysis.routers import Claim

BASELINE = "float32"
SOURCE = "Fedus et al. 2021, table 2"
CLAIMS = (
    Claim(SOURCE, "float32 beats bfloat16 throughout (theirs diverged)", "float32", "bfloat16"),
    Claim(SOURCE, "a router in float32 beats one in bfloat16", "selective", "bfloat16"),
    Claim(SOURCE, "selective precision is no worse than float32 (by 0.01)", "selective",
          "float32", within=0.01),
)  # fmt: skip


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    records = study.run(scaling.variants(config), root, study.seeds_of(config), config.jobs)
    routers.report(records, root, BASELINE, CLAIMS)


if __name__ == "__main__":
    CONFIG = command.config("configs/precision.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
