"""Zero-, one- and few-shot tasks: how often a model is right, and what the right answer costs it.

Small models are near chance at most of these tasks whatever their loss is, so beside accuracy
stands the gold answer's bits per byte, which moves long before.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from moe import decoding, generation, schema
from moe.config import ModelConfig
from moe.data import questions
from moe.data.questions import Question
from moe.evaluation import answers, likelihood, ranking
from moe.evaluation.likelihood import Words

ANSWER = 32  # tokens that an open answer may have


class Reader(NamedTuple):
    """A model that reads and writes text."""

    model: ModelConfig
    params: dict
    router_state: dict
    words: Words
    longest: int  # tokens that it reads at once
    domains: tuple[str, ...] = ()  # of the text it was trained on, for routers that read them


class Mean(NamedTuple):
    """Of questions, with its standard error."""

    mean: float
    error: float


class Result(NamedTuple):
    """One task with one number of examples."""

    task: str
    shots: int
    questions: int
    cut: float  # share of texts that lost their beginning, being longer than the model reads
    scores: dict[str, Mean]  # by rule of `ranking`, or "exact_match" and "f1"
    bits_per_byte: Mean  # of the gold answers
    p_gold: list[tuple[list[float], int]]  # of choices: their probabilities, and which is right
    left_out: int = 0  # questions with an answer that is longer than the model reads


def mean(values: Sequence[float]) -> Mean:
    """With the sample's standard deviation over sqrt(N); of one value it is NaN."""
    found = np.asarray(values, float)
    error = found.std(ddof=1) / math.sqrt(len(found)) if len(found) > 1 else math.nan
    return Mean(float(found.mean()), float(error))


def evaluate(name: str, shots: int, asked: Sequence[Question], reader: Reader) -> Result:
    """Asks a model the questions of a task.

    Args:
      name: of `questions.TASKS`.
      shots: examples before each question.
      asked: the questions.
      reader: the model.

    Raises:
      UserError: if no question is short enough for it.
    """
    title = f"{name}, {shots}-shot"
    number = len(asked)
    read = [(q, _texts(q, shots, reader)) for q in asked]
    fitting = [(q, texts) for q, texts in read if _fit(q, texts, reader)]
    schema.require(
        bool(fitting), f"{title}: every question has answers of more than {reader.longest} tokens"
    )
    asked = [q for q, _ in fitting]
    texts = [text for _, own in fitting for text in own]
    log_p = _by_question(asked, _nats(texts, reader, title))
    bits = [-found[q.gold] / math.log(2) / _size(q) for q, found in zip(asked, log_p, strict=True)]
    ranked = [(q, found) for q, found in zip(asked, log_p, strict=True) if len(q.choices) > 1]
    scored = _ranked(ranked, reader, title) if ranked else _answered(name, shots, asked, reader)
    return Result(
        task=name,
        shots=shots,
        questions=len(asked),
        cut=float(np.mean([_is_cut(q, t, reader) for q, t in _with_questions(asked, texts)])),
        scores={rule: mean(values) for rule, values in scored.items()},
        bits_per_byte=mean(bits),
        p_gold=[(ranking.probabilities(found).tolist(), q.gold) for q, found in ranked],
        left_out=number - len(asked),
    )


def _texts(question, shots, reader):
    """Each choice after its context."""
    return [
        likelihood.text(reader.words, question.context(i, shots), choice)
        for i, choice in enumerate(question.choices)
    ]


def _fit(question, texts, reader):
    """Does the model read each choice at once, after its context and alone?"""
    alone = [len(reader.words.encode(choice)) for choice in question.choices]
    return max(*alone, *(len(text.scored) for text in texts)) <= reader.longest


def _with_questions(asked, texts):
    """Each text with its question."""
    of_text = (q for q in asked for _ in q.choices)
    return zip(of_text, texts, strict=True)


