"""Zero-, one- and few-shot tasks for a trained or published model, in the layout of GLaM's table.

    python -m experiments.evaluate --workdir=runs/train --tasks=piqa,copa --shots=0,1,5 --limit=200

Writes evaluation.md and evaluation.json (accuracies, bits per byte, calibration, by task), and
calibration.png, how sure the choices are and how often right.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from experiments import command, opened
from moe import schema, sealed
from moe.analysis import few_shot as tables
from moe.analysis import plots
from moe.data import questions
from moe.evaluation import few_shot
from moe.evaluation.few_shot import Reader, Result


def results(
    reader: Reader, names: Sequence[str], shots: Sequence[int], limit: int, split: str = "all"
) -> list[Result]:
    """Of every task with every number of examples that it has."""
    asked = {name: questions.read(name, limit, split=split) for name in names}
    return [few_shot.evaluate(name, k, asked[name], reader) for name, k in pairs(names, shots)]


def pairs(names: Sequence[str], shots: Sequence[int]) -> list[tuple[str, int]]:
    """Every task with every number of examples that it has.

    Raises:
      UserError: if that is none.
    """
    found = [(name, k) for name in names for k in shots if k <= questions.TASKS[name].shots]
    schema.require(
        bool(found),
        f"none of {', '.join(names)} has {' or '.join(map(str, shots))} examples: ask with fewer",
    )
    return found


def check(reader: Reader) -> None:
    """Refuses models that cannot be asked.

    Raises:
      UserError: with why.
    """
    schema.require(len(reader.model.stacks) == 1, "questions are for decoders: not for an encoder")
    schema.require(
        not reader.model.reads_domains,
        f"experts.router={reader.model.experts and reader.model.experts.router!r} reads domains,"
        " and questions come from none: evaluate a model with another router",
    )


def text(found: list[Result], longest: int) -> str:
    """The tables, and what was cut."""
    cut = max(result.cut for result in found)
    parts = [tables.table(found)]
    if any(result.p_gold for result in found):
        parts.append(f"Calibration of the choices:\n\n{tables.calibration_table(found)}")
    parts.append(
        f"Texts of more than {longest} tokens lose their beginning: at most {cut:.0%} of a task's."
    )
    left = {result.task: result.left_out for result in found if result.left_out}
    if left:
        parts.append(tables.left_out(left))
    return "\n\n".join(parts)


def main(
    workdir: str,
    names: list[str],
    shots: list[int],
    limit: int,
    longest: int,
    out: str,
    split: str = "all",
) -> None:
    """Asks the model, prints and writes the tables."""
    for name in names:
        schema.one_of("--tasks", name, questions.TASKS)
    pairs(names, shots)
    reader = opened.reader(workdir, longest)
    check(reader)
    schema.one_of("--split", split, questions.SPLITS)
    found = results(reader, names, shots, limit, split)
    said = text(found, reader.longest)
    root = pathlib.Path(out)
    root.mkdir(parents=True, exist_ok=True)
    (root / "evaluation.md").write_text(said + "\n")
    sealed.write_json(root / "evaluation.json", {"results": [plain(one) for one in found]})
    print(f"\n{said}\n\n{root / 'evaluation.md'}\n{root / 'evaluation.json'}")
    if any(result.p_gold for result in found):
        plots.save(tables.calibration_figure(found), root / "calibration.png")
        print(root / "calibration.png")


def plain(result: Result) -> dict:
    """As JSON."""
    scores = {rule: score._asdict() for rule, score in result.scores.items()}
    changed = {"scores": scores, "bits_per_byte": result.bits_per_byte._asdict()}
    return result._asdict() | changed


def _shots(said):
    schema.require(
        all(k.isdecimal() and int(k) <= questions.EXAMPLES for k in said) and said,
        f"--shots={','.join(said)}: expected numbers from 0 to {questions.EXAMPLES}, such as 0,1,5",
    )
    return [int(k) for k in said]


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", "runs/train", "A run's folder, or a checkpoint's.")
    TASKS = flags.DEFINE_list("tasks", list(questions.TASKS), "Of `moe.data.questions.TASKS`.")
    SHOTS = flags.DEFINE_list("shots", ["0", "1", "5"], "Examples before each question.")
    LIMIT = flags.DEFINE_integer("limit", 0, "The first so many questions of each; 0: all.", 0)
    SPLIT = flags.DEFINE_string(
        "split", "all", "Of the questions: test leaves out what was tuned on."
    )
    LONGEST = flags.DEFINE_integer("longest", 0, "Tokens read at once; 0: as trained.", 0)
    OUT = flags.DEFINE_string("out", "runs/evaluation", "Where the tables go.")
    command.run(
        lambda: main(
            WORKDIR.value,
            TASKS.value,
            _shots(SHOTS.value),
            LIMIT.value,
            LONGEST.value,
            OUT.value,
            SPLIT.value,
        )
    )
