"""What do experts do for zero-, one- and few-shot tasks at equal training FLOPs?

    python -m experiments.few_shot --config=configs/abilities.py:demo

Trains the models of the config, as `experiments.scaling` does, asks each the tasks of
`moe.data.questions`, and prints what they answer beside their training FLOPs. Resumable.
"""

import functools
import pathlib
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict

from experiments import command, evaluate, looks, opened, records, scaling, study
from moe.analysis import abilities
from moe.data import questions
from moe.evaluation import few_shot


def asked(config: ConfigDict, runs: records.Runs, root: pathlib.Path) -> list[dict]:
    """The result of every task for every run, with every number of examples."""
    return looks.measured(root / "few_shot.jsonl", _looks(config, runs, root))


def _looks(config, runs, root) -> Iterator[looks.Look]:
    read = functools.cache(lambda name: questions.read(name, config.questions))
    open_run = functools.lru_cache(maxsize=1)(opened.reader)
    for of, path in looks.folders(runs, root, study.seeds_of(config)):
        for name in config.tasks:
            for shots in config.shots:
                if shots > questions.TASKS[name].shots:
                    continue

                def look(path=path, name=name, shots=shots) -> dict:
                    looks.require_checkpoint(path)
                    result = few_shot.evaluate(name, shots, read(name), open_run(path))
                    return evaluate.plain(result)

                yield of | {"task": name, "shots": shots, "asked": config.questions}, look


def main(config: ConfigDict, workdir: str) -> None:
    """Runs the study, asks, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    runs = scaling.variants(config)
    trained = study.run(runs, root, study.seeds_of(config), config.jobs)
    found = asked(config, runs, root)
    text = abilities.few_shot_table(found, trained)
    looks.report(root, "few_shot", text, abilities.few_shot_figure(found, trained))


if __name__ == "__main__":
    CONFIG = command.config("configs/abilities.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
