"""Do experts have to be instruction-tuned before they are worth fine-tuning on one task?

    python -m experiments.instruction_tuning --config=configs/instruction_tuning.py:demo

The setups of Shen et al. 2023 (arXiv 2305.14705): dense, or experts of equal FLOPs, fine-tuned on a
task directly, or after instruction tuning on others, or instruction-tuned alone. The last have not
seen the task, nor have the models that all start from, which stand beside them. Resumable.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict

from experiments import command, evaluate, looks, opened, pretrained, study
from experiments.records import Runs
from moe import objectives, schema
from moe.adapt import observing
from moe.adapt.banks import Trained
from moe.analysis import instruction_tuning as tables
from moe.data import prepare, questions
from moe.evaluation import few_shot
from moe.objectives import instruction
from moe.training.config import RunConfig


def tuned(config: ConfigDict, starts: Runs) -> Runs:
    """Instruction tuning of every model at every rate, named <model>_tuned_lr_<rate>."""
    found: Runs = {}
    for model, run in starts.items():
        found |= _at_rates(f"{model}_tuned", run, config.held_in, config.tuned)
    return found


def single(config: ConfigDict, starts: Runs, cell: str) -> Runs:
    """Fine-tuning of every model on each single task, named <model>_<cell>_<task>_lr_<rate>."""
    found: Runs = {}
    for model, run in starts.items():
        for task in config.single:
            name = f"{model}_{cell}_{task}"
            found |= _at_rates(name, run, (task,), config.alone)
    return found


def _at_rates(name, run, tasks, how):
    """The run on these tasks, so many steps, at every learning rate."""
    run = _asked(run, tasks)
    train = {"steps": how.steps, "eval_every": how.steps}
    return {
        f"{name}_lr_{rate}".replace(".", "_"): run.replace(
            train=train, optimizer={"learning_rate": rate, "warmup_steps": how.steps // 10}
        )
        for rate in how.rates
    }


def _asked(run: RunConfig, tasks: tuple[str, ...]) -> RunConfig:
    """The run, to learn the answers to tasks without examples, and to be judged by all others."""
    options = instruction.Options(tasks=tuple(tasks), shots=0)
    objective = objectives.ObjectiveConfig(name="instruction", options=options)
    whole = {"eval_batches": 10**6, "test_batches": 0, "evaluators": ("loss",)}
    return dataclasses.replace(run, objective=objective).replace(train=whole)


def measured(
    config: ConfigDict, starts: Runs, chosen: dict[str, str], root: pathlib.Path
) -> list[dict]:
    """Loss on answers, and how many are right, of every task for every model, cell and seed.

    Args:
      config: of the study.
      starts: the pre-trained models.
      chosen: the run of each cell whose rate is the best, as of `tables.best`.
      root: the study's folder.
    """
    found = _looks(config, starts, chosen, root)
    return looks.measured(root / "instruction_tuning.jsonl", found)


def _looks(config, starts, chosen, root) -> Iterator[looks.Look]:
    read = functools.cache(lambda task: questions.read(task, config.questions, split="test"))
    batches = functools.cache(functools.partial(_batches, next(iter(starts.values()))))
    open_run = functools.lru_cache(maxsize=1)(opened.reader)
    for model, cell, folder, tasks in _cells(config, starts, chosen, root):
        for seed in study.seeds_of(config):
            path = folder / f"seed{seed}"
            for task in tasks:

                def look(path=path, task=task) -> dict:
                    looks.require_checkpoint(path)
                    reader = open_run(path)
                    answered = evaluate.plain(few_shot.evaluate(task, 0, read(task), reader))
                    trained = Trained(reader.model, reader.params, reader.router_state)
                    nll = observing.loss(trained, batches(task))
                    return {"nll": nll, "scores": answered["scores"]}

                of = {"model": model, "cell": cell, "run": folder.name, "seed": seed}
                yield of | {"task": task, "asked": config.questions}, look


def _cells(config, starts, chosen, root) -> Iterator[tuple]:
    """(model, cell, folder of its seeds, tasks that it is asked)."""
    every = (*config.single, *config.held_in, *config.held_out)
    for model, run in starts.items():
        yield model, "pretrained", pathlib.Path(run.init_from.workdir).parent, every
        yield model, "tuned", root / chosen[f"{model}_tuned"], every
        for task in config.single:
            for cell in ("direct", "then"):
                yield model, cell, root / chosen[f"{model}_{cell}_{task}"], (task,)


def _batches(run, task):
    """All test questions of a task."""
    data = prepare.prepare(run.data)
    return list(_asked(run, (task,)).source(data).held_out("test", 0))


def groups(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """The tasks over which losses are averaged, by what they are called.

    Raises:
      UserError: if a task is in two of them.
    """
    kinds = {"single": config.single, "held in": config.held_in, "held out": config.held_out}
    every = [task for tasks in kinds.values() for task in tasks]
    twice = sorted({task for task in every if every.count(task) > 1})
    schema.require(
        not twice, f"single, held_in and held_out share {', '.join(twice)}: keep each in one"
    )
    alone = config.single if len(config.single) > 1 else ()
    return {task: (task,) for task in alone} | kinds


def main(config: ConfigDict, workdir: str) -> None:
    """Trains all rounds, measures, and reports."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    seeds, tasks = study.seeds_of(config), groups(config)
    starts = pretrained.starts(config)
    runs = tuned(config, starts) | single(config, starts, "direct")
    first = tables.best(study.run(runs, root, seeds, config.jobs, timed=False))
    ends = {m: pretrained.at_end(run, root / first[f"{m}_tuned"]) for m, run in starts.items()}
    every = runs | single(config, ends, "then")
    records = study.run(every, root, seeds, config.jobs, timed=False)
    found = measured(config, starts, tables.best(records), root)
    text = tables.text(found, records, tasks)
    looks.report(root, "instruction_tuning", text, tables.drawn(found, tasks))


if __name__ == "__main__":
    CONFIG = command.config("configs/instruction_tuning.py:demo", "The study.")
    WORKDIR = flags.DEFINE_string("workdir", "", "The study's folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