def _is_cut(question, text, reader):
    """Is it longer than what the model reads, an open answer included?"""
    room = reader.longest + 1 - len(text.scored)
    if len(question.choices) == 1:
        room = min(room, reader.longest - ANSWER)
    return len(text.before) > room


def _size(question):
    return len(question.choices[question.gold].removeprefix(" ").encode())


def _nats(texts, reader, title):
    given = reader.model, reader.params, reader.router_state, texts
    return likelihood.log_likelihoods(*given, longest=reader.longest, title=title)


def _by_question(asked, found_N):
    ends = np.cumsum([len(q.choices) for q in asked])[:-1]
    return np.split(found_N, ends)


def _ranked(ranked, reader, title):
    """Whether each question was answered right, by rule."""
    asked = [q for q, _ in ranked]
    alone = [likelihood.text(reader.words, "", choice) for q in asked for choice in q.choices]
    unique = list(dict.fromkeys((tuple(t.before), tuple(t.scored)) for t in alone))
    place = {pair: i for i, pair in enumerate(unique)}
    texts = [likelihood.Text(list(before), list(scored)) for before, scored in unique]
    nats_N = _nats(texts, reader, f"{title}: choices alone")
    alone_N = nats_N[[place[tuple(t.before), tuple(t.scored)] for t in alone]]
    found = [
        ranking.right(ranking.scores(log_p_C, q.choices, alone_C), q.gold)
        for (q, log_p_C), alone_C in zip(ranked, _by_question(asked, alone_N), strict=True)
    ]
    return {rule: [one[rule] for one in found] for rule in found[0]}


def _answered(name, shots, asked, reader):
    """How right each open answer is, greedily generated."""
    task = questions.TASKS[name]
    prompts = [likelihood.text(reader.words, "", q.context(0, shots)) for q in asked]
    room = reader.longest - ANSWER
    schema.require(
        room > 0,
        f"{name} needs room for {ANSWER} tokens of an answer: raise longest={reader.longest}",
    )
    ids = [[*p.before, *p.scored][-room:] for p in prompts]
    said = [
        answers.first(answers.cut(reader.words.decode(tokens), task.stop), task.words)
        for tokens in written(reader, ids, ANSWER, f"{name}, {shots}-shot: answers")
    ]
    pairs = list(zip(said, (q.answers for q in asked), strict=True))
    return {
        "exact_match": [answers.exact_match(text, gold) for text, gold in pairs],
        "f1": [answers.f1(text, gold) for text, gold in pairs],
    }


def written(
    reader: Reader, prompts: list[list[int]], steps: int, title: str, rows: int = 16
) -> list[list[int]]:
    """The most probable continuation of each prompt, up to the next document.

    Prompts of about a length go together, beside rows that are as long as the next power of two,
    so that few programs are compiled.

    Args:
      reader: the model.
      prompts: ids.
      steps: tokens of each.
      title: of the progress bar.
      rows: of a batch.
    """
    weights = decoding.prepare(reader.model, reader.params, reader.router_state)
    doc_id = reader.words.start[-1]
    ends = {doc_id, reader.words.end}
    found: list[list[int]] = [[] for _ in prompts]
    lengths_N = np.array([1 << (len(ids) - 1).bit_length() for ids in prompts])
    with tqdm.tqdm(total=len(prompts), desc=title, unit="answer", disable=None) as bar:
        for T in np.unique(lengths_N):
            chosen = np.flatnonzero(lengths_N == T)
            for few in np.split(chosen, range(rows, len(chosen), rows)):
                batch = [prompts[i] for i in few] + [[doc_id] * int(T)] * (rows + 1 - len(few))
                more = generation.generate(reader.model, weights, batch, steps, doc_id=doc_id)
                for i, ids in zip(few, more.tolist(), strict=False):
                    found[i] = list(itertools.takewhile(lambda token: token not in ends, ids))
                bar.update(len(few))
    return found
