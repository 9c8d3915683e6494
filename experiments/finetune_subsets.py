"""Which parameters should be fine-tuned, of dense models and of models with experts?

    python -m experiments.finetune_subsets --config=configs/finetune_subsets.py:demo

The question of ST-MoE (Zoph et al. 2022, section 5.2). Trains the models of another study if they
are not trained yet, then every subset of each on every task at several learning rates, and compares
the best. Resumable.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict

from experiments import command, evaluate, looks, opened, pretrained, records, study
from moe import objectives, schema
from moe.adapt import finetune
from moe.analysis import abilities
from moe.analysis import finetune_subsets as tables
from moe.data import questions
from moe.evaluation import few_shot, held_out
from moe.objectives import instruction
from moe.training import runs as folders
from moe.training.config import RunConfig


class Cell(NamedTuple):
    """What is trained on what, and how fast."""

    task: str
    model: str
    subset: str
    rate: float

    @property
    def name(self) -> str:
        """Of its runs."""
        return f"{self.task}_{self.model}_{self.subset}_lr_{self.rate:g}".replace(".", "_")


def tuned(config: ConfigDict, starts: records.Runs) -> dict[Cell, RunConfig]:
    """The runs of the study: of every model the subsets that it has.

    Args:
      config: of the study.
      starts: the models that they start from, of `pretrained.starts`.

    Raises:
      UserError: for a task that there is not, or without learning rates.
    """
    schema.require(len(config.rates) > 0, "rates is empty: name learning rates to try")
    cells = (
        Cell(task, model, subset, rate)
        for task in config.tasks
        for model, start in starts.items()
        for subset in finetune.subsets_of(start.model)
        for rate in config.rates
    )
    return {cell: _tuned(cell, starts[cell.model], config.tuned) for cell in cells}


def _tuned(cell, run, changed):
    options = instruction.Options(tasks=(cell.task,), shots=0)
    own = {"learning_rate": cell.rate, "frozen": finetune.SUBSETS[cell.subset]}
    objective = objectives.ObjectiveConfig(name="instruction", options=options)
    run = dataclasses.replace(run, objective=objective)
    return run.replace(train=changed.train, optimizer={**changed.optimizer, **own})


def lines(runs: dict[Cell, RunConfig], trained: list[dict]) -> list[dict]:
    """The records of results.jsonl, which say what each is, and its share of the parameters."""
    cells = {cell.name: cell for cell in runs}
    shares = {cell.name: _share(run) for cell, run in runs.items()}
    return [
        {**one, **cells[one["variant"]]._asdict(), "share": shares[one["variant"]]}
        for one in trained
    ]


def _share(run):
    moving, every = finetune.trained(run.model, run.frozen)
    return moving / every


def measured(
    config: ConfigDict,
    runs: dict[Cell, RunConfig],
    root: pathlib.Path,
    best: dict[tables.Key, float],
) -> list[dict]:
    """Losses and answers of the models before, and of every subset at its best rate."""
    found = _looks(config, runs, root, best)
    return looks.measured(root / "finetune_subsets.jsonl", found)


def _looks(config, runs, root, best) -> Iterator[looks.Look]:
    chosen = {cell: run for cell, run in runs.items() if best[cell[:3]] == cell.rate}
    for cell, run in chosen.items():
        look = functools.partial(measure, run, cell.task, config.questions)
        for seed in study.seeds_of(config):
            of = {**cell._asdict(), "seed": seed, "asked": config.questions}
            if cell.subset == tables.ALL:
                before = pathlib.Path(run.init_from.workdir).parent / f"seed{seed}"
                yield of | {"subset": tables.NOTHING, "rate": 0.0}, functools.partial(look, before)
            yield of, functools.partial(look, records.folder(root, cell.name, seed))


def measure(run: RunConfig, task: str, number: int, path: pathlib.Path) -> dict:
    """What the model in a folder makes of a task.

    Args:
      run: of the task, of which the answers count.
      task: of `questions.TASKS`.
      number: of questions of the test split that it is asked.
      path: the workdir of a run of this model.

    Returns:
      Nats per token of the answers of each split, and the share of questions answered right.
    """
    looks.require_checkpoint(path)
    _, data, state = folders.load_run(path)
    losses = {
        f"{split}_nll": float(held_out.loss(run, data, split).evaluate(state)["nll"])
        for split in ("train", "validation", "test")
    }
    asked = questions.read(task, number, split="test")
    result = few_shot.evaluate(task, 0, asked, opened.reader(path))
    return losses | {"right": abilities.accuracy(evaluate.plain(result))}


def main(config: ConfigDict, workdir: str) -> None:
    """Trains, fine-tunes, measures, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    runs = tuned(config, pretrained.starts(config))
    by_name = {cell.name: run for cell, run in runs.items()}
    seeds = study.seeds_of(config)
    trained = lines(runs, study.run(by_name, root, seeds, config.jobs, timed=False))
    found = measured(config, runs, root, tables.chosen(trained))
    looks.report(root, "finetune_subsets", tables.text(found, trained), tables.drawn(found))


if __name__ == "__main__":
    CONFIG = command.config("configs/finetune_subsets.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
