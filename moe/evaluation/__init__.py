"""What is looked at. `EVALUATORS` is the whole list: a new evaluator is one file and one line here.

`EVALUATORS[name](run, data, split) -> contract.Evaluator`; the loop calls those that
`train.evaluators` names, and writes what they return.
"""

from moe.evaluation import held_out, next_tokens, routing, tasks, text

EVALUATORS = {
    "loss": held_out.loss,
    "text": text.text,
    "calibration": next_tokens.tokens,
    "tasks": tasks.tasks,
    "agreement": routing.agreement_over_a_step,
}
