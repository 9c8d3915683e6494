"""Do a ranker and a fuser make several models better than the best of them? LLM-Blender.

    python -m experiments.blender --config=configs/blender.py:demo

Jiang et al. 2023 (arXiv 2306.02561). The models continue pieces of documents by 16 tokens; what
really follows is the reference, and a candidate's quality is its chrF. So every piece of packaged
text has a reference, and models so small, which answer questions by chance, can do something:
names, markup and set phrases come again. Ranker and fuser learn from documents that no model has
read; rates and the best single model are chosen by validation documents; what is reported is of
test documents. Resumable.
"""

import pathlib

from absl import flags
from ml_collections import ConfigDict

from experiments import command, looks, scaling, study
from experiments.blender_parts import measured, trained, written
from moe import schema
from moe.analysis import blender as tables
from moe.analysis import instruction_tuning
from moe.training.config import RunConfig


def main(config: ConfigDict, workdir: str) -> None:
    """Trains all rounds, writes what lies between them, measures and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    seeds = study.seeds_of(config)
    base = schema.from_config_dict(RunConfig, config.base, "base.")
    how = {"timed": False, "documents": False}
    runs = scaling.variants(config) | trained.starts(config, base)
    study.run(runs, root, seeds, config.jobs, **how)
    written.write_candidates(config, runs, root, seeds)
    runs |= trained.rankers(config, base, root)
    ranker = instruction_tuning.best(study.run(runs, root, seeds, config.jobs, **how))
    chosen = written.write_chosen(config, root, ranker[trained.RANKER], seeds)
    runs |= trained.fusers(config, base, root, chosen)
    done = study.run(runs, root, seeds, config.jobs, **how)
    best = instruction_tuning.best(done)
    picked = {name: best[name] for name in (trained.RANKER, *tables.FUSERS)}
    found = measured.measured(config, runs, root, picked)
    looks.report(root, "blender", tables.text(found, done), tables.drawn(found))


if __name__ == "__main__":
    CONFIG = command.config("configs/blender.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
