"""How many tokens does each model need for the loss that dense reaches with so many?

    python -m experiments.data_efficiency --config=configs/scaling.py:demo

Of any study of `experiments.scaling` with runs of several lengths: what is not trained yet is
trained, the rest is read. GLaM's claim is that experts need less data (Du et al. 2022).
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from experiments import command, scaling, study
from moe.analysis import efficiency, plots


def report(records: list[dict], root: pathlib.Path) -> None:
    """Prints and writes the table, and draws losses over tokens."""
    text = efficiency.table(records)
    (root / "efficiency.md").write_text(text + "\n")
    plots.save(efficiency.figure_of(records), root / "efficiency.png")
    print(f"\n{text}\n")
    for name in ("results.jsonl", "efficiency.md", "efficiency.png"):
        print(root / name)


def main(config: ConfigDict, workdir: str) -> None:
    """Runs what is left of the study, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    records = study.run(scaling.variants(config), root, study.seeds_of(config), config.jobs)
    report(records, root)


if __name__ == "__main__":
    CONFIG = command.config("configs/scaling.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
