"""What happens without the balance loss, with it, with the z-loss, with a bias and no loss?

    python -m experiments.balance --config=configs/balance.py:demo

A study as those of `experiments.scaling`, resumable; then a table, and the experts' loads in time.
"""

import pathlib
from collections.abc import Iterable

from absl import flags
from ml_collections import ConfigDict

from experiments import command, routers, scaling, study
from moe.analysis import plots
from moe.training import metrics

BASELINE = "balance_and_z"


def logs(root: pathlib.Path, variants: Iterable[str]) -> dict[str, list[dict]]:
    """The training records of each variant's first seed, of those that have experts."""
    found = {name: metrics.read(root / name / "seed0" / "metrics.jsonl") for name in variants}
    return {
        name: [r for r in records if r["split"] == "train"]
        for name, records in found.items()
        if any("load_LE" in r for r in records)
    }


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    records = study.run(scaling.variants(config), root, study.seeds_of(config), config.jobs)
    routers.report(records, root, BASELINE)
    plots.save(plots.balance_figure(logs(root, config.variants)), root / "balance.png")
    print(root / "balance.png")


if __name__ == "__main__":
    CONFIG = command.config("configs/balance.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
