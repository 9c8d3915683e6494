"""How much of what experts gain is left in a dense student of equal FLOPs?

    python -m experiments.distillation --config=configs/distillation.py:demo

Two rounds of a study as those of `experiments.scaling`, resumable: first the teachers and the dense
baseline, then a student of every kind for every teacher and seed.
"""

import dataclasses
import pathlib

from absl import flags
from ml_collections import ConfigDict

from experiments import command, looks, scaling, study
from experiments.records import Runs
from moe import initialisation, objectives
from moe.analysis import distillation as tables
from moe.objectives import distillation

DENSE = "dense"


def students(config: ConfigDict, runs: Runs, root: pathlib.Path) -> Runs:
    """A dense run for each teacher and kind, named <teacher>_<kind>.

    The dense model teaches nothing; what starts from its parameters is the control of students that
    start from those of experts, since both have had more training than dense.
    """
    found = {}
    for teacher, run in runs.items():
        for kind, how in config.students.items():
            if run.model.experts is None and how.share:
                continue
            options = distillation.Options(teacher=run.model, share=how.share)
            rules = distillation.START if how.copied else distillation.TAUGHT
            source = root / teacher / "seed{seed}"
            found[f"{teacher}_{kind}"] = dataclasses.replace(
                runs[DENSE],
                objective=objectives.ObjectiveConfig(name="distillation", options=options),
                init_from=initialisation.InitConfig(workdir=str(source), rules=rules),
            )
    return found


def main(config: ConfigDict, workdir: str) -> None:
    """Runs both rounds and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    runs, seeds = scaling.variants(config), study.seeds_of(config)
    study.run(runs, root, seeds, config.jobs, timed=False)
    records = study.run(runs | students(config, runs, root), root, seeds, config.jobs, timed=False)
    text, figure = tables.table(records, DENSE), tables.drawn(records, DENSE)
    looks.report(root, "distillation", text, figure, of="results.jsonl")


if __name__ == "__main__":
    CONFIG = command.config("configs/distillation.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
