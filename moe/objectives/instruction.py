"""Instruction tuning: the answers to questions of many tasks (Wei et al. 2021; Shen et al. 2023).

Models are compared on tasks that they were tuned on and on others, by `experiments.evaluate`.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moe import ranges, schema
from moe.batch import Batch
from moe.config import ModelConfig
from moe.data import instructions, questions
from moe.data.prepared import Prepared
from moe.objectives import contract, next_token
from moe.objectives.contract import Run

# Held in by default; others of `questions.TASKS` are held out.
TASKS = ("arc_easy", "boolq", "hellaswag", "openbookqa", "piqa", "triviaqa")


@dataclass(frozen=True, kw_only=True)
class Options(contract.Options):
    """Which tasks, and how they are mixed."""

    tasks: tuple[str, ...] = TASKS  # of `questions.TASKS`
    cap: int = 3000  # a task is drawn as if it had no more questions
    shots: int = 1  # solved examples before a question: from none to so many

    def __post_init__(self) -> None:
        schema.require(bool(self.tasks), "objective.options.tasks is empty: name some")
        for name in self.tasks:
            schema.one_of("objective.options.tasks", name, questions.TASKS)
        ranges.check_value("objective.options.cap", self.cap, ranges.above_zero(10**9))
        most = ranges.from_zero(questions.EXAMPLES)
        ranges.check_value("objective.options.shots", self.shots, most)


def source(run: Run, data: Prepared) -> contract.BatchSource:
    """Rows of solved questions in the data's own tokens."""
    o, t = run.objective.options, run.train
    schema.require(
        not t.unique_tokens,
        f"train.unique_tokens={t.unique_tokens} does nothing with objective.name='instruction',"
        " which reads questions: leave it out",
    )
    given = str(data.tokenizer_path), data.doc_id, o.tasks, o.cap, o.shots

    def train(step: int, rows: np.ndarray) -> Batch:
        found = instructions.tasks(*given, "train")
        made = [instructions.row(found, (t.seed, step, int(i)), t.seq_len) for i in rows]
        return instructions.batch(made, data.doc_id)

    def held_out(split: str, max_batches: int) -> Iterator[Batch]:
        found = instructions.tasks(*given, split)
        most = max_batches * run.micro_batch or None
        rows = list(itertools.islice(instructions.held_out(found, t.seq_len), most))
        rows += [instructions.empty(t.seq_len)] * (-len(rows) % run.micro_batch)
        for first in range(0, len(rows), run.micro_batch):
            yield instructions.batch(rows[first : first + run.micro_batch], data.doc_id)

    return contract.BatchSource(train, held_out)


def check(config: ModelConfig, options: Options) -> None:
    """Refuses models that write no text, and routers that read where it comes from.

    Raises:
      UserError: with why.
    """
    next_token.check(config, options)
    schema.require(
        not config.reads_domains,
        "objective.name='instruction': questions come from no domain, and a router reads it",
    )


OBJECTIVE = contract.Objective(next_token.forward, source, Options, check, result="loss")
