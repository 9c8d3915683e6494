"""How much capacity? Factor and group size against loss, drops and seconds at equal FLOPs.

    python -m experiments.capacity --config=configs/capacity.py:demo

A study as those of `experiments.scaling`, resumable; then a table, figures and Switch's claims.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from experiments import command, routers, scaling, study
from moe.analysis import plots
from moe.analysis.routers import Claim

BASELINE = "top_1_factor_1_25"
SWITCH = "Fedus et al. 2021"
CLAIMS = [
    Claim(
        SWITCH,
        f"top-1 beats top-2 at capacity factor {factor.replace('_', '.')} (theirs: in quality a"
        " second; top-2 had more FLOPs there, ours has as many)",
        f"top_1_factor_{factor}",
        f"top_2_factor_{factor}",
    )
    for factor in ("1", "1_25")  # the low ones, of which the paper says it
]


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    records = study.run(scaling.variants(config), root, study.seeds_of(config), config.jobs)
    routers.report(records, root, BASELINE, CLAIMS)
    plots.save(plots.capacity_figure(records), root / "capacity.png")
    print(root / "capacity.png")


if __name__ == "__main__":
    CONFIG = command.config("configs/capacity.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
